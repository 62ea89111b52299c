"""What a training says while it goes, and at its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm.pretrain import in_a_line
from llm.train.progress import in_words, seconds_left, time_left
from llm.train.run_folder import last_lines


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "about 1 s left"),
        (119, "about 119 s left"),
        (130, "about 2 min left"),
        (9000, "about 2.5 h left"),
    ],
)
def test_time_left(seconds: float, words: str) -> None:
    assert time_left(seconds) == words


def test_a_run_without_validation_documents_says_so() -> None:
    assert in_words({"step": 0, "time": 1.0}) == "no validation documents"
    assert in_words({"step": 0, "time": 1.0, "val_loss": 9.0}) == "val 9.0000"
    assert in_words({"step": 5, "loss": 2.0}) == "loss 2.0000"


SUMMARY: dict[str, Any] = {
    "parameters": 1200,
    "steps": 5,
    "loss": 2.0,
    "val_loss": None,
    "bits_per_byte": None,
}


def test_the_last_line_has_no_nan() -> None:
    told = in_a_line(SUMMARY)
    assert "no validation documents (corpus.val_fraction)" in told and "nan" not in told
    gpt = in_a_line({**SUMMARY, "val_loss": 2.5, "bits_per_byte": 1.25})
    assert gpt.endswith("validation 2.5000, 1.2500 bits per byte")
    bert = in_a_line({**SUMMARY, "val_loss": 2.5, "val_masked_accuracy": 0.25})
    assert bert.endswith("validation 2.5000, masked accuracy 0.2500")


def lines(
    begin: int, end: int, seconds: float = 2.0, apart: dict[int, float] | None = None, **more: Any
) -> list[dict[str, Any]]:
    """Lines of metrics; `apart`: seconds that lay before a step."""
    found, now, useful = [], 1000.0, 0.0
    for step in range(begin, end):
        took = more.pop("first") if step == begin and "first" in more else seconds
        now, useful = now + took + (apart or {}).get(step, 0.0), useful + took
        row = {"step": step, "time": now, "useful_seconds": useful, "step_seconds": took, "workers": 2}
        found.append(row | {"attempt": "a"} | more)
    return found


def test_what_is_left_is_told_from_the_steps() -> None:
    assert seconds_left(lines(1, 11), 110) == pytest.approx(200)
    assert seconds_left(lines(1, 11), 10) == 0
    assert seconds_left([], 10) is None
    assert seconds_left([{"step": 0, "time": 1.0, "val_loss": 9.0}], 10) is None


def test_a_slow_first_step_says_nothing_of_the_others() -> None:
    assert seconds_left(lines(1, 11, first=60.0), 110) == pytest.approx(200)


def test_what_lies_between_steps_counts_as_often_as_it_comes() -> None:
    """A validation of 50 s each 100 steps is half a second a step; just after one it is no more."""
    just_after = lines(195, 206, apart={201: 50.0})
    assert seconds_left(just_after, 305, cadence=100) == pytest.approx(100 * 2.5)
    over_two = lines(1, 202, apart={101: 50.0, 201: 50.0})
    assert seconds_left(over_two, 301, cadence=100) == pytest.approx(100 * 2.5)


def test_a_restart_is_no_slow_step() -> None:
    before = lines(1, 11)
    after = [row | {"time": row["time"] + 600} for row in lines(9, 12, attempt="b")]
    assert seconds_left([*before, *after], 111) == pytest.approx(200)


def test_other_workers_have_another_speed() -> None:
    rows = [*lines(1, 31, seconds=2.0), *lines(31, 33, seconds=4.0, attempt="b", workers=1)]
    assert seconds_left(rows, 132) == pytest.approx(400)


def test_old_lines_without_useful_seconds_still_say() -> None:
    rows = [{"step": step, "time": 1000.0 + 3 * step, "step_seconds": 2.0} for step in range(1, 9)]
    assert seconds_left(rows, 108) == pytest.approx(200)


def test_the_last_lines_are_whole_ones(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert last_lines(file) == []
    rows = [{"step": step, "note": "x" * 100} for step in range(1000)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 1000, "no')
    found = last_lines(file)
    assert 50 < len(found) < 1000 and found == rows[-len(found) :]


def test_utilisation_is_told_where_it_is_known() -> None:
    assert in_words({"step": 5, "loss": 2.0, "mfu": 0.4321}) == "loss 2.0000  mfu 43.2%"
