"""The best validation so far, and when a training ends since it gets no better: rules over scores."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

LOWER = {"loss", "mlm_loss", "nsp_loss", "perplexity", "bits_per_byte", "mse", "mae", "hamming"}


@dataclass(frozen=True)
class Best:
    """What is remembered of the validations; part of each checkpoint: a resumed run decides the same."""

    step: int = -1
    """Of the best one; -1: there was none yet."""
    score: float = 0.0
    """Lower is better: a loss, or a metric's negative."""
    since: int = 0
    """Validations after it."""


def after_score(best: Best, step: int, score: float, least_gain: float = 0.0) -> Best:
    """After a validation. It counts as better by more than `least_gain`; NaN never does."""
    if best.step < 0 or score < best.score - least_gain:
        return Best(step, score)
    return replace(best, since=best.since + 1)


def is_over(best: Best, patience: int | None) -> bool:
    """Whether so many validations in a row were no better (early stopping; Prechelt 1998)."""
    return patience is not None and best.since >= patience


def score_of(found: dict[str, float], name: str) -> float | None:
    """What checkpoints are compared by, lower is better; None where the validation has no such number.

    A loss, a perplexity, an error count as they are; any other metric is better the higher it is. One that is
    not finite is none.
    """
    value = found.get(name)
    if value is None or not math.isfinite(value):
        return None
    return value if lower_is_better(name) else -value


def lower_is_better(name: str) -> bool:
    """Of a metric's name, with or without `val_`."""
    return name.removeprefix("val_") in LOWER
