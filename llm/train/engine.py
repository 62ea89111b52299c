"""The few verbs that the training loop asks of an engine, and the fragment, its unit of state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from llm.model.inputs import Inputs
from llm.train.objective import Objective, What

WEIGHT = "weight"
# Every state that any optimizer keeps. Checkpoints tell states by their place in this list, and hold the
# list: new ones come at its end.
STATES = (WEIGHT, "exp_avg", "exp_avg_sq", "momentum_buffer")


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
    `states`: what is kept of each parameter, by name (of `STATES`).
    `loss_scale`: by what losses are multiplied before their gradients are made, and gradients divided before
    they are used; it may change between `step` or `skip` and the next `accumulate`.
    """

    objective: Objective
    partitioned: bool
    states: dict[str, tuple[str, ...]]
    loss_scale: float

    def accumulate(self, inputs: Inputs, scales: Tensor, last: bool) -> Tensor:
        """Add the gradient of the summed losses times `scales` [terms]; returns the sums [terms], detached.

        `last` marks the batch's last micro-batch, after which gradients are summed over the workers.
        """
        ...

    def norm(self) -> float:
        """The gradient's norm before clipping, the same on all workers; not finite where an element is not.

        Of the gradient itself: `loss_scale` is divided out.

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
        """This worker's part of the batch's gradient times `loss_scale` (state "gradient"), before `step` or
        `skip`."""
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
