"""The plain engine: PyTorch alone, every worker holds everything. The reference for the others."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from llm.model.inputs import Inputs
from llm.settings import OptimizerSettings
from llm.train.engine import OPTIMIZER_STATES, Fragment, create_adam_state, make_adamw, set_adam_step
from llm.train.objective import Objective, What


class PlainEngine:
    """Engine (see engine.py) without partitions: gradients are summed over the workers in one all-reduce."""

    partitioned = False

    def __init__(self, objective: Objective, optimizer: OptimizerSettings, world: int) -> None:
        self.objective = objective
        self.world = world
        self.clip = optimizer.clip
        self.parameters = list(objective.model.parameters())
        self.optimizer = make_adamw(objective, optimizer)
        create_adam_state(self.optimizer, self.parameters)

    def accumulate(self, inputs: Inputs, scales: Tensor, last: bool) -> Tensor:
        sums: Tensor = self.objective(inputs)
        (sums * scales).sum().backward()
        if last and self.world > 1:
            self._sum_gradients()
        return sums.detach()

    def norm(self) -> float:
        self._norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        return self._norm.item()

    def step(self, lr: float) -> None:
        if self.clip:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip, self._norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
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
            fragments.append(Fragment(name, "weight", 0, parameter.detach().view(-1)))
            for state in OPTIMIZER_STATES:
                fragments.append(Fragment(name, state, 0, self.optimizer.state[parameter][state].view(-1)))
        return fragments

    def restored(self, updates: int) -> None:
        set_adam_step(self.optimizer, updates)

    def describe(self) -> dict[str, object]:
        return {"engine": "plain"}

    def _sum_gradients(self) -> None:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        flat = torch.cat([g.view(-1) for g in gradients])
        dist.all_reduce(flat)
        for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))
