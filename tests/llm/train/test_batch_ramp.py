"""Batches that grow: the same samples in the same order, resumed or not, on any number of workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm.settings import PretrainSettings
from llm.train.rewind import plan_of
from tests.llm.train.processes import run_workers
from tests.llm.train.runs import losses_of, rows_of, train

RAMP: dict[str, Any] = {"batch_ramp": [[3, 2], [8, 3]], "batch": 4, "steps": 12}
SIZES = [2] * 3 + [3] * 5 + [4] * 4


def train_all(rank: int, world: int, corpus: str, home: Path) -> None:
    train(rank, world, corpus, home / f"zero1-{world}", "zero1", **RAMP)


def test_samples_of_each_step() -> None:
    plan = plan_of(PretrainSettings.model_validate(RAMP), ((4, 6),))
    assert [plan.batch_size(step) for step in range(12)] == SIZES
    numbers = [int(n) for step in range(12) for n in plan.numbers(step)]
    assert numbers == [n for n in range(sum(SIZES) + 2) if n not in (4, 5)]


def test_a_run_whose_batches_grow(corpus: str, tmp_path: Path) -> None:
    """Resumed inside the ramp it is equal to the bit; two workers see the same samples."""
    train(0, 1, corpus, tmp_path / "whole", **RAMP)
    rows = [row for row in rows_of(tmp_path / "whole") if "loss" in row]
    taken = [sum(SIZES[: i + 1]) for i in range(12)]
    assert [row["samples"] for row in rows] == taken
    assert [row["tokens"] for row in rows] == [16 * n for n in taken]
    train(0, 1, corpus, tmp_path / "parts", **RAMP | {"steps": 6})
    train(0, 1, corpus, tmp_path / "parts", **RAMP)
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")
    run_workers(train_all, 2, corpus, tmp_path)
    digests = [row["sample_digest"] for row in rows_of(tmp_path / "zero1-2") if "loss" in row]
    assert digests == [row["sample_digest"] for row in rows]
