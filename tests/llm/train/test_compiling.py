"""Compiled training and activation checkpointing: the same losses as without."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llm.model import make_model
from llm.settings import ModelSettings
from llm.train.compiling import compile_model
from llm.train.objective import Objective
from llm.train.plain import PlainEngine
from tests.llm.train.processes import run_workers
from tests.llm.train.test_engines import MODELS, OPTIMIZER, VOCAB, batch_of, make_engine, train_steps


def trained(how: Any, kind: str, steps: int = 4) -> list[Any]:
    objective = Objective(make_model(MODELS[kind], VOCAB, seed=3), "fp32")
    compile_model(objective, how)
    engine = PlainEngine(objective, OPTIMIZER, 1)
    records = train_steps(engine, 0, 1, 0, steps, model=kind)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert engine.forward(batch_of(0, kind), "measures").isfinite().all()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before, "only training is compiled"
    return records


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["gpt", "bert"])
@pytest.mark.parametrize("how", ["blocks", "whole"])
def test_compiled_training_has_the_same_losses(how: str, kind: str) -> None:
    torch._dynamo.reset()
    compiled, eager = trained(how, kind), trained("none", kind)
    torch.testing.assert_close(torch.tensor(compiled), torch.tensor(eager), rtol=1e-5, atol=0)


def test_a_compiled_model_keeps_its_names() -> None:
    """A checkpoint of a compiled run is one of any other."""
    objective = Objective(make_model(MODELS["gpt"], VOCAB, seed=3), "fp32")
    names = [name for name, _ in objective.model.named_parameters()]
    for how in ("blocks", "whole"):
        compile_model(objective, how)  # type: ignore[arg-type]
        assert [name for name, _ in objective.model.named_parameters()] == names


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_block_is_compiled_in_training() -> None:
    torch._dynamo.reset()
    shape = {"layers": 1, "width": 16, "heads": 1, "context": 16}
    objective = Objective(make_model(ModelSettings.model_validate(shape), VOCAB, seed=3), "fp32")
    compile_model(objective, "blocks")
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    train_steps(PlainEngine(objective, OPTIMIZER, 1), 0, 1, 0, 1)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before


def saved_bytes(checkpointing: bool) -> tuple[int, torch.Tensor]:
    """What training keeps for the gradients, and the losses."""
    settings = MODELS["gpt"].model_copy(update={"dropout": 0.1})
    objective = Objective(make_model(settings, VOCAB, seed=3), "fp32").train()
    objective.model.activation_checkpointing = checkpointing
    weights = {p.data_ptr() for p in objective.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        losses = objective(batch_of(0, "gpt"))
    held = sum(kept.values())
    losses[0].backward()
    return held, torch.cat(
        [losses.detach(), *(p.grad.view(-1) for p in objective.parameters() if p.grad is not None)]
    )


def test_activation_checkpointing_keeps_less_and_changes_nothing() -> None:
    """Losses and gradients are equal to the bit, dropout included."""
    (much, plain), (little, again) = saved_bytes(False), saved_bytes(True)
    assert little < much / 2
    assert torch.equal(plain, again)


def checkpointed(rank: int, world: int) -> dict[str, tuple[Any, Any]]:
    found = {}
    for kind in ("plain", "zero2", "zero3"):
        records = []
        for on in (False, True):
            engine = make_engine(kind, world)
            engine.objective.model.activation_checkpointing = on
            records.append(train_steps(engine, rank, world, 0, 2))
        found[kind] = (records[0], records[1])
    return found


def test_activation_checkpointing_with_every_engine() -> None:
    for kind, (plain, again) in run_workers(checkpointed, 2)[0].items():
        assert plain == again, kind
