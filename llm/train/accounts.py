"""What the first worker keeps of a run's numbers: where they go, and what they come to in the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from cluster.lease import Pass
from cluster.places import ObjectPath, Place
from llm.run_settings import RunSettings
from llm.train.checkpoints.layout import RunState
from llm.train.ledger import Ledger
from llm.train.mfu import Utilisation
from llm.train.run_folder import RunFolder, joined_lines, last_line
from llm.train.tracking import MetricsFile, Sink, Tracker
from llm.train.wandb_feed import WandbFeed


def open_ledger(
    folder: RunFolder, launch: str, began: float, utilisation: Utilisation, writer: Pass
) -> Ledger:
    """The run's account of its time; what its numbers are measured by is said once for each command."""
    measures = {"mfu": utilisation.describe()}
    ledger = Ledger(folder.tracking, last_line(folder.metrics), launch, began, measures, writer.check)
    if ledger.is_first_of_launch:
        print(utilisation, file=sys.stderr, flush=True)
    return ledger


def make_tracker(
    folder: RunFolder,
    scratch: Path,
    settings: RunSettings,
    state: RunState,
    config: dict[str, Any],
    metrics: MetricsFile,
    ledger: Ledger,
    beat: Callable[[], None],
) -> Tracker:
    """metrics.jsonl, W&B, the ledger. `scratch`: where W&B's folder is for a run in an object store."""
    ledger.go_back(metrics.last())
    sinks: list[Sink] = [metrics]
    if settings.wandb.mode != "disabled":
        earlier = _kept_lines(folder, state.step)
        sinks.append(open_wandb(folder.path, scratch, state.wandb_id, settings, config, earlier, beat))
    return Tracker([*sinks, _LedgerSink(ledger, metrics)])


def open_wandb(
    run: Place,
    scratch: Path,
    run_id: str,
    settings: RunSettings,
    config: dict[str, Any],
    earlier: Iterable[dict[str, Any]] = (),
    beat: Callable[[], None] = lambda: None,
) -> WandbFeed:
    """A run's W&B, new or going on; see `WandbFeed`. `scratch`: where its folder is for an object store."""
    if isinstance(run, ObjectPath):
        run = scratch
        run.mkdir(parents=True, exist_ok=True)
    return WandbFeed(run, run_id, settings.wandb, config, earlier, beat)


class _LedgerSink:
    """Takes the ledger back with the lines, and closes it after the others."""

    def __init__(self, ledger: Ledger, metrics: MetricsFile) -> None:
        self.ledger, self.metrics = ledger, metrics

    def log(self, values: dict[str, Any]) -> None:
        """The lines have their times already."""

    def go_back(self, step: int) -> None:
        self.ledger.go_back(self.metrics.last())

    def finish(self, exit_code: int) -> None:
        self.ledger.close()


def _kept_lines(folder: RunFolder, step: int) -> Iterable[dict[str, Any]]:
    """The lines up to the step that a run resumes from, read when they are asked for."""
    return takewhile(lambda row: row["step"] <= step, joined_lines(folder)) if step else ()


def totals(
    rows: Sequence[Mapping[str, Any]], utilisation: Utilisation, ledger: Ledger | None
) -> dict[str, Any]:
    """For summary.json: medians over the lines, the most memory, goodput, and what mfu was measured by."""
    return {
        **{name: middle(rows, name) for name in ("tokens_per_second", "flops_per_second", "mfu")},
        "mfu_measured_by": utilisation.describe(),
        "memory_bytes": max((row["memory_bytes"] for row in rows if "memory_bytes" in row), default=None),
        **(ledger.values() if ledger is not None else {}),
    }


def middle(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The median of a number over the lines that have it."""
    values = sorted(row[name] for row in rows if row.get(name) is not None)
    return values[len(values) // 2] if values else None
