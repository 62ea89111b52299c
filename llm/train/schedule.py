"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from llm.settings import ScheduleSettings


def learning_rate(step: int, steps: int, peak: float, schedule: ScheduleSettings) -> float:
    """Learning rate of optimizer step `step` (0 is the first) in a run of `steps`.

    warm-up: peak * (step + 1) / warmup_steps. After it, with p from 0 to 1 over the steps that are left:
    constant 1; linear 1 - (1-final) p; cosine final + (1-final) (1 + cos(pi p)) / 2 (Loshchilov and Hutter
    2017); wsd 1, then linear to `final` over the last decay_steps (Hu et al. 2024, MiniCPM).
    """
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    if schedule.kind == "constant":
        return peak
    final = schedule.final
    if schedule.kind == "wsd":
        decay = schedule.decay_steps if schedule.decay_steps is not None else steps // 5
        return peak * (1 - (1 - final) * max(0, step + 1 - (steps - decay)) / max(1, decay))
    progress = min(1.0, (step + 1 - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps))
    if schedule.kind == "linear":
        return peak * (1 - (1 - final) * progress)
    return peak * (final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2)
