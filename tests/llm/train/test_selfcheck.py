"""What the self-check compares of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm.settings import PretrainSettings
from llm.train import selfcheck
from llm.train.checkpoints.layout import TensorInfo
from llm.train.selfcheck import choose, spread
from tests.llm.folders import make_corpus
from tests.llm.train.runs import losses_of, train


def test_of_a_large_model_a_part_is_compared(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(selfcheck, "MOST_ELEMENTS", 2000)
    monkeypatch.setattr(selfcheck, "POINTS", 50)
    train(0, 1, str(make_corpus(tmp_path)), tmp_path / "run", steps=1)
    assert len(losses_of(tmp_path / "run")) == 1


def test_shared_weights_come_first() -> None:
    """They are the trap that releases of DeepSpeed fell into."""
    tensors = [TensorInfo("a", (10, 10)), TensorInfo("b", (3,)), TensorInfo("c", (99,), ("d",))]
    assert [info.name for info in choose(tensors, 103)] == ["b", "c"]
    assert [info.name for info in choose(tensors, 101)] == ["c"]
    assert [info.name for info in choose(tensors, 1)] == ["b"]  # at least one


def test_elements_are_spread_evenly() -> None:
    assert spread(10, 4).tolist() == [0, 2, 5, 7] and spread(3, 4).tolist() == [0, 1, 2]


def test_it_is_on() -> None:
    assert PretrainSettings().selfcheck
