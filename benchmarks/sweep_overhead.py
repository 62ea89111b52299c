"""What Ray Tune adds: 4 trials one after the other beside the same 4 trainings alone in a running Ray."""

from __future__ import annotations

import json
import statistics
from typing import Any

import yaml

from benchmarks.ground import Ground
from benchmarks.process import run_module
from benchmarks.rows import Row

GOAL = "ratio <= 1.25"
STEPS, TURNS = 150, 3


def rows(ground: Ground) -> list[Row]:
    """Both take turns in one process with one Ray; the turn with the median ratio is the row."""
    small = ground.small
    steps = 8 if ground.quick else STEPS
    recipe = yaml.safe_load(open(small.recipe_path, encoding="utf-8"))  # noqa: SIM115
    recipe["pretrain"] |= {
        "corpus": str(small.prepared("validated", 0.05).path), "steps": steps, "workers": 1,
        "engine": "plain",
        "validation": {"every": steps // 2, "max_samples": 32},
        "checkpoint": {"every": steps // 2, "keep": 1}, "wandb": {"mode": "offline"},
    }  # fmt: skip
    recipe["sweep"] = {
        "of": "pretrain", "search": "grid", "max_concurrent": 1,
        "space": {"pretrain.optimizer.lr": [5e-4, 1e-3, 2e-3, 3e-3]},
    }  # fmt: skip
    path, out = small.fresh("sweep").with_suffix(".yaml"), small.fresh("sweep").with_suffix(".json")
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    small.say(f"sweep: 4 trainings of {steps} steps alone and as trials, in turn")
    turns = 1 if ground.quick else TURNS
    run_module(
        small.log(), "benchmarks.sweep_process", str(path), "--folder", str(small.fresh("sweeps")),
        "--turns", str(turns), "--out", str(out),
    )  # fmt: skip
    return rows_of(json.loads(out.read_text(encoding="utf-8")), steps)


def rows_of(turns: list[dict[str, Any]], steps: int) -> list[Row]:
    """The rows of what the process has measured."""
    ratios = [turn["sweep"] / sum(turn["alone"]) for turn in turns]
    median = sorted(turns, key=lambda turn: turn["sweep"] / sum(turn["alone"]))[len(turns) // 2]
    note = (
        f"4 trainings of {steps} steps, 6.9 M parameters, plain engine, one worker with all cores; the turn "
        f"with the median ratio of {len(turns)}; ratios {' '.join(f'{ratio:.3f}' for ratio in ratios)}"
    )
    first = [turn["starts"][0] for turn in turns]
    later = [start for turn in turns for start in turn["starts"][1:]]
    single = [start for turn in turns for start in turn["alone_starts"]]
    peer = "a training alone in a running Ray"
    return [
        Row(
            "sweep, 4 trials one after the other", "s", median["sweep"], sum(median["alone"]),
            "the same 4 alone in a running Ray", GOAL, note,
        ),
        Row(
            "start of a sweep's first trial, to its first line", "s", statistics.median(first),
            statistics.median(single), peer,
            note="Tune's own start and a new process for the trial are in it",
        ),
        Row(
            "start of a trial after another, to its first line", "s", statistics.median(later),
            statistics.median(single), peer, note="the process of the trial before takes it over",
        ),
    ]  # fmt: skip
