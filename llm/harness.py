"""Run tasks of EleutherAI's lm-evaluation-harness on a model: `python -m llm.harness RUN --tasks NAME`.

The tasks and their data lie on this disk; nothing is fetched.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
from pathlib import Path
from typing import Any

from cluster.errors import UserError, run_command
from llm.evaluation.harness import import_harness, make_lm
from llm.loading import load


def main(argv: list[str]) -> int:
    options = _parser().parse_args(argv)
    names = [name for part in options.tasks for name in part.split(",") if name]
    for name, least in (("limit", 1), ("fewshot", 0), ("batch", 1)):
        if getattr(options, name) is not None and getattr(options, name) < least:
            raise UserError(f"--{name} must be at least {least}, it is {getattr(options, name)}")
    harness = import_harness()
    manager = _tasks(harness, options.include_path, names)
    loaded = load(options.run)
    found = harness.simple_evaluate(
        make_lm(loaded, options.batch), tasks=names, task_manager=manager, limit=options.limit,
        num_fewshot=options.fewshot, log_samples=False,
    )  # fmt: skip
    result = {
        "step": loaded.step,
        "harness": harness.__version__,
        "limit": options.limit,
        "tasks": {name: _numbers(values) for name, values in found["results"].items()},
        "samples": {name: counts["effective"] for name, counts in found["n-samples"].items()},
    }
    print(json.dumps(result) if options.json else _words(result))
    return 0


def _tasks(harness: Any, folder: str, names: list[str]) -> Any:
    """The task manager of a folder. UserError where a task is not there."""
    if not Path(folder).is_dir():
        raise UserError(f"--include_path {folder}: no such folder")
    manager = harness.tasks.TaskManager(include_path=folder, include_defaults=False)
    for name in names:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, n=1)
            hint = (
                f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(manager.all_tasks) or 'none'}"
            )
            raise UserError(f"--tasks {name}: no such task in {folder}; {hint}")
    return manager


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    """The metrics of a task: `acc` where the harness says `acc,none`, and `acc,filter` of others."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in values.items()
        if "," in name and isinstance(value, int | float) and math.isfinite(value)
    }


def _words(result: dict[str, Any]) -> str:
    lines = []
    for name, numbers in result["tasks"].items():
        count = f", {result['samples'][name]:,} samples" if name in result["samples"] else ""
        lines.append(f"{name}{count}, step {result['step']}")
        for metric, value in numbers.items():
            base, _, filtered = metric.partition(",")
            if not base.endswith("_stderr"):
                error = numbers.get(f"{base}_stderr" + (f",{filtered}" if filtered else ""))
                spread = f" (standard error {error:.4f})" if error is not None else ""
                lines.append(f"  {metric}  {value:.4f}{spread}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llm.harness", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("run", metavar="RUN", help="a run folder, one of its checkpoints, or an imported model")
    add(
        "--tasks",
        action="append",
        required=True,
        metavar="NAME",
        help="a task, several by commas; again for more",
    )
    add(
        "--include_path", "--include-path", required=True, metavar="DIR",
        help="folder of the task files (YAML), as the harness' own --include_path",
    )  # fmt: skip
    add("--limit", type=int, metavar="N", help="only the first N samples of each task")
    add("--fewshot", type=int, metavar="N", help="solved samples before each (default: what the task says)")
    add("--batch", type=int, default=16, help="rows at once (default 16)")
    add("--json", action="store_true", help="one JSON object on stdout")
    return parser


if __name__ == "__main__":
    run_command(main)
