"""fp16: by what the loss is multiplied, so that small gradients do not become zero."""

from __future__ import annotations

import math
from dataclasses import replace

from llm.run_settings import RunSettings
from llm.train.checkpoints.layout import RunState
from llm.training_settings import LossScaleSettings


def with_scale(state: RunState, settings: RunSettings) -> RunState:
    """A state to start from, also where the run had another precision before."""
    if settings.precision != "fp16":
        return replace(state, loss_scale=1.0, loss_scale_steps=0)
    fresh = (state.loss_scale, state.loss_scale_steps) == (1.0, 0)
    return replace(state, loss_scale=settings.loss_scale.initial) if fresh else state


def is_overflow(loss: float, norm: float, scale: float, settings: RunSettings) -> bool:
    """Whether a step failed by the scale alone: then it is skipped, and the next has a smaller one.

    Where the loss itself is not finite, or the scale is the least already, another scale would not help.
    """
    return (
        settings.precision == "fp16"
        and math.isfinite(loss)
        and not math.isfinite(norm)
        and scale > settings.loss_scale.least
    )


def after_step(scale: float, steps: int, overflow: bool, settings: LossScaleSettings) -> tuple[float, int]:
    """The next step's scale, and the steps since it last changed (Micikevicius et al. 2018, section 3.2)."""
    if overflow:
        return max(settings.least, scale / settings.factor), 0
    if steps + 1 >= settings.window:
        return scale * settings.factor, 0
    return scale, steps + 1
