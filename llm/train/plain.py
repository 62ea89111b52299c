"""The plain engine: PyTorch alone, every worker holds everything. The reference for the others."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from llm.model.inputs import Inputs
from llm.train.engine import STATES, WEIGHT, Fragment
from llm.train.objective import Objective, What
from llm.train.optimizers import (
    Rate,
    create_states,
    full_rate,
    in_one_piece,
    make_optimizer,
    set_rate,
    set_updates,
    states_by_name,
)
from llm.training_settings import OptimizerSettings


class PlainEngine:
    """Engine (see engine.py) without partitions: gradients are summed over the workers in one all-reduce."""

    partitioned = False
    loss_scale = 1.0

    def __init__(
        self, objective: Objective, optimizer: OptimizerSettings, world: int, rate: Rate = full_rate
    ) -> None:
        self.objective = objective
        self.world = world
        self.clip = optimizer.clip
        self.parameters = [p for p in objective.model.parameters() if p.requires_grad]
        self.states = states_by_name(objective, optimizer)
        self.optimizer = make_optimizer(objective, optimizer, in_one_piece, rate)
        create_states(self.optimizer, [group["params"] for group in self.optimizer.param_groups])

    def accumulate(self, inputs: Inputs, scales: Tensor, last: bool) -> Tensor:
        sums: Tensor = self.objective(inputs)
        (sums * (scales * self.loss_scale)).sum().backward()
        if last and self.world > 1:
            self._sum_gradients()
        return sums.detach()

    def norm(self) -> float:
        self._norm = torch.nn.utils.get_total_norm(self._gradients()) / self.loss_scale
        return self._norm.item()

    def step(self, lr: float) -> None:
        if self.loss_scale != 1:
            torch._foreach_mul_(self._gradients(), 1 / self.loss_scale)
        if self.clip:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip, self._norm)
        set_rate(self.optimizer, lr)
        self.optimizer.step()
        self.skip()

    def skip(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def gradients(self) -> list[Fragment]:
        named = self.objective.model.named_parameters()
        return [Fragment(name, "gradient", 0, p.grad.view(-1)) for name, p in named if p.grad is not None]

    @torch.no_grad()
    def forward(self, inputs: Inputs, what: What) -> Tensor:
        self.objective.eval()
        result: Tensor = self.objective(inputs, what)
        self.objective.train()
        return result

    def held(self) -> list[Fragment]:
        fragments = []
        for name, parameter in self.objective.model.named_parameters():
            fragments.append(Fragment(name, WEIGHT, 0, parameter.detach().view(-1)))
            for state, values in self.optimizer.state.get(parameter, {}).items():  # a frozen one has none
                if state in STATES:
                    fragments.append(Fragment(name, state, 0, values.view(-1)))
        return fragments

    def restored(self, updates: int) -> None:
        set_updates(self.optimizer, updates)

    def describe(self) -> dict[str, object]:
        return {"engine": "plain"}

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters if p.grad is not None]

    def _sum_gradients(self) -> None:
        gradients = self._gradients()
        flat = torch.cat([g.view(-1) for g in gradients])
        dist.all_reduce(flat)
        for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))
