"""The few verbs that the training loop asks of an engine, and the fragment, its unit of state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from llm.model.inputs import Inputs
from llm.settings import OptimizerSettings
from llm.train.objective import Objective, What

OPTIMIZER_STATES = ("exp_avg", "exp_avg_sq")
STATES = ("weight", *OPTIMIZER_STATES)


@dataclass(frozen=True)
class Fragment:
    """Elements [start, start + len(values)) of one flat tensor's state, a live view on its memory."""

    name: str
    state: str
    start: int
    values: Tensor


class Engine(Protocol):
    """Gradients and updates of one model over all workers.

    `partitioned`: each worker holds its own part of the state (ZeRO 1 to 3); else each holds all of it.
    """

    objective: Objective
    partitioned: bool

    def accumulate(self, inputs: Inputs, scales: Tensor, last: bool) -> Tensor:
        """Add the gradient of the summed losses times `scales` [terms]; returns the sums [terms], detached.

        `last` marks the batch's last micro-batch, after which gradients are summed over the workers.
        """
        ...

    def norm(self) -> float:
        """The gradient's norm before clipping, the same on all workers; not finite where an element is not.

        To be asked for once after a batch's last micro-batch, before `step` or `skip`.
        """
        ...

    def step(self, lr: float) -> None:
        """Clip, update the weights, clear the gradients."""
        ...

    def skip(self) -> None:
        """Clear the gradients instead of `step`: weights, optimizer and its count of updates stay."""
        ...

    def gradients(self) -> list[Fragment]:
        """This worker's part of the batch's gradient (state "gradient"), before `step` or `skip`."""
        ...

    def forward(self, inputs: Inputs, what: What) -> Tensor:
        """What the objective gives, without gradients. At ZeRO 3 all workers must call it together."""
        ...

    def held(self) -> list[Fragment]:
        """Everything that this worker must have to go on, weights and optimizer states."""
        ...

    def restored(self, updates: int) -> None:
        """Called when `held` was overwritten from a checkpoint: spread it to where it acts.

        `updates`: how often `step` had changed the weights by then; it enters Adam's bias correction.
        """
        ...

    def describe(self) -> dict[str, object]:
        """The complete settings of the engine below, for the run folder."""
        ...


def parameter_groups(objective: Objective, weight_decay: float) -> list[dict[str, object]]:
    """Matrices with weight decay, vectors (norms, biases) without."""
    parameters = list(objective.model.parameters())
    groups: list[dict[str, object]] = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_adamw(objective: Objective, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """torch's AdamW, one kernel for all parameters."""
    return torch.optim.AdamW(
        parameter_groups(objective, settings.weight_decay),
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        fused=True,
    )


def create_adam_state(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> None:
    """Give each parameter the state that AdamW would create at its first step."""
    for parameter in parameters:
        state = optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            for name in OPTIMIZER_STATES:
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)


def set_adam_step(optimizer: torch.optim.Optimizer, updates: int) -> None:
    """Set the number of updates in every state (it enters the bias correction)."""
    for state in optimizer.state.values():
        if "step" in state:
            state["step"].fill_(updates)
