"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from llm.training_settings import ScheduleSettings


def learning_rate(step: int, steps: int, peak: float, schedule: ScheduleSettings) -> float:
    """Learning rate of optimizer step `step` (0 is the first) in a run of `steps`.

    warm-up: peak * (step + 1) / w of its w steps. After it, as a share of the peak, with p from 0 to 1 over
    the steps that are left: constant 1; linear 1 - (1-final) p; cosine final + (1-final) (1 + cos(pi p)) / 2
    (Loshchilov and Hutter 2017); wsd 1, then over the last decay_steps down to `final`, with q from 0 to 1 in
    them: 1 - (1-final) q (Hu et al. 2024, MiniCPM) or 1 - (1-final) sqrt(q) (Haegele et al. 2024);
    inverse_sqrt sqrt(max(w, 1) / (step + 1)) (Vaswani et al. 2017, section 5.3), not below `final`.
    """
    warm, final = schedule.warmup(steps), schedule.final
    if step < warm:
        return peak * (step + 1) / warm
    match schedule.kind:
        case "constant":
            return peak
        case "wsd":
            decay = schedule.decay(steps)
            way = max(0, step + 1 - (steps - decay)) / max(1, decay)
            return peak * (1 - (1 - final) * (math.sqrt(way) if schedule.decay_shape == "sqrt" else way))
        case "inverse_sqrt":
            return peak * max(final, math.sqrt(max(warm, 1) / (step + 1)))
    progress = min(1.0, (step + 1 - warm) / max(1, steps - warm))
    if schedule.kind == "linear":
        return peak * (1 - (1 - final) * progress)
    return peak * (final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2)
