"""Where a run's numbers go, and what they come to in the end."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from cluster import places
from cluster.places import Place
from llm.settings import PretrainSettings
from llm.train.accounts import make_tracker, middle, totals
from llm.train.checkpoints.layout import RunState
from llm.train.ledger import Ledger
from llm.train.mfu import Utilisation
from llm.train.run_folder import RunFolder
from llm.train.tracking import MetricsFile, Tracker
from tests.journeys.wandb_file import history

pytestmark = pytest.mark.timeout(120)
ROWS: list[dict[str, Any]] = [
    {"step": step, "loss": 1.0, "useful_seconds": 2.0 * step, "mfu": 0.1 * step, "memory_bytes": 10 - step}
    for step in range(6)
]
UTILISATION = Utilisation(10.0, 16, (1e12,), "a GPU", "bf16", "a data sheet")


def opened(place: Place, scratch: Path, step: int, mode: str) -> tuple[Tracker, Ledger]:
    """As the first worker opens it that resumes from a step."""
    folder = RunFolder(place)
    ledger = Ledger(folder.tracking, None, "one", time.time(), {})
    metrics = MetricsFile(folder.metrics, step)
    settings = PretrainSettings.model_validate({"wandb": {"mode": mode}})
    state = RunState(step, 0, 0, "run-1")
    return make_tracker(folder, scratch, settings, state, {}, metrics, ledger, lambda: None), ledger


def write_lines(place: Place) -> None:
    places.write_bytes(place / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS).encode())


def test_every_line_goes_everywhere(place: Place, tmp_path: Path) -> None:
    """Of a run that resumes from step 3: W&B has the kept lines again, and its folder is on this machine."""
    write_lines(place)
    tracker, ledger = opened(place, tmp_path / "scratch", 3, "offline")
    assert ledger.useful == 6.0
    new = {"step": 4, "loss": float("nan"), "useful_seconds": 9.0}
    tracker.log(new)
    tracker.finish(0)
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_bytes().splitlines()]
    assert lines == [*ROWS[:4], {**new, "loss": None}]
    _, rows = history(tmp_path / "scratch" if places.is_remote(place) else Path(str(place)))
    assert list(rows) == [0, 1, 2, 3, 4]


def test_a_rewind_takes_the_useful_seconds_back(place: Place, tmp_path: Path) -> None:
    write_lines(place)
    tracker, ledger = opened(place, tmp_path, 5, "disabled")
    ledger.useful += 100
    tracker.go_back(2)
    assert ledger.useful == 4.0
    tracker.finish(0)


def test_what_a_run_comes_to(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "tracking.json", None, "one", time.time() - 100, {})
    ledger.useful = 25.0
    found = totals(ROWS, UTILISATION, ledger)
    assert found["mfu"] == pytest.approx(0.3) and found["memory_bytes"] == 10
    assert found["goodput"] == pytest.approx(0.25, rel=0.1) and found["restarts"] == 0
    assert found["mfu_measured_by"]["peak_tflops"] == [1.0] and found["tokens_per_second"] is None


def test_the_median_is_of_the_lines_that_have_the_number() -> None:
    assert middle([{"a": 3.0}, {"b": 1.0}, {"a": None}, {"a": 1.0}, {"a": 2.0}], "a") == 2.0
    assert middle([{}], "a") is None
