"""Engines agree: the plain engine, which is torch alone, is the truth for DeepSpeed ZeRO."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from llm.model import make_model
from llm.model.inputs import Inputs
from llm.settings import ModelSettings
from llm.train.objective import Objective
from llm.training_settings import OffloadSettings, OptimizerSettings
from tests.llm.train.processes import run_workers

SHAPE = {"layers": 2, "width": 33 * 2, "heads": 3, "hidden": 70, "context": 16}  # sizes that do not divide
MODELS = {kind: ModelSettings.model_validate({"kind": kind, **SHAPE}) for kind in ("gpt", "bert")}
VOCAB, BATCH, STEPS = 97, 8, 20
OPTIMIZER = OptimizerSettings(lr=2e-3, clip=1.0)
OPTIMIZERS = {
    "adam": OptimizerSettings(kind="adam", lr=2e-3, weight_decay=0.01),
    "sgd": OptimizerSettings(kind="sgd", lr=2e-3, momentum=0.9, weight_decay=0.01, embedding_decay=0.0),
    "lion": OptimizerSettings(kind="lion", lr=2e-3, beta2=0.99, vector_decay=0.02),
    "muon": OptimizerSettings(kind="muon", lr=2e-3),
}


def make_engine(
    kind: str,
    world: int,
    precision: str = "fp32",
    accumulation: int = 2,
    model: str = "gpt",
    optimizer: OptimizerSettings = OPTIMIZER,
) -> Any:
    objective = Objective(make_model(MODELS[model], VOCAB, seed=3), precision)
    if kind == "plain":
        from llm.train.plain import PlainEngine

        return PlainEngine(objective, optimizer, world)
    from llm.train.deepspeed_zero import ZeroEngine

    stage, offloaded = int(kind[4]), kind.endswith("cpu")
    offload = OffloadSettings(
        optimizer="cpu" if offloaded else "none", parameters="cpu" if offloaded and stage == 3 else "none"
    )
    return ZeroEngine(
        objective, optimizer, world, stage, BATCH // world // accumulation, accumulation, offload
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


def all_optimizers(
    rank: int, world: int, kinds: tuple[str, ...], precision: str
) -> dict[tuple[str, str], list[Any]]:
    return {
        (name, kind): train_steps(make_engine(kind, world, precision, optimizer=optimizer), rank, world, 0, 8)
        for name, optimizer in OPTIMIZERS.items()
        for kind in kinds
    }


def test_every_optimizer_agrees() -> None:
    """fp32: two workers at each stage against one process of torch alone."""
    kinds = ("plain", "zero0", "zero1", "zero2", "zero3", "zero3-cpu")
    alone = run_workers(all_optimizers, 1, ("plain",), "fp32")[0]
    compare(run_workers(all_optimizers, 2, kinds, "fp32")[0], lambda name: alone[name, "plain"], 1e-5)


@pytest.mark.slow
def test_every_optimizer_agrees_in_bf16() -> None:
    """It rounds anew for each way of adding up: stages against stage 1, within 1e-3."""
    runs = run_workers(all_optimizers, 2, ("zero1", "zero2", "zero3"), "bf16")[0]
    compare(runs, lambda name: runs[name, "zero1"], 1e-3)


def compare(runs: dict[tuple[str, str], Any], truth: Callable[[str], Any], tolerance: float) -> None:
    for (name, kind), found in runs.items():
        wanted = truth(name)
        torch.testing.assert_close(
            torch.tensor(found)[:, :-1],
            torch.tensor(wanted)[:, :-1],
            rtol=tolerance,
            atol=0,
            msg=lambda m, n=name, k=kind: f"{n} {k}: {m}",
        )
        assert wanted[0][0] > wanted[-1][0] + 0.005, f"{name}: nothing was learnt"


def scaled(rank: int, world: int, kinds: tuple[str, ...]) -> dict[str, tuple[Any, Any]]:
    """Losses and norms without a loss scale, and with one that changes between steps."""
    found = {}
    for kind in kinds:
        engine, plain = make_engine(kind, world), make_engine(kind, world)
        records = []
        for step in range(3):
            engine.loss_scale = 2.0 ** (3 * step - 2)
            records += train_steps(engine, rank, world, step, step + 1)
        found[kind] = records, train_steps(plain, rank, world, 0, 3)
    return found


def test_a_loss_scale_changes_nothing_but_what_rounds() -> None:
    """Powers of two in fp32: equal to the bit, whatever the engine."""
    kinds = ("plain", "zero0", "zero1", "zero2", "zero3", "zero2-cpu")
    for kind, (found, plain) in run_workers(scaled, 2, kinds)[0].items():
        assert found == plain, kind
