"""Whether a step may change the weights: its loss and its gradient's norm against those before it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from cluster.errors import RunError
from llm.data.ranges import Range
from llm.run_settings import RunSettings
from llm.training_settings import GuardSettings

Why = Literal["loss", "gradient", "spike", "loss scale"]


@dataclass(frozen=True)
class GuardState:
    """What the guard remembers; part of each checkpoint, so that a resumed run decides the same."""

    skipped: int = 0  # steps that changed no weight, since the run began
    in_row: int = 0  # of them those since the last that did
    last_applied: int = 0  # number of the last step that changed the weights; 0: none yet
    losses: tuple[float, ...] = ()  # of the last `window` applied steps, in nats; empty without spike_sigma
    norms: tuple[float, ...] = ()  # and their gradients' norms
    left_out: tuple[Range, ...] = ()  # samples that rewinds leave out
    rewinds: int = 0

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> GuardState:
        """From a checkpoint's index. TypeError where a field is none of these."""
        lists = {name: tuple(value.get(name, ())) for name in ("losses", "norms")}
        left_out = tuple((int(first), int(end)) for first, end in value.get("left_out", ()))
        return cls(**{**value, **lists, "left_out": left_out})


def why_skip(loss: float, norm: float, state: GuardState, settings: GuardSettings) -> Why | None:
    """Why a step of this loss (nats) and gradient norm may not change the weights; None: it may.

    The values must be those that all workers have alike: then all decide alike.
    """
    if not math.isfinite(loss):
        return "loss"
    if not math.isfinite(norm):
        return "gradient"
    sigma, window = settings.spike_sigma, settings.window
    if sigma is not None and (
        is_spike(loss, state.losses, sigma, window) or is_spike(norm, state.norms, sigma, window)
    ):
        return "spike"
    return None


def is_spike(value: float, earlier: Sequence[float], sigma: float, window: int) -> bool:
    """value > mean + sigma * deviation of the earlier ones, once half a window of them is known.

    After OLMo-core, src/olmo_core/optim/skip_step_optimizer.py (there sigma 6, window 128, and values far
    below the mean count, too). Ours looks back on applied steps alone: a spike that was skipped must not
    widen what the next one is measured by.
    """
    if len(earlier) < max(2, window // 2):
        return False
    mean = math.fsum(earlier) / len(earlier)
    variance = math.fsum((x - mean) ** 2 for x in earlier) / (len(earlier) - 1)
    return value - mean > sigma * math.sqrt(variance)


def after_applied(
    state: GuardState, step: int, loss: float, norm: float, settings: GuardSettings
) -> GuardState:
    """The state after step number `step` has changed the weights."""
    state = replace(state, in_row=0, last_applied=step)
    if settings.spike_sigma is None:
        return replace(state, losses=(), norms=())
    keep = -settings.window
    return replace(state, losses=(*state.losses, loss)[keep:], norms=(*state.norms, norm)[keep:])


def after_skipped(state: GuardState, why: Why) -> GuardState:
    """The state after a step that was skipped. One that was for its loss scale says nothing of the run."""
    in_row = state.in_row + (why != "loss scale")
    return replace(state, skipped=state.skipped + 1, in_row=in_row)


def check_row(state: GuardState, settings: RunSettings, step: int, samples: Range, told: str) -> None:
    """RunError where as many steps in a row were skipped as may be.

    `samples`: [first, end) of the whole row; `told`: what was wrong with the last of them, in words.
    """
    section = settings.section
    if state.in_row < settings.guard.max_skips:
        return
    raise RunError(
        f"step {step}: {told}; it is the last of {state.in_row} steps in a row that were skipped "
        f"({section}.guard.max_skips), over samples {samples[0]} to {samples[1] - 1}. The last step that "
        f"changed the weights is {state.last_applied}, and the last checkpoint is good. Look at these "
        f"samples (--accept {section}.skip_samples leaves out what lies ahead of a checkpoint), or lower "
        f"{section}.optimizer.lr"
    )


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as JSON can hold them: NaN and infinity become null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
