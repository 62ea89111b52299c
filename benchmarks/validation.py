"""What validation costs the steps: by the training worker itself, and beside it on another Ray worker.

The real command, one worker with one thread, checkpoints at the same steps: without validation, with it on
another worker, with it on the trainer, in turns. A gap is the time from one line of metrics.jsonl to the
next. Those of a validation: on the trainer the one gap that it stands in; beside it all from the checkpoint's
line until the numbers are found, so the evaluator's start counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.ground import Ground
from benchmarks.process import run_module
from benchmarks.rows import Row
from cluster.errors import RunError
from llm.train.run_folder import RunFolder, read_lines, read_metrics

WARM_UP = 5  # steps whose gaps do not count
VALIDATIONS = 3  # on the way, in each run
STEPS_BETWEEN = 20
SAMPLES = 128
TURNS = 3


class Gaps(NamedTuple):
    """Seconds from a step to the next, by the step before; and those of each validation on the way."""

    all: dict[int, float]
    of_validations: list[list[float]]


def run(ground: Ground) -> list[Row]:
    """Two rows: all steps beside a validation, and the longest at one."""
    corpus = ground.prepared("validated", 0.3 if ground.quick else 0.05)
    without, beside, trainer = list[Gaps](), list[Gaps](), list[Gaps]()
    for number in range(1 if ground.quick else TURNS):
        for found, where in ((without, None), (beside, "workers"), (trainer, "trainer")):
            found.append(measured(ground, corpus.path, where))
        step = statistics.median(without[-1].all.values())
        ground.say(
            f"validation {number + 1}: steps of {step:.3f} s, {_median(beside[-1]):.3f} s beside one; "
            f"largest gap {_largest(beside[-1]):.3f} s, on the trainer {_largest(trainer[-1]):.3f} s"
        )
    return rows_of(without, beside, trainer)


def rows_of(without: Sequence[Gaps], beside: Sequence[Gaps], trainer: Sequence[Gaps]) -> list[Row]:
    """Medians over the turns."""
    steps = [statistics.median(gaps.all.values()) for gaps in without]
    pairs = sorted(
        (_median(ours) / step, _median(ours), step) for ours, step in zip(beside, steps, strict=True)
    )
    _, ours, peer = pairs[len(pairs) // 2]
    counts = [len(gaps.of_validations) for gaps in beside]
    note = (
        f"1 worker, 1 thread; {sum(counts)} validations of {SAMPLES} samples, one every {STEPS_BETWEEN} steps"
    )
    largest = [[_largest(g) / step for g, step in zip(x, steps, strict=True)] for x in (beside, trainer)]
    return [
        Row(
            "step while another worker validates", "seconds", ours, peer, "the same run without validation",
            "ratio <= 1.1", f"{note}; the pair with the median ratio; ratios "
            + " ".join(f"{r:.3f}" for r, *_ in pairs),
        ),
        Row(
            "largest gap between steps at a validation by another worker", "median steps",
            statistics.median(largest[0]), statistics.median(largest[1]), "by the worker that trains", None,
            f"{note}; each run's median over its validations: ours "
            + " ".join(f"{r:.2f}" for r in sorted(largest[0]))
            + ", peer " + " ".join(f"{r:.2f}" for r in sorted(largest[1])),
        ),
    ]  # fmt: skip


def measured(ground: Ground, corpus: Path, where: str | None) -> Gaps:
    """One run of the command; `where` None: without validation."""
    out, every = ground.fresh("run"), 3 if ground.quick else STEPS_BETWEEN
    validations = 1 if ground.quick else VALIDATIONS
    options = ("--pretrain.validation.where", where) if where else ()
    run_module(
        ground.log(), "llm.pretrain", ground.recipe_path, "--pretrain.corpus", str(corpus),
        "--pretrain.out", str(out), "--pretrain.workers", "1", "--pretrain.cpus_per_worker", "1",
        "--cluster.num_cpus", "2", "--pretrain.steps", str((validations + 1) * every),
        "--pretrain.checkpoint.every", str(every), "--pretrain.samples.every", "0",
        "--pretrain.samples.prompts", "[]", "--pretrain.wandb.mode", "disabled",
        "--pretrain.validation.every", str(every if where else 0),
        "--pretrain.validation.max_samples", str(SAMPLES), *options,
    )  # fmt: skip
    rows = read_metrics(out)
    if len({row["attempt"] for row in rows}) > 1:
        raise RunError(f"{out}: a worker was lost and started again; nothing was measured")
    return gaps_of(rows, list(read_lines(RunFolder(out).validation)), 0 if ground.quick else WARM_UP)


def gaps_of(rows: Sequence[Mapping[str, Any]], late: Sequence[Mapping[str, Any]], warm_up: int) -> Gaps:
    """The gaps after the warm-up. `late`: lines of validation.jsonl, empty where the trainer validates."""
    times = {row["step"]: row["time"] for row in rows}
    end = max(times)
    gaps = {a: times[b] - times[a] for a, b in pairwise(sorted(times)) if a >= warm_up}
    found = {row["step"]: row["time"] for row in late if "val_loss" in row}
    if not late:
        found = {row["step"]: row["time"] for row in rows if "val_loss" in row}
    spans = [
        [gap for step, gap in gaps.items() if times[at] <= times[step] <= time]
        for at, time in found.items()
        if warm_up <= at < end
    ]
    return Gaps(gaps, [span for span in spans if span])


def _median(gaps: Gaps) -> float:
    return statistics.median([gap for span in gaps.of_validations for gap in span])


def _largest(gaps: Gaps) -> float:
    return statistics.median(max(span) for span in gaps.of_validations)
