"""Our models beside those of transformers: training, memory, generation; confined attention beside plain.

Same architecture, shape, batch, precision, threads. Both sides train in one process and take turns, so that a
machine whose speed drifts gives both the same. Peak memory is that of a process of its own.
"""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

import torch

import llm
from benchmarks.ground import Ground
from benchmarks.machine import cores
from benchmarks.model_pairs import KINDS, Shape, our_model, their_model, training_step
from benchmarks.rows import Row
from cluster.errors import RunError
from cluster.recipe import ROOT
from llm.model.generation import generate
from llm.model.gpt import GPT
from llm.model.inputs import Inputs
from llm.model.sampling import Sampling
from llm.settings import ModelSettings

SMALL = Shape(layers=6, width=256, heads=4, vocab=8192, batch=16, length=256)
WIDE = Shape(layers=6, width=256, heads=4, vocab=32_768, batch=4, length=1024)
QUICK = Shape(layers=1, width=32, heads=2, vocab=512, batch=2, length=32)
PAIRS = 5  # odd: the median ratio is a measured one
TRIED = (
    "under the goal: matrix products and the attention kernel, the same on both sides, are nine tenths of "
    "our step. Tried for the rest: logits in chunks that stay in the cache, oneDNN's layout for two products "
    "of the output layer, a softmax in place, larger chunks in bf16 (slower)"
)
DOCUMENTS = 8  # in a packed row


def run(ground: Ground) -> list[Row]:
    """All rows; the goals are those of the whole table, and of each row never below the peer."""
    torch.set_num_threads(cores())
    rows = list(training_rows(ground))
    rows += list(memory_rows(ground))
    rows += list(generation_rows(ground))
    rows += list(confined_rows(ground))
    return rows


def shapes(ground: Ground) -> list[tuple[Shape, float]]:
    """Each shape with the least ratio of speed that is wanted there."""
    return [(QUICK, 1.0)] if ground.quick else [(SMALL, 1.0), (WIDE, 1.3)]


def training_rows(ground: Ground) -> Iterator[Row]:
    """Tokens/s of training, ours over theirs, and the geometric mean of all ratios."""
    ratios = []
    for shape, least in shapes(ground):
        for kind in KINDS:
            for precision in ("fp32", "bf16"):
                for mode in ("eager", "compiled"):
                    row = training_row(ground, kind, shape, precision, mode, least)
                    ratios.append(row.ratio or 0.0)
                    yield row
    mean = math.exp(statistics.fmean(math.log(ratio) for ratio in ratios))
    yield Row(
        "training, geometric mean of the ratios", "times", mean, 1.0, "transformers", "ratio >= 1.1",
        f"of the {len(ratios)} rows above",
    )  # fmt: skip


def training_row(ground: Ground, kind: str, shape: Shape, precision: str, mode: str, least: float) -> Row:
    torch._dynamo.reset()
    steps = [
        training_step(kind, side, shape, precision == "bf16", mode == "compiled")
        for side in ("ours", "theirs")
    ]
    ours, theirs, ratios = in_turn(steps, 1 if ground.quick else PAIRS)
    tried = "" if theirs / ours >= least else f"; {TRIED}"
    tokens = shape.batch * shape.length
    what = f"training {kind}, {precision}, {mode}, vocabulary {shape.vocab:,}, sequence {shape.length}"
    ground.say(f"models {what}: {statistics.median(ratios):.3f}")
    return Row(
        what, "tokens/s", tokens / ours, tokens / theirs, KINDS[kind], f"ratio >= {least:.1f}",
        f"{shape}; {cores()} threads; median of {len(ratios)} pairs in turn: "
        + " ".join(f"{ratio:.3f}" for ratio in sorted(ratios)) + tried,
    )  # fmt: skip


def in_turn(steps: list[Callable[[], object]], pairs: int) -> tuple[float, float, list[float]]:
    """Seconds of both sides in the pair with the median ratio, and all ratios (theirs over ours)."""
    for step in steps:
        step()  # the first calls compile and allocate
        step()
    taken = []
    for _ in range(pairs):
        seconds = []
        for step in steps:
            begin = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - begin)
        taken.append((seconds[1] / seconds[0], *seconds))
    _, ours, theirs = sorted(taken)[len(taken) // 2]
    return ours, theirs, [ratio for ratio, *_ in taken]


def memory_rows(ground: Ground) -> Iterator[Row]:
    """Peak resident memory of three training steps, less what was there after the imports."""
    for shape, least in shapes(ground):
        for kind in KINDS:
            for precision in ("fp32", "bf16"):
                ours, theirs = (peak_mib(kind, side, shape, precision) for side in ("ours", "theirs"))
                what = f"peak memory of training {kind}, {precision}, vocabulary {shape.vocab:,}"
                ground.say(f"models {what}: {ours / theirs:.3f}")
                goal = "ratio <= 0.5" if least > 1 else "ratio <= 1.0"
                yield Row(
                    what, "MiB", ours, theirs, KINDS[kind], None if ground.quick else goal,
                    f"{shape}, sequence {shape.length}; a process each",
                )  # fmt: skip


def peak_mib(kind: str, side: str, shape: Shape, precision: str) -> float:
    words = [sys.executable, "-m", "benchmarks.model_pairs", kind, side]
    words += [word for name, value in asdict(shape).items() for word in (f"--{name}", str(value))]
    words += ["--bf16"] if precision == "bf16" else []
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"{' '.join(words[1:])} ended with status {done.returncode}:\n{done.stderr[-800:]}")
    return float(done.stdout.split()[-1])


