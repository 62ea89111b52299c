"""The self-check: refuses an engine with a wrong gradient, passes good ones, and leaves no trace."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.errors import RunError
from llm.settings import PretrainSettings
from llm.train import selfcheck
from llm.train.checkpoints.layout import TensorInfo
from llm.train.run_folder import RunFolder
from llm.train.selfcheck import choose, spread
from tests.llm.folders import make_corpus
from tests.llm.train.processes import run_workers
from tests.llm.train.runs import losses_of, train
from tests.llm.train.test_engines import KINDS

WRONG = "blocks.0.feed_forward"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_corpus(tmp_path_factory.mktemp("words")))


def with_and_without(rank: int, world: int, corpus: str, folder: str) -> None:
    for kind in KINDS:
        for check in (True, False):
            train(
                rank,
                world,
                corpus,
                Path(folder) / f"{kind}-{check}",
                kind,
                dropout=0.2,
                steps=3,
                selfcheck=check,
            )
    train(rank, world, corpus, Path(folder) / "bf16", "zero2", steps=2, precision="bf16")


@pytest.mark.parametrize("world", [1, 2])
def test_it_leaves_no_trace(corpus: str, tmp_path: Path, world: int) -> None:
    """Losses and samples are to the bit those without it, dropout included."""
    run_workers(with_and_without, world, corpus, str(tmp_path))
    for kind in KINDS:
        assert len(losses_of(tmp_path / f"{kind}-True")) == 3
        assert losses_of(tmp_path / f"{kind}-True") == losses_of(tmp_path / f"{kind}-False"), kind


def plant(rank: int, world: int, corpus: str, folder: str, kinds: tuple[str, ...]) -> dict[str, str]:
    """One worker's gradient of one parameter is a hundredth too large: what each engine's start says."""
    from llm.train import worker

    made, said = worker.make_engine, {}

    def spoiled(*args: Any) -> Any:
        engine = made(*args)
        if rank == world - 1:
            name = next(n for n, _ in engine.objective.model.named_parameters() if WRONG in n)
            engine.objective.model.get_parameter(name).register_hook(lambda gradient: 1.01 * gradient)
        return engine

    worker.make_engine = spoiled
    for kind in kinds:
        try:
            train(rank, world, corpus, Path(folder) / kind, kind)
        except RunError as error:
            said[kind] = str(error)
    return said


@pytest.mark.parametrize("world", [1, 2])
def test_a_wrong_gradient_is_refused(corpus: str, tmp_path: Path, world: int) -> None:
    said = run_workers(plant, world, corpus, str(tmp_path), KINDS)
    assert all(one == said[0] for one in said), "all workers say the same"
    for kind in KINDS:
        engine = "plain" if kind == "plain" else f"deepspeed at stage {kind[-1]}"
        found = re.search(
            rf"self-check: {engine} computes a wrong gradient: element \d+ of {WRONG}\S* is (\S+) on worker "
            r"[01], (\S+) by plain autograd",
            said[0][kind],
        )
        assert found is not None, said[0][kind]
        off = float(found[1]) / float(found[2]) - 1
        assert off == pytest.approx(0.01, abs=1e-3) if world == 1 else 0 < off < 0.02
        assert not losses_of(tmp_path / kind), "no step was made"
        failure = json.loads(RunFolder(tmp_path / kind).failure.read_bytes())
        assert failure["message"] == said[0][kind], "so that Ray does not try again"


def test_of_a_large_model_a_part_is_compared(corpus: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(selfcheck, "MOST_ELEMENTS", 2000)
    monkeypatch.setattr(selfcheck, "POINTS", 50)
    train(0, 1, corpus, tmp_path, steps=1)
    assert len(losses_of(tmp_path)) == 1
    tensors = [TensorInfo("a", (10, 10)), TensorInfo("b", (3,)), TensorInfo("c", (99,), ("d",))]
    assert [info.name for info in choose(tensors, 103)] == ["b", "c"]
    assert [info.name for info in choose(tensors, 1)] == ["c"]  # shared weights first: they are the trap
    assert spread(10, 4).tolist() == [0, 2, 5, 7] and spread(3, 4).tolist() == [0, 1, 2]


def test_it_is_on() -> None:
    assert PretrainSettings().selfcheck
    assert torch.tensor(list(selfcheck.TOLERANCE.values())).max() < 0.05
