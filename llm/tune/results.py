"""What a sweep came to: which trial is best, the table, the summary, and the folder of the best."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster import places
from cluster.places import Place
from llm.train.checkpoints.layout import INDEX
from llm.train.checkpoints.save import committed_folders, step_of
from llm.train.guard import finite
from llm.train.run_folder import RunFolder
from llm.tune.exploit import copy_file, copy_tree
from llm.tune.folder import SweepFolder
from llm.tune.ledger import Trial
from llm.tune.rules import Mode, is_better

LEFT_OUT = ("wandb", "plans", "checkpoints", "tokenizer", "examples")


@dataclass(frozen=True)
class Row:
    """A trial at its best: the validation that is compared, and the checkpoint of that step."""

    trial: Trial
    step: int
    numbers: Mapping[str, Any]
    checkpoint: str | None
    """Name of its folder; None: none was kept of a validation, so it cannot be taken from this trial."""

    def value(self, metric: str) -> float | None:
        found = self.numbers.get(metric)
        return None if found is None else float(found)


def row_of(trial: Trial, checkpoints: Iterable[tuple[int, str]], metric: str, mode: Mode) -> Row:
    """A trial's best validation among those with a checkpoint; of one that has none, its newest.

    `checkpoints`: step and name of each that is there.
    """
    best: Row | None = None
    for step, name in sorted(checkpoints):
        if step in trial.results:
            row = Row(trial, step, trial.results[step], name)
            if best is None or is_better(row.value(metric), best.value(metric), mode):
                best = row
    return best or Row(trial, max(trial.last_step, 0), trial.numbers(), None)


def rows_of(folder: SweepFolder, trials: Iterable[Trial], metric: str, mode: Mode) -> list[Row]:
    """A row for each trial, by what lies in its run folder."""
    rows = []
    for trial in trials:
        found = committed_folders(RunFolder(folder.trial(trial.name)).checkpoints)
        rows.append(row_of(trial, [(step_of(child), child.name) for child in found], metric, mode))
    return rows


def best_row(rows: Iterable[Row], metric: str, mode: Mode) -> Row | None:
    """The best of those that have a checkpoint; the earlier trial where two are alike. None: no one has."""
    best: Row | None = None
    for row in rows:
        if row.checkpoint is None or row.trial.status in ("failed", "running"):
            continue
        if is_better(row.value(metric), None if best is None else best.value(metric), mode):
            best = row
    return best


def table(rows: Sequence[Row]) -> bytes:
    """trials.csv: a row a trial; metrics are those of its step."""
    metrics = list(dict.fromkeys(name for row in rows for name in row.numbers))
    settings = list(dict.fromkeys(name for row in rows for name in row.trial.settings))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    fixed = ("seconds", "start_seconds", "parent", "checkpoint", "why")
    writer.writerow(["trial", "status", "step", *metrics, *settings, *fixed])
    for row in rows:
        trial = row.trial
        start = "" if trial.start_seconds is None else f"{trial.start_seconds:.1f}"
        writer.writerow(
            [
                trial.name, trial.status, row.step,
                *(_cell(row.numbers.get(name)) for name in metrics),
                *(_cell(trial.settings.get(name)) for name in settings),
                f"{trial.seconds:.1f}", start, trial.parent or "", row.checkpoint or "",
                " ".join(trial.why.split()),
            ]
        )  # fmt: skip
    return out.getvalue().encode()


def _cell(value: Any) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def summary_of(rows: Sequence[Row], metric: str, mode: Mode, sweep_id: str, seconds: float) -> dict[str, Any]:
    """summary.json; that it is there says that the sweep is finished."""
    counts = {status: sum(row.trial.status == status for row in rows) for status in
              ("finished", "stopped_early", "diverged", "failed")}  # fmt: skip
    best = best_row(rows, metric, mode)
    return {
        "finished": True,
        "sweep_id": sweep_id,
        "trials": len(rows),
        "completed": counts["finished"],
        "stopped_early": counts["stopped_early"],
        "diverged": counts["diverged"],
        "metric": metric,
        "mode": mode,
        "seconds": seconds,
        "exploits": sum(row.trial.exploits for row in rows),
        "best": None
        if best is None
        else {
            "trial": best.trial.name,
            "step": best.step,
            "settings": best.trial.settings,
            "metrics": finite(best.numbers),
            "checkpoint": best.checkpoint,
        },
    }


def write_best(folder: SweepFolder, row: Row) -> None:
    """best/: a run folder with the best checkpoint alone. What was there of another is replaced."""
    assert row.checkpoint is not None
    run, best = RunFolder(folder.trial(row.trial.name)), RunFolder(folder.best)
    best.settings.unlink(missing_ok=True)  # from here on until the end it is no run folder
    places.delete_tree(best.path)
    copy_tree(run.checkpoints / row.checkpoint, best.checkpoints / row.checkpoint, last=INDEX)
    copy_tree(run.tokenizer, best.tokenizer)
    for child in run.path.iterdir():
        if not _is_left_out(child) and child.is_file():
            copy_file(child, best.path / child.name)
    _only_this_checkpoint(best, row)
    copy_file(run.settings, best.settings)


def _only_this_checkpoint(best: RunFolder, row: Row) -> None:
    """The copied summary names this checkpoint as the best: by the sweep's metric it is."""
    if (summary := best.read_summary()) is not None:
        found = summary.get("best_checkpoint") or {}
        found |= {"folder": row.checkpoint, "step": row.step, "val_loss": row.numbers.get("val_loss")}
        places.write_json(best.summary, summary | {"best_checkpoint": found})


def _is_left_out(child: Place) -> bool:
    return child.name.startswith(".") or child.name in LEFT_OUT or child.name == "settings.json"


def as_text(rows: Sequence[Row], metric: str, mode: Mode, most: int = 20) -> str:
    """The table for a terminal, the best first."""
    worst_last = sorted(rows, key=lambda row: _order(row.value(metric), mode))
    names = list(dict.fromkeys(name for row in rows for name in row.trial.settings))
    short = {name: name.split(".")[-1] for name in names}
    if len(set(short.values())) < len(names):
        short = {name: name for name in names}
    lines = [["trial", "status", "step", metric, *short.values(), "seconds"]]
    for row in worst_last[:most]:
        lines.append(
            [
                row.trial.name, row.trial.status, str(row.step), _number(row.value(metric)),
                *(_number(row.trial.settings.get(name)) for name in names), f"{row.trial.seconds:.0f}",
            ]
        )  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    if len(rows) > most:
        text.append(f"... and {len(rows) - most} more in trials.csv")
    return "\n".join(line.rstrip() for line in text)


def _order(value: float | None, mode: Mode) -> float:
    if value is None or value != value:
        return float("inf")
    return value if mode == "min" else -value


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
