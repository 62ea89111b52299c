"""What the workers are told of validations beside them, out of the run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm.settings import PretrainSettings
from llm.train.beside import keep_of, late_rows, read_beside
from llm.train.checkpoints.retention import Keep
from llm.train.run_folder import RunFolder

LINES: list[dict[str, Any]] = [
    {"step": 10, "checkpoint": "a", "max_samples": 8, "val_loss": 2.0},
    {"step": 20, "checkpoint": "b", "passed_over": True},
]


def settings_of(where: str) -> PretrainSettings:
    values = {
        "steps": 50,
        "validation": {"every": 10, "where": where},
        "checkpoint": {"every": 10, "keep_best": 2},
    }
    return PretrainSettings.model_validate(values)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "validation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return RunFolder(tmp_path)


def test_losses_count_and_what_has_no_line_waits(folder: RunFolder) -> None:
    beside = read_beside(folder, settings_of("workers"))
    assert beside.losses == {"a": 2.0}
    asked = [("a", 10), ("b", 20), ("c", 30), ("d", 35)]
    assert [beside.needs(name, step) for name, step in asked] == [False, False, True, False]


def test_where_the_trainer_validates_nothing_waits(folder: RunFolder) -> None:
    """What other workers had found before still counts."""
    beside = read_beside(folder, settings_of("trainer"))
    assert beside.losses == {"a": 2.0} and not beside.needs("c", 30)


def test_a_run_without_any_has_nothing(tmp_path: Path) -> None:
    assert read_beside(RunFolder(tmp_path), settings_of("trainer")).losses == {}
    late = late_rows(RunFolder(tmp_path))
    late.close()
    assert late.take() == []


def test_what_is_kept_is_as_the_recipe_says() -> None:
    assert keep_of(settings_of("workers")) == Keep(newest=3, every=None, best=2)
