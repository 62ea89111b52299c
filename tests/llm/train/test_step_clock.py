"""What logged lines say of a run's time, over whole runs in this process."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from llm.train.group import Group
from llm.train.ledger import read_clock
from tests.llm.folders import make_corpus
from tests.llm.train.processes import run_workers
from tests.llm.train.runs import rows_of, train

pytestmark = pytest.mark.timeout(120)
QUICK: dict[str, Any] = {"selfcheck": False}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_corpus(tmp_path_factory.mktemp("words")))


def assert_useful_is_the_sum(rows: list[dict[str, Any]]) -> None:
    """Each step in the history once, whatever was done again."""
    useful = 0.0
    for row in rows[1:]:
        useful += row["step_seconds"]
        assert row["useful_seconds"] == pytest.approx(useful)
        assert row["goodput"] == pytest.approx(row["useful_seconds"] / row["wall_seconds"])
        assert 0 < row["goodput"] <= 1


def test_a_run_that_goes_on(corpus: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(0, 1, corpus, run, steps=8, **QUICK)  # its last checkpoint is of step 8
    before = rows_of(run)
    train(0, 1, corpus, run, steps=16, **QUICK)
    rows = rows_of(run)
    assert rows[: len(before)] == before
    assert [row["step"] for row in rows] == list(range(17))
    assert_useful_is_the_sum(rows)
    assert [row["restarts"] for row in rows[1:]] == [0] * 8 + [1] * 8
    assert all(b["wall_seconds"] > a["wall_seconds"] for a, b in pairwise(rows[1:]))
    clock = read_clock(run / "tracking.json")
    assert clock is not None and clock.wall(clock.seen) >= rows[-1]["wall_seconds"]


def test_steps_that_a_rewind_drops_are_not_useful(corpus: str, tmp_path: Path) -> None:
    guard = {"spike_sigma": 20, "window": 8, "on_spike": "rewind", "rewind_steps": 3}
    train(0, 1, corpus, tmp_path / "run", fault="train.loss:sample=45:1000", guard=guard, **QUICK)
    rows = rows_of(tmp_path / "run")
    assert [row["step"] for row in rows if "rewound_from" in row] == [6]
    assert_useful_is_the_sum(rows)


def test_a_checkpoint_has_its_line(corpus: str, tmp_path: Path) -> None:
    """Also between the logged steps: whoever goes on from it goes on with its useful seconds."""
    run = tmp_path / "run"
    train(0, 1, corpus, run, log_every=3, **QUICK)
    rows = rows_of(run)
    assert [row["step"] for row in rows] == [0, 3, 5, 6, 9, 10, 12, 15, 16]
    assert all(row["memory_bytes"] > 1 << 20 and row["flops_per_second"] > 0 for row in rows[1:])
    assert rows[-1]["useful_seconds"] > sum(row["step_seconds"] for row in rows[1:])


def largest(rank: int, world: int) -> list[float]:
    return Group(rank, world, torch.device("cpu")).max([float(rank), -float(rank), 7.5])


def test_the_fullest_worker_counts() -> None:
    assert run_workers(largest, 2) == [[1.0, 0.0, 7.5]] * 2
