"""Which checkpoints are validated beside the training, and at which line their numbers stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import llm
from llm.settings import PretrainSettings
from llm.train.validations import (
    SENT_AGAIN,
    LateRows,
    Needs,
    is_due,
    join,
    late_losses,
    most_samples,
    passed_over,
)
from tests.llm.folders import write_run


def settings_of(steps: int = 25, every: int = 10) -> PretrainSettings:
    values = {"steps": steps, "validation": {"every": every, "max_samples": 8}}
    return PretrainSettings.model_validate(values)


def found_of(checkpoint: str, step: int, loss: float | None = 2.0, most: int | None = 8) -> dict[str, Any]:
    return {
        "step": step,
        "checkpoint": checkpoint,
        "max_samples": most,
        "val_loss": loss,
        "bits_per_byte": 1.5,
    }


def joined(rows: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list(join(rows, found))


def test_due_are_the_multiples_and_the_last() -> None:
    assert [step for step in range(1, 26) if is_due(step, settings_of())] == [10, 20, 25]
    assert [step for step in range(1, 26) if is_due(step, settings_of(every=0))] == [25]
    assert [most_samples(step, settings_of()) for step in (10, 20, 25)] == [8, 8, None]


def test_a_number_stands_at_the_line_of_its_checkpoint() -> None:
    """One of a checkpoint that a rewind took away stands nowhere, though its step has come again."""
    rows = [{"step": 9}, {"step": 10, "checkpoint": "again", "loss": 3.0}]
    late = [
        found_of("before", 10, 9.0),
        found_of("again", 10, 2.0),
        {"step": 20, "checkpoint": "later", "failed": "x"},
    ]
    assert joined(rows, late) == [
        {"step": 9},
        {"step": 10, "checkpoint": "again", "loss": 3.0, "val_loss": 2.0, "bits_per_byte": 1.5},
    ]
    assert joined(rows, late[:1]) == rows
    assert joined(rows, []) == rows


def test_the_last_line_of_a_checkpoint_counts() -> None:
    """Validated on the way, and again over all samples when it became the last."""
    assert joined(
        [{"step": 25, "checkpoint": "c"}], [found_of("c", 25, 2.0), found_of("c", 25, 2.5, None)]
    ) == [{"step": 25, "checkpoint": "c", "val_loss": 2.5, "bits_per_byte": 1.5}]


@pytest.mark.parametrize(
    ("row", "step", "needed"),
    [
        (None, 10, True),
        (None, 15, False),
        (found_of("c", 10), 10, False),
        (found_of("c", 10, None), 10, False),  # its loss is not finite: that is a number, too
        ({"step": 10, "checkpoint": "c", "passed_over": True}, 10, False),
        ({"step": 25, "checkpoint": "c", "failed": "why"}, 25, False),
        (found_of("c", 25), 25, True),  # the last one takes all samples
        (found_of("c", 25, most=None), 25, False),
        (found_of("other", 10), 10, True),
    ],
)
def test_what_is_still_needed(row: dict[str, Any] | None, step: int, needed: bool) -> None:
    assert Needs(settings_of(), [row] if row else [])("c", step) is needed


def test_the_newest_has_its_turn_and_older_ones_while_they_are_there() -> None:
    assert passed_over([], []) == []
    assert passed_over(["d"], []) == []
    assert passed_over(["d", "c", "b", "a"], {"d", "c"}) == ["b", "a"]
    assert passed_over(["d", "c"], {"d", "c", "b"}) == []


def test_losses_that_are_no_numbers_are_compared_with_nothing() -> None:
    lines = [found_of("a", 10, 2.0), found_of("b", 20, None), {"step": 30, "checkpoint": "c", "failed": "x"}]
    assert late_losses(lines) == {"a": 2.0}


def test_read_metrics_has_them(tmp_path: Path) -> None:
    """A torn last line, left by a killed driver of long ago, is passed over."""
    lines = [{"step": 0, "val_loss": 5.0}, {"step": 10, "loss": 3.0, "checkpoint": "c"}]
    late = json.dumps(found_of("c", 10)) + '\n{"step": 20, "che'
    run = write_run(tmp_path / "run", lines, **{"validation.jsonl": late})
    assert [row.get("val_loss") for row in llm.read_metrics(run)] == [5.0, 2.0]


def test_each_late_number_is_handed_on_once() -> None:
    lines = [found_of(f"c{step}", step) for step in range(1, SENT_AGAIN + 3)]
    first = list(lines)
    late = LateRows(lambda: list(lines), 3600.0)
    lines.append({"step": 98, "checkpoint": "failed", "failed": "x"})
    lines.append(found_of("new", 99, None))
    late.close()
    again = [{"step": row["step"], "val_loss": 2.0, "bits_per_byte": 1.5} for row in first[-SENT_AGAIN:]]
    assert late.take() == [*again, {"step": 99, "val_loss": None, "bits_per_byte": 1.5}]
    assert late.take() == []


def test_a_place_that_is_away_costs_no_number() -> None:
    away = [True]

    def read() -> list[dict[str, Any]]:
        if away[0]:
            raise OSError("away")
        return [found_of("c", 10)]

    late = LateRows(read, 3600.0)
    away[0] = False
    late.close()
    assert [row["step"] for row in late.take()] == [10]
