"""The loader alone: its speed beside what training consumes, its memory as the corpus grows."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks import train
from benchmarks.bare_loop import random_batch
from benchmarks.ground import Ground
from benchmarks.loader_memory import BATCH, LENGTH, made_up_corpus, order_of, write_corpus
from benchmarks.process import run_module
from benchmarks.rows import Row
from llm.data.batches import BatchPlan
from llm.data.loader import Loader
from llm.data.order import order_of_corpus

GOAL, MEMORY_GOAL = "ratio >= 50", "ours <= 4"
RUNS, MEMORY_RUNS = 7, 3
SECONDS = 2.0  # of each run
SIZES = (1, 10, 100)
MIB = 1 << 20
ORDER_TOKENS = 5_000_000_000_000
ORDER_CALL = 16 * 1024  # samples of a call: 16 batches of 1,024
NEEDED = 10_000_000 / LENGTH  # samples/s of a cluster that trains on 10 M tokens/s


def run(ground: Ground) -> list[Row]:
    """All rows of the loader."""
    training = train.consumed(ground)
    length = ground.pretrain.length
    rows = [loader_row(ground, each, training) for each in (length, 8 * length)]
    return [*rows, bare_row(ground, rows[0].ours), order_row(ground), *memory_rows(ground)]


def loader_row(ground: Ground, length: int, training: float) -> Row:
    """The loader over the recipe's corpus, in wall-clock, its thread and digests included."""
    rates = loader_rates(ground, length)
    batch = ground.pretrain.batch
    return Row(
        f"loader, L {length:,}",
        "tokens/s",
        statistics.median(rates),
        training,
        f"what training the {ground.recipe.name} recipe consumes here, 1 worker",
        GOAL,
        f"batch {batch}, memory-mapped, verified when opened, steps in their order; {_spread(rates)}",
    )


def bare_row(ground: Ground, ours: float) -> Row:
    """The loader beside the bare loop's way to make a batch: no order, no digest, no thread."""
    settings, chance = ground.pretrain, np.random.default_rng(0)
    tokens = np.memmap(ground.tokens, "<u2", "r")
    batch = settings.batch * settings.length

    def some() -> int:
        for _ in range(64):
            random_batch(tokens, settings.batch, settings.length, chance)
        return 64 * batch

    rates = rates_of(some, *_effort(ground))
    note = f"the bare loop draws with replacement and checks nothing; the peer's {_spread(rates)}"
    peer_name = "random windows of a memory-mapped file, torch.from_numpy"
    return Row(
        f"loader, L {settings.length:,}", "tokens/s", ours, statistics.median(rates), peer_name, note=note
    )


def order_row(ground: Ground) -> Row:
    """Sample numbers to places in a corpus of 5T tokens."""
    order = order_of(made_up_corpus(ORDER_TOKENS))
    samples = sum(order.samples_per_epoch)
    chance = np.random.default_rng(0)

    def some() -> int:
        first = int(chance.integers(samples))
        order.rows(np.arange(first, first + ORDER_CALL, dtype=np.int64))
        return ORDER_CALL

    rates = rates_of(some, *_effort(ground))
    return Row(
        "order, 5T tokens, 5 sources, L 2,048",
        "samples/s",
        statistics.median(rates),
        NEEDED,
        "what training on 10 M tokens/s takes",
        note=f"calls of {ORDER_CALL:,} consecutive samples anywhere in epoch 0; {_spread(rates)}",
    )


def memory_rows(ground: Ground) -> list[Row]:
    """How much more memory the loader's process holds over a corpus 10 and 100 times as large."""
    base, steps = (20_000, 20) if ground.quick else (2_000_000, 6200)  # 6,200 steps read the largest once
    folders = []
    for times in SIZES:
        folders.append(ground.fresh("shards"))
        ground.say(f"writing {2 * base * times / 1e6:,.1f} MB of shards")
        write_corpus(folders[-1], base * times)
    on_disk = peaks(ground, "disk", [str(folder) for folder in folders], steps)
    for folder in folders:
        shutil.rmtree(folder)
    made_up = peaks(ground, "order", [str(ORDER_TOKENS // 100 * times) for times in SIZES], min(steps, 640))
    return [
        memory_row(f"memory, corpus on disk, up to {200 * base / 1e6:,.0f} MB", on_disk, steps),
        memory_row("memory, order and loader, up to 5T tokens", made_up, min(steps, 640)),
    ]


def memory_row(what: str, medians: Sequence[float], steps: int) -> Row:
    """Growth from the smallest corpus to the worst of the larger ones."""
    figures = ", ".join(f"{times}x {value / MIB:.2f}" for times, value in zip(SIZES, medians, strict=True))
    note = f"peak RssAnon in MiB of a process that takes {steps:,} batches of {BATCH} x {LENGTH:,}: {figures}"
    growth = (max(medians[1:]) - medians[0]) / MIB
    return Row(f"{what}: growth over 1x", "MiB", growth, goal=MEMORY_GOAL, note=note)


def peaks(ground: Ground, kind: str, whats: Sequence[str], steps: int) -> list[float]:
    """Median peak in bytes for each size; sizes take turns."""
    found: list[list[int]] = [[] for _ in whats]
    for _ in range(1 if ground.quick else MEMORY_RUNS):
        for what, values in zip(whats, found, strict=True):
            out = ground.fresh("peak")
            options = ("--steps", str(steps), "--out", str(out))
            run_module(ground.log(), "benchmarks.loader_memory", kind, what, *options)
            values.append(json.loads(out.read_bytes()))
    ground.say(
        f"memory, {kind}: {', '.join(str([round(v / MIB, 2) for v in values]) for values in found)} MiB"
    )
    return [statistics.median(values) for values in found]


def loader_rates(ground: Ground, length: int) -> list[float]:
    """Tokens/s of several runs of the loader, each over steps that come after those of the run before."""
    settings, corpus = ground.pretrain, ground.corpus
    many = 1 << 30
    order = order_of_corpus(corpus, "train", None, many, length, settings.seed)
    loader = Loader(corpus, "train", order, BatchPlan([(0, settings.batch)]), 0, 1, settings.batch)
    with loader.iterate(0, many) as batches:

        def some() -> int:
            return sum(next(batches).tokens for _ in range(64))

        return rates_of(some, *_effort(ground))


def rates_of(some: Callable[[], int], runs: int, seconds: float) -> list[float]:
    """Units a second of `some`, which does some of the work and says how much: `runs` runs of `seconds`."""
    some()
    rates = []
    for _ in range(runs):
        done, start = 0, time.perf_counter()
        while (now := time.perf_counter()) - start < seconds or not done:
            done += some()
        rates.append(done / (now - start))
    return rates


def _effort(ground: Ground) -> tuple[int, float]:
    return (3, 0.05) if ground.quick else (RUNS, SECONDS)


def _spread(rates: Sequence[float]) -> str:
    return f"median of {len(rates)} runs, {min(rates):,.0f} to {max(rates):,.0f}"
