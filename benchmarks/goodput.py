"""Goodput under kills: share of the wall-clock that went into steps that counted, beside what to expect.

The real command, two ZeRO-1 workers on Ray, one of which is killed by SIGKILL in the middle of each period.
The clock runs from the first step to the end of the last period; useful are the steps that the run has at
that time, at the median time from one step to the next. Expected:
    1 - stall/interval - (interval/2 + restart)/MTTF
with checkpoint interval, stall and restart as measured in the same run (first-order model of Young 1974;
stall and restart apart as in Kokolis et al. 2024, arXiv:2410.21680).
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.ground import Ground
from benchmarks.process import end, run_module, start_module
from benchmarks.rows import Row
from cluster.errors import RunError
from llm.train.run_folder import RunFolder, read_lines

PERIODS = {60: 5, 300: 2}  # seconds between kills, and how many
EVERY_SECONDS = 5.0  # between checkpoints, about
QUICK = {60: 1}
START_SECONDS = 300.0
MANY = 100_000  # steps: more than are reached


class Kills(NamedTuple):
    """A run over some periods: when it began and ended, and when a worker was killed (Unix seconds)."""

    begin: float
    end: float
    kills: tuple[float, ...]
    rows: list[dict[str, Any]]
    """Lines of metrics.jsonl at the end: steps that were lost have none."""
    seen: list[dict[str, Any]]
    """Each line that was ever there."""


def run(ground: Ground) -> list[Row]:
    """Two rows for each period."""
    every = 2 if ground.quick else steps_between(ground)
    rows = []
    for period, count in (QUICK if ground.quick else PERIODS).items():
        found = kill_each(ground, period, count, every)
        rows.append(row_of(found, period, every))
        ground.say(f"goodput, a kill every {period} s: {rows[-1].ours:.3f}, expected {rows[-1].peer:.3f}")
    return rows


def steps_between(ground: Ground) -> int:
    """Steps that two workers take in EVERY_SECONDS."""
    out = ground.fresh("run")
    run_module(ground.log(), "llm.pretrain", *arguments(ground, out, 10, 10))
    times = [row["time"] for row in read_lines(RunFolder(out).metrics)]
    return max(1, round(EVERY_SECONDS / statistics.median(b - a for a, b in pairwise(times[2:]))))


def arguments(ground: Ground, out: Path, every: int, steps: int) -> list[str]:
    """Of the command."""
    return [
        ground.recipe_path, "--pretrain.corpus", str(ground.corpus.path), "--pretrain.out", str(out),
        "--pretrain.workers", "2", "--pretrain.zero_stage", "1", "--pretrain.steps", str(steps),
        "--pretrain.checkpoint.every", str(every), "--pretrain.validation.every", "0",
        "--pretrain.samples.every", "0", "--pretrain.max_failures", "9",
    ]  # fmt: skip


def kill_each(ground: Ground, period: int, count: int, every: int) -> Kills:
    """Train for `count` periods from the first step on, with a kill in the middle of each."""
    draw = random.Random(period)
    out, log = ground.fresh("run"), ground.log()
    folder = RunFolder(out)
    process = start_module(log, "llm.pretrain", *arguments(ground, out, every, MANY))
    seen: dict[tuple[str, int], dict[str, Any]] = {}

    def look(until: float) -> None:
        while time.time() < until:
            if process.poll() is not None:
                raise RunError(f"{log}: ended with status {process.returncode} in the middle")
            for row in read_lines(folder.metrics):
                seen[row["attempt"], row["step"]] = row
            time.sleep(0.25)

    try:
        patience = time.time() + START_SECONDS
        while not any(step == 1 for _, step in seen):
            look(time.time() + 0.5)
            if time.time() > patience:
                raise RunError(f"{folder.path}: no step within {START_SECONDS:.0f} s")
        begin = next(row["time"] for (_, step), row in seen.items() if step == 1)
        kills = []
        for number in range(count):
            look(begin + (number + 0.5) * period)
            os.kill(draw.choice(workers_of(process.pid)), signal.SIGKILL)
            kills.append(time.time())
        stop = begin + count * period
        look(stop)
        rows = [row for row in read_lines(folder.metrics) if row["time"] <= stop]
    finally:
        end(process)
    return Kills(begin, stop, tuple(kills), rows, list(seen.values()))


def workers_of(pid: int) -> list[int]:
    """Processes of Ray Train's workers under a command."""
    below = psutil.Process(pid).children(recursive=True)
    return [p.pid for p in below if "RayTrainWorker" in " ".join(p.cmdline())]


def row_of(found: Kills, period: int, every: int) -> Row:
    """Measured beside expected."""
    gaps = [
        b["time"] - a["time"]
        for a, b in pairwise(found.seen)
        if a["attempt"] == b["attempt"] and b["step"] == a["step"] + 1 > 2
    ]
    step = statistics.median(gaps)
    useful = max(row["step"] for row in found.rows) - 1
    measured = useful * step / (found.end - found.begin)
    last = {row["attempt"]: row for row in found.seen}.values()
    first = {row["attempt"]: row["time"] for row in reversed(found.seen)}.values()
    # From a kill to the first step after it, less that step itself.
    restarts = [min([t for t in first if t > kill], default=found.end) - kill - step for kill in found.kills]
    saves = sum(row["step"] // every for row in last)
    stall = sum(row["checkpoint_stall_seconds"] for row in last) / max(1, saves)
    restart, interval = statistics.median(restarts), every * step
    expected = 1 - stall / interval - (interval / 2 + restart) / period
    note = (
        f"{len(found.kills)} kills; steps of {step:.3f} s, a checkpoint every {interval:.1f} s, stall of one "
        f"{stall:.4f} s, restarts of {' '.join(f'{s:.1f}' for s in restarts)} s; difference "
        f"{measured - expected:+.3f}"
    )
    return Row(
        f"goodput, a worker killed every {period} s", "share", measured, expected, "the formula's",
        "ratio >= 0.97" if period < 300 else "ours >= 0.9", note,
    )  # fmt: skip
