"""Following metrics.jsonl: each validation once, whatever happens to the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster.places import Place
from llm.train.tracking import truncate_after
from llm.tune.tail import Tail


def row(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "time": 1.0, "loss": 2.0, **more}


def write(path: Place, rows: list[dict[str, Any]], end: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(json.dumps(r).encode() + b"\n" for r in rows) + end)


def steps(tail: Tail) -> list[int]:
    return [found["step"] for found in tail.new()]


def test_only_validations_as_they_come(place: Place) -> None:
    """On a disk and in an object store, which sends the whole file each time."""
    path = place / "metrics.jsonl"
    tail = Tail(path, -1)
    assert steps(tail) == []
    rows = [row(0), *(row(n) for n in range(1, 10)), row(10, val_loss=1.0)]
    write(path, rows[:3])
    assert steps(tail) == [0], "the first line says whether there is a validation at all"
    write(path, rows, end=b'{"step": 11, "val')
    assert steps(tail) == [10] and steps(tail) == []
    write(path, [*rows, row(11, val_loss=0.5), row(12, bits_per_byte=0.5)])
    assert steps(tail) == [11, 12]


def test_a_file_that_is_cut_back_gives_no_step_twice(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path, 5)
    rows = [row(n, val_loss=float(n)) for n in range(0, 21, 5)]
    write(path, rows)
    assert steps(tail) == [10, 15, 20], "what was known before the start is left out"
    truncate_after(path, 10)
    assert steps(tail) == []
    write(path, [*rows[:3], *rows[3:], row(25, val_loss=0.1)])
    assert steps(tail) == [25]


def test_another_file_of_the_same_length_is_seen(tmp_path: Path) -> None:
    """After a hand-over the lines are others, and the tail follows from the step that it is told."""
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path, -1)
    write(path, [row(0, val_loss=1.0), row(10, val_loss=1.0)])
    assert steps(tail) == [0, 10]
    tail.after = 5
    write(path, [row(0, val_loss=2.0), row(10, val_loss=2.0)])
    assert [found["val_loss"] for found in tail.new()] == [2.0]
