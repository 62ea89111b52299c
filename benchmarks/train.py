"""The whole stack beside a bare PyTorch loop: tokens/s of one worker, same model, batch, precision, threads.

Ours is the real `python -m llm.pretrain`: Ray Train, DeepSpeed ZeRO-1, the loader, each step logged to
metrics.jsonl and W&B. The peer is bare_loop.py. Both are processes of their own that take turns, so that a
machine whose speed drifts gives both the same; the clock runs from the end of the last warm-up step to the
end of the last step, over everything between.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from benchmarks.ground import Ground
from benchmarks.machine import cores
from benchmarks.process import run_module
from benchmarks.rows import Row
from cluster.errors import RunError
from llm.train.run_folder import read_metrics

GOAL = "ratio >= 0.95"
PEER = "bare PyTorch loop, one process"
WARM_UP = 5  # steps before the clock: first calls choose kernels and allocate
SECONDS = 25.0  # of timed steps in each run
PAIRS = 5  # odd: the median pair is a measured one
NO_RAY = ("--pretrain.launch", "here", "--pretrain.engine", "plain")


class Pair(NamedTuple):
    """Tokens/s of one run of ours and of the peer's run after it."""

    ours: float
    peer: float
    detail: str = ""  # where our time went

    @property
    def ratio(self) -> float:
        return self.ours / self.peer


def run(ground: Ground) -> list[Row]:
    """One row, in the recipe's own precision."""
    row = compare(ground, ground.pretrain.precision)
    ground.consumed = row.ours
    return [row]


def compare(ground: Ground, precision: str) -> Row:
    """Pairs in turn; the row is the pair with the median ratio."""
    steps = timed_steps(ground, precision)
    pairs = []
    for number in range(1 if ground.quick else PAIRS):
        rate, detail = ours(ground, precision, steps)
        pair = Pair(rate, peer(ground, precision, steps), detail)
        pairs.append(pair)
        ground.say(
            f"train {precision} {number + 1}: {pair.ours:,.0f}, bare {pair.peer:,.0f}, {pair.ratio:.3f}"
        )
    return row_of(ground, precision, steps, pairs)


