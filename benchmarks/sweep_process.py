"""A process to time: trainings one by one in a running Ray, and the same as the trials of a sweep.

    python -m benchmarks.sweep_process RECIPE --folder FOLDER --turns 2 --out FILE

FILE gets the seconds of each, and how long each start took to its first line of metrics.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from cluster.ray_runtime import ray_session
from cluster.recipe import Recipe, load_recipe
from cluster.settings import ClusterSettings
from llm import pretrain, sweep
from llm.settings import PretrainSettings, SweepSettings
from llm.train.run_folder import read_metrics
from llm.tune.search import Search
from llm.tune.space import with_settings


def alone(recipe: Recipe, folder: Path, settings: dict[str, Any]) -> tuple[float, float]:
    """Seconds of one training, and of these those to its first line."""
    values = {
        name: section.model_dump(mode="json", exclude_unset=True) for name, section in recipe.sections.items()
    }
    own = {"pretrain.out": str(folder), "pretrain.cpus_per_worker": _cpus()}
    changed = with_settings(values, settings | own)
    sections = {**recipe.sections, "pretrain": PretrainSettings.model_validate(changed["pretrain"])}
    began = time.time()
    pretrain.run(Recipe(recipe.name, recipe.path, sections, Namespace(json=True)))
    return time.time() - began, read_metrics(folder)[0]["time"] - began


def swept(recipe: Recipe, folder: Path) -> tuple[float, list[float]]:
    """Seconds of the whole sweep, its last report included, and each trial's start."""
    began = time.time()
    sweep.main([str(recipe.path), "--sweep.out", str(folder), "--json"])
    seconds = time.time() - began
    with open(folder / "trials.csv", newline="") as file:
        return seconds, [float(row["start_seconds"]) for row in csv.DictReader(file)]


def _cpus() -> int:
    """What a trial's one worker gets where one trial runs at a time."""
    import ray

    return int(ray.cluster_resources()["CPU"])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep_process", description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    recipe = load_recipe(options.recipe, {"sweep.max_concurrent": "1"})
    trials = Search(recipe.need(SweepSettings), "min").ahead()
    rows = []
    with ray_session(recipe.get(ClusterSettings)):
        alone(recipe, options.folder / "warm", trials[0])
        for turn in range(options.turns):
            singles = [
                alone(recipe, options.folder / f"alone-{turn}-{number}", settings)
                for number, settings in enumerate(trials)
            ]
            seconds, starts = swept(recipe, options.folder / f"sweep-{turn}")
            rows.append(
                {
                    "alone": [whole for whole, _ in singles],
                    "alone_starts": [start for _, start in singles],
                    "sweep": seconds,
                    "starts": starts,
                }
            )
    options.out.write_text(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