def generation_rows(ground: Ground) -> Iterator[Row]:
    """Tokens/s of writing on with a cache, ours over `generate` of transformers, greedy."""
    shape = QUICK if ground.quick else Shape(layers=6, width=256, heads=4, vocab=8192, batch=1, length=512)
    large = Shape(layers=12, width=768, heads=12, vocab=8192, batch=1, length=512)
    for kind in ("gpt2", "llama"):
        for of in (shape,) if ground.quick else (shape, large):
            for rows in (1, 8):
                row = generation_row(ground, kind, of, rows)
                ground.say(f"models {row.what}: {row.ratio:.3f}")
                yield row


def generation_row(ground: Ground, kind: str, shape: Shape, rows: int) -> Row:
    prompt, tokens = (4, 8) if ground.quick else (64, 64)
    ids = torch.randint(5, shape.vocab, (rows, prompt), generator=torch.Generator().manual_seed(0))
    model, theirs = our_model(kind, shape).eval(), their_model(kind, shape).eval()
    sampling = Sampling(tokens=tokens, temperature=0)

    def write() -> None:
        assert isinstance(model, GPT)
        assert sum(1 for _ in generate(model, ids.tolist(), sampling)) == rows * tokens

    def write_theirs() -> None:
        with torch.inference_mode():
            found = theirs.generate(  # type: ignore[operator]
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False,
                eos_token_id=None, pad_token_id=0, use_cache=True,
            )  # fmt: skip
        assert found.shape == (rows, prompt + tokens)

    ours, their_seconds, ratios = in_turn([write, write_theirs], 1 if ground.quick else PAIRS)
    return Row(
        f"generation {kind}, width {shape.width}, {rows} at once", "tokens/s", rows * tokens / ours,
        rows * tokens / their_seconds, f"generate of {KINDS[kind]}", "ratio >= 1.5",
        f"{shape.layers} layers, vocabulary {shape.vocab:,}, fp32, greedy, {tokens} tokens after {prompt}, "
        f"the prompt's time in it; {cores()} threads; pairs " + " ".join(f"{r:.3f}" for r in sorted(ratios)),
    )  # fmt: skip


def confined_rows(ground: Ground) -> Iterator[Row]:
    """A training step with attention confined to documents, over one with plain packed attention."""
    shape = shapes(ground)[-1][0]
    for precision in ("fp32", "bf16"):
        step = packed_step(shape, precision == "bf16")
        confined, plain, ratios = in_turn(
            [lambda step=step: step(True), lambda step=step: step(False)],  # type: ignore[misc]
            1 if ground.quick else PAIRS,
        )
        ground.say(f"models confined, {precision}: {confined / plain:.3f}")
        pairs = " ".join(f"{1 / ratio:.3f}" for ratio in sorted(ratios))
        yield Row(
            f"training step with confined attention, {precision}, sequence {shape.length}", "seconds",
            confined, plain, "the same with plain packed attention", "ratio <= 1.3",
            f"{shape}; {DOCUMENTS} documents a row; pairs {pairs}",
        )  # fmt: skip


def packed_step(shape: Shape, bf16: bool) -> Callable[[bool], None]:
    """A step without the optimizer's part over rows of several documents, confined or not."""
    model = llm.build(
        ModelSettings(layers=shape.layers, width=shape.width, heads=shape.heads, context=shape.length),
        shape.vocab,
    )
    ids = torch.randint(0, shape.vocab, (shape.batch, shape.length + 1))
    documents = (torch.arange(shape.length) * DOCUMENTS // shape.length).expand(shape.batch, -1)

    def step(confined: bool) -> None:
        inputs = Inputs(
            ids[:, :-1], ids[:, 1:], torch.ones(shape.batch, shape.length),
            documents=documents if confined else None,
        )  # fmt: skip
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = model.losses(inputs)[0]
        loss.backward()
        model.zero_grad(set_to_none=True)

    return step
