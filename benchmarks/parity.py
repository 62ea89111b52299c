"""Engines against torch alone: largest relative difference of the losses of 20 steps, dropout 0.

ZeRO 0 to 3 on two workers x accumulation x precision x optimizer. The truth in fp32 is plain autograd in one
process, whole batches at once; in bf16, which rounds anew for each way of adding up, ZeRO 1 of the same
accumulation.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.engine import in_processes
from benchmarks.ground import Ground
from benchmarks.rows import Row
from llm.model import make_model
from llm.model.inputs import Inputs
from llm.settings import ModelSettings
from llm.train.engine import Engine
from llm.train.group import Group
from llm.train.objective import Objective
from llm.training_settings import OptimizerSettings

MODEL = ModelSettings(layers=2, width=66, heads=3, hidden=70, context=16)  # sizes that do not divide
VOCAB, BATCH, LENGTH, STEPS, RATE = 97, 8, 16, 20, 2e-3
STAGES, ACCUMULATIONS, PRECISIONS = (0, 1, 2, 3), (1, 2, 4), ("fp32", "bf16")
OPTIMIZERS = {
    "adamw": OptimizerSettings(lr=RATE),
    "sgd": OptimizerSettings(kind="sgd", lr=RATE, momentum=0.9),
    "muon": OptimizerSettings(kind="muon", lr=RATE),
}
Combination = tuple[str, int | None, int]  # optimizer, ZeRO stage, accumulation
GOALS = {"fp32": "ours <= 1e-5", "bf16": "ours <= 1e-3"}


def run(ground: Ground) -> list[Row]:
    """A row for each combination."""
    accumulations = (2,) if ground.quick else ACCUMULATIONS
    rows = []
    for precision in PRECISIONS:
        alone = losses_of(1, [(name, None, 1) for name in OPTIMIZERS], precision)
        combinations = list(product(OPTIMIZERS, STAGES, accumulations))
        found = losses_of(2, combinations, precision)
        for name, stage, accumulation in combinations:
            truth = alone[name, None, 1] if precision == "fp32" else found[name, 1, accumulation]
            worst = ((found[name, stage, accumulation] - truth).abs() / truth).max().item()
            what = f"ZeRO {stage}, accumulation {accumulation}, {precision}, {name}"
            against = "torch alone, one process" if precision == "fp32" else "ZeRO 1, bf16"
            note = f"two workers on gloo against {against}; loss {truth[0]:.4f} to {truth[-1]:.4f}"
            rows.append(Row(what, "relative", worst, goal=GOALS[precision], note=note))
            ground.say(f"parity {what}: {worst:.2e}")
    return rows


def losses_of(world: int, combinations: Sequence[Combination], precision: str) -> dict[Combination, Tensor]:
    """The losses [STEPS] of each combination."""
    found = torch.tensor(in_processes(world, _train_all, combinations, precision))
    return dict(zip(combinations, found.view(-1, STEPS), strict=True))


def _train_all(group: Group, combinations: Sequence[Combination], precision: str) -> tuple[float, ...]:
    return tuple(loss for combination in combinations for loss in _train(group, *combination, precision))


def _train(group: Group, name: str, stage: int | None, accumulation: int, precision: str) -> list[float]:
    """The loss of each step; `stage` None: the plain engine."""
    engine = _engine(group, name, stage, accumulation, precision)
    losses = []
    for step in range(STEPS):
        whole = batch_of(step)
        assert whole.weights is not None
        scales = torch.full((len(engine.objective.model.terms),), 1 / float(whole.weights.sum()))
        total = torch.zeros(len(scales))
        parts = group.world * accumulation
        for i in range(accumulation):
            part = group.rank * accumulation + i
            micro = Inputs._make(None if t is None else t.chunk(parts)[part] for t in whole)
            total += engine.accumulate(micro, scales, last=i == accumulation - 1)
        if group.world > 1:
            dist.all_reduce(total)
        losses.append(float(total[0] * scales[0]))
        engine.norm()
        engine.step(RATE)
    return losses


def _engine(group: Group, name: str, stage: int | None, accumulation: int, precision: str) -> Engine:
    objective = Objective(make_model(MODEL, VOCAB, seed=3), precision)
    if stage is None:
        from llm.train.plain import PlainEngine

        return PlainEngine(objective, OPTIMIZERS[name], group.world)
    from llm.train.deepspeed_zero import ZeroEngine

    micro = BATCH // group.world // accumulation
    return ZeroEngine(objective, OPTIMIZERS[name], group.world, stage, micro, accumulation)


def batch_of(step: int) -> Inputs:
    """Sequences that can be learnt (on noise Adam amplifies the last bit of any sum); unequal weights."""
    generator = torch.Generator().manual_seed(step)
    start = torch.randint(0, VOCAB, (BATCH, 1), generator=generator)
    ids = (start + 5 * torch.arange(LENGTH + 1)) % VOCAB
    weights = (torch.rand(BATCH, LENGTH, generator=generator) > 0.2).float()
    return Inputs(ids[:, :-1], ids[:, 1:], weights)
