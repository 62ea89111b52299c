"""Engines agree: the plain engine, which is torch alone, is the truth for DeepSpeed ZeRO."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llm.model import make_model
from llm.model.inputs import Inputs
from llm.settings import ModelSettings, OffloadSettings, OptimizerSettings
from llm.train.objective import Objective
from tests.llm.train.processes import run_workers

SHAPE = {"layers": 2, "width": 33 * 2, "heads": 3, "hidden": 70, "context": 16}  # sizes that do not divide
MODELS = {kind: ModelSettings.model_validate({"kind": kind, **SHAPE}) for kind in ("gpt", "bert")}
VOCAB, BATCH, STEPS = 97, 8, 20
OPTIMIZER = OptimizerSettings(lr=2e-3, clip=1.0)


def make_engine(
    kind: str, world: int, precision: str = "fp32", accumulation: int = 2, model: str = "gpt"
) -> Any:
    objective = Objective(make_model(MODELS[model], VOCAB, seed=3), precision)
    if kind == "plain":
        from llm.train.plain import PlainEngine

        return PlainEngine(objective, OPTIMIZER, world)
    from llm.train.deepspeed_zero import ZeroEngine

    stage, offloaded = int(kind[4]), kind.endswith("cpu")
    offload = OffloadSettings(
        optimizer="cpu" if offloaded else "none", parameters="cpu" if offloaded and stage == 3 else "none"
    )
    return ZeroEngine(
        objective, OPTIMIZER, world, stage, BATCH // world // accumulation, accumulation, offload
    )


def batch_of(step: int, model: str) -> Inputs:
    generator = torch.Generator().manual_seed(step)
    start = torch.randint(0, VOCAB, (BATCH, 1), generator=generator)
    ids = (
        start + 5 * torch.arange(17)
    ) % VOCAB  # learnable: on noise, Adam amplifies the last bit of any sum
    weights = (torch.rand(BATCH, 16, generator=generator) > 0.2).float()  # unequal work for the workers
    inputs = Inputs(ids[:, :-1], ids[:, 1:], weights)
    if model == "gpt":
        return inputs
    places = torch.rand(BATCH, 16, generator=generator).argsort(1)[:, :5]
    return Inputs(
        inputs.ids,  # all shown as they are: quickly learnt
        inputs.ids.gather(1, places),
        weights[:, :5],
        places,
        (torch.arange(16) >= 12).long().expand(BATCH, 16),  # padding
        (torch.arange(16) >= 6).long().expand(BATCH, 16),
        (ids[:, 0] % 2).contiguous(),
        (torch.arange(BATCH) % 3 > 0).float(),
    )


def part_of(inputs: Inputs, part: int, parts: int) -> Inputs:
    return Inputs._make(None if t is None else t.chunk(parts)[part] for t in inputs)


def train_steps(
    engine: Any, rank: int, world: int, first: int, last: int, accumulation: int = 2, model: str = "gpt"
) -> list[Any]:
    """(losses by term, gradient norm) of each step."""
    records = []
    for step in range(first, last):
        whole = batch_of(step, model)
        assert whole.weights is not None
        counts = {"tokens": float(whole.weights.sum())}
        if whole.next_weights is not None:
            counts["pairs"] = float(whole.next_weights.sum())
        units = engine.objective.model.terms.values()
        scales = torch.tensor([1 / counts[unit] for unit in units])
        sums = torch.zeros(len(scales))
        for i in range(accumulation):
            micro = part_of(part_of(whole, rank, world), i, accumulation)
            sums += engine.accumulate(micro, scales, last=i == accumulation - 1)
        if world > 1:
            torch.distributed.all_reduce(sums)
        records.append((*(sums * scales).tolist(), engine.norm()))
        engine.step(lr=2e-3)
    return records


def all_kinds(
    rank: int, world: int, kinds: tuple[str, ...], precision: str, accumulation: int, model: str
) -> dict[str, Any]:
    return {
        kind: train_steps(
            make_engine(kind, world, precision, accumulation, model),
            rank,
            world,
            0,
            STEPS,
            accumulation,
            model,
        )
        for kind in kinds
    }


KINDS = ("plain", "zero0", "zero1", "zero2", "zero3", "zero2-cpu", "zero3-cpu")


@pytest.mark.parametrize(
    ("world", "accumulation", "model"), [(1, 2, "gpt"), (2, 1, "gpt"), (2, 2, "gpt"), (2, 2, "bert")]
)
def test_stages_and_plain_agree(world: int, accumulation: int, model: str) -> None:
    """fp32, 20 steps: losses and gradient norms of every stage equal plain's within 1e-5 relative."""
    runs = run_workers(all_kinds, world, KINDS, "fp32", accumulation, model)[0]
    for kind in KINDS[1:]:
        torch.testing.assert_close(
            torch.tensor(runs[kind]),
            torch.tensor(runs["plain"]),
            rtol=1e-5,
            atol=0,
            msg=lambda m, k=kind: f"{k}: {m}",
        )
    assert runs["plain"][0][0] > runs["plain"][-1][0] + 0.05, "nothing was learnt, so equality says little"