def row_of(
    ground: Ground,
    precision: str,
    steps: int,
    pairs: Sequence[Pair],
    what: str = "whole stack, 1 worker",
    goal: str = GOAL,
    peer_name: str = PEER,
) -> Row:
    """The row of an odd number of pairs."""
    assert len(pairs) % 2, "the median must be a pair that was measured"
    median = sorted(pairs, key=lambda pair: pair.ratio)[len(pairs) // 2]
    middle = Pair(statistics.median(p.ours for p in pairs), statistics.median(p.peer for p in pairs))
    note = (
        f"{ground.recipe.name} recipe, {cores()} threads, {steps} timed steps a run; the pair with "
        f"the median ratio of {len(pairs)} in turn; ratios {_figures([p.ratio for p in pairs], '.3f')}; "
        f"ours {_figures([p.ours for p in pairs], '.0f')}; peer {_figures([p.peer for p in pairs], '.0f')}; "
        f"ratio of the medians {middle.ratio:.3f}; {median.detail}"
    )
    return Row(
        f"training, {what}, {precision}",
        "tokens/s",
        median.ours,
        median.peer,
        peer_name,
        goal,
        note,
    )


def timed_steps(ground: Ground, precision: str) -> int:
    """Steps that take the peer SECONDS, by a short run that also warms the machine."""
    if ground.quick:
        return 4
    short = 10
    rate = peer(ground, precision, short)
    return max(short, round(SECONDS * rate / tokens_of_step(ground)))


def ours(
    ground: Ground,
    precision: str,
    steps: int,
    options: Sequence[str] = (),
    workers: int = 1,
    cpus: int | None = None,
) -> tuple[float, str]:
    """Tokens/s of our command over `steps` steps after the warm-up, and where its time went.

    `cpus`: threads of each worker (default: all cores). An option stands over what is given here.
    """
    out, all_steps, cpus = ground.fresh("run"), str(WARM_UP + steps), cpus or cores()
    run_module(
        ground.log(),
        "llm.pretrain",
        ground.recipe_path,
        *("--pretrain.corpus", str(ground.corpus.path), "--pretrain.out", str(out)),
        *(
            "--pretrain.workers",
            str(workers),
            "--pretrain.zero_stage",
            "1",
            "--pretrain.precision",
            precision,
        ),
        *("--pretrain.cpus_per_worker", str(cpus), "--cluster.num_cpus", str(workers * cpus)),
        *(
            "--pretrain.steps",
            all_steps,
            "--pretrain.checkpoint.every",
            all_steps,
            "--pretrain.log_every",
            "1",
        ),
        # What the peer does not do stands outside the clock: one checkpoint and no text, after the last step.
        *(
            "--pretrain.validation.every",
            "0",
            "--pretrain.samples.every",
            "0",
            "--pretrain.samples.prompts",
            "[]",
        ),
        *("--pretrain.wandb.mode", "offline"),
        *options,
    )
    rows = read_metrics(out)
    if len({row["attempt"] for row in rows}) > 1:
        raise RunError(f"{ground.recipe.name}: a worker was lost and started again; nothing was measured")
    rate = rate_of({row["step"]: row["time"] for row in rows}, steps, tokens_of_step(ground))
    return rate, detail_of(rows)


def detail_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """How much of our time after the warm-up was no training, by the trainer's own clock."""
    timed = [row for row in rows if row["step"] > WARM_UP]
    whole = timed[-1]["time"] - rows[WARM_UP]["time"]
    waiting = sum(row["data_wait_seconds"] for row in timed)
    between = whole - sum(row["step_seconds"] for row in timed)
    shares = (waiting / whole, between / whole)
    return "of our time {:.1%} waited for data, {:.1%} lay between steps".format(*shares)


def peer(ground: Ground, precision: str, steps: int) -> float:
    """Tokens/s of the bare loop over `steps` steps after the warm-up."""
    [rate] = bare_loops(ground, precision, steps, 1, ground.pretrain.batch, cores())
    return rate


def bare_loops(
    ground: Ground, precision: str, steps: int, count: int, batch: int, threads: int = 1
) -> list[float]:
    """Tokens/s of each of `count` bare loops that run at once."""
    outs = [ground.fresh("bare") for _ in range(count)]
    arguments = [
        ground.recipe_path,
        *("--tokens", str(ground.tokens), "--vocab", str(ground.corpus.tokenizer.vocab_size)),
        *("--steps", str(WARM_UP + steps), "--precision", precision, "--threads", str(threads)),
        *("--batch", str(batch)),
    ]
    with ThreadPoolExecutor(count) as pool:
        runs = [
            pool.submit(run_module, ground.log(), "benchmarks.bare_loop", *arguments, "--out", str(out))
            for out in outs
        ]
        for run in runs:
            run.result()
    rates = []
    for out in outs:
        done = json.loads(out.read_bytes())
        times = {i: at for i, (at, _) in enumerate(done, 1)}
        rates.append(rate_of(times, steps, batch * ground.pretrain.length))
    return rates


def consumed(ground: Ground) -> float:
    """Tokens/s that training takes from the loader: measured by `run`, else by one short run."""
    if ground.consumed is None:
        precision = ground.pretrain.precision
        steps, options = (4, NO_RAY) if ground.quick else (timed_steps(ground, precision), ())
        ground.consumed, _ = ours(ground, precision, steps, options)
    return ground.consumed


def rate_of(times: Mapping[int, float], steps: int, tokens: int) -> float:
    """Tokens/s of the steps after the warm-up, from the wall-clock at each step's end (1 is the first)."""
    return steps * tokens / (times[WARM_UP + steps] - times[WARM_UP])


def tokens_of_step(ground: Ground) -> int:
    return ground.pretrain.batch * ground.pretrain.length


def _figures(values: Sequence[float], form: str) -> str:
    return " ".join(format(value, form) for value in values)
