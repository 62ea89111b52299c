"""Engines agree: the plain engine, which is torch alone, is the truth for DeepSpeed ZeRO."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llm.model.gpt import GPT
from llm.settings import ModelSettings, OptimizerSettings
from llm.train.objective import Objective
from tests.llm.train.processes import run_workers

MODEL = ModelSettings(layers=2, width=33 * 2, heads=3, hidden=70, context=16)  # sizes that do not divide
VOCAB, BATCH, STEPS = 97, 8, 20
OPTIMIZER = OptimizerSettings(lr=2e-3, clip=1.0)


def make_engine(kind: str, world: int, precision: str = "fp32", accumulation: int = 2) -> Any:
    objective = Objective(GPT(MODEL, VOCAB, seed=3), precision)
    if kind == "plain":
        from llm.train.plain import PlainEngine

        return PlainEngine(objective, OPTIMIZER, world)
    from llm.train.deepspeed_zero import ZeroEngine

    return ZeroEngine(
        objective, OPTIMIZER, world, int(kind[-1]), BATCH // world // accumulation, accumulation
    )


def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    start = torch.randint(0, VOCAB, (BATCH, 1), generator=generator)
    ids = (
        start + 5 * torch.arange(17)
    ) % VOCAB  # learnable: on noise, Adam amplifies the last bit of any sum
    weights = (torch.rand(BATCH, 16, generator=generator) > 0.2).float()  # unequal work for the workers
    return ids[:, :-1], ids[:, 1:], weights


def train_steps(
    engine: Any, rank: int, world: int, first: int, last: int, accumulation: int = 2
) -> list[Any]:
    records = []
    for step in range(first, last):
        ids, targets, weights = (t.chunk(world)[rank].chunk(accumulation) for t in batch_of(step))
        scale = 1 / float(batch_of(step)[2].sum())
        loss = torch.zeros(())
        for i in range(accumulation):
            loss += engine.accumulate(ids[i], targets[i], weights[i], scale, last=i == accumulation - 1)
        if world > 1:
            torch.distributed.all_reduce(loss)
        records.append((loss.item() * scale, engine.step(lr=2e-3)))
    return records


def all_kinds(
    rank: int, world: int, kinds: tuple[str, ...], precision: str, accumulation: int
) -> dict[str, Any]:
    return {
        kind: train_steps(
            make_engine(kind, world, precision, accumulation), rank, world, 0, STEPS, accumulation
        )
        for kind in kinds
    }


KINDS = ("plain", "zero0", "zero1", "zero2", "zero3")


@pytest.mark.parametrize(("world", "accumulation"), [(1, 2), (2, 1), (2, 2)])
def test_stages_and_plain_agree(world: int, accumulation: int) -> None:
    """fp32, 20 steps: losses and gradient norms of every stage equal plain's within 1e-5 relative."""
    runs = run_workers(all_kinds, world, KINDS, "fp32", accumulation)[0]
    for kind in KINDS[1:]:
        torch.testing.assert_close(
            torch.tensor(runs[kind]),
            torch.tensor(runs["plain"]),
            rtol=1e-5,
            atol=0,
            msg=lambda m, k=kind: f"{k}: {m}",
        )
    assert runs["plain"][0][0] > runs["plain"][-1][0] + 0.05, "nothing was learnt, so equality says little"
