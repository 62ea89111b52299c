"""How near numbers come to what they should be: errors and correlations of a regression.

Shapes: N examples, ... any number of leading axes (the resamples of a bootstrap). `counts` [..., N] says how
often each example counts; None: once. All is float64. Where scikit-learn or scipy say nan (no examples, a
correlation with what is constant, r2 of fewer than two) these say 0, since records of runs hold no nan.
"""

from __future__ import annotations

import numpy as np

from llm.tasks.classification import Floats, mean_of, ratio


def mse(truth: Floats, guess: Floats, counts: Floats | None = None) -> Floats:
    """Mean squared error."""
    return mean_of((truth - guess) ** 2, counts)


def mae(truth: Floats, guess: Floats, counts: Floats | None = None) -> Floats:
    """Mean absolute error."""
    return mean_of(np.abs(truth - guess), counts)


def r2(truth: Floats, guess: Floats, counts: Floats | None = None) -> Floats:
    """1 - squared errors / squared distances of the truth from its mean: the share of variance explained.

    Of a constant truth 1 where every guess is right, else 0, as scikit-learn says.
    """
    weights = _weights(truth, counts)
    errors = (weights * (truth - guess) ** 2).sum(-1)
    spread = (weights * _centred(truth, weights) ** 2).sum(-1)
    constant = _is_constant(truth, weights)
    share = 1 - ratio(errors, np.where(constant, 0.0, spread))
    share = np.where(constant, (errors == 0).astype(np.float64), share)
    return np.where(weights.sum(-1) < 2, 0.0, share)


def pearson(truth: Floats, guess: Floats, counts: Floats | None = None) -> Floats:
    """Correlation of the numbers; 0 where either is constant. Each [N] or [..., N]."""
    weights = _weights(truth, counts)
    x, y = _centred(truth, weights), _centred(guess, weights)
    # Scaled first: squares of very small or large numbers would leave the range of doubles.
    x, y = (ratio(part, np.abs(part).max(-1, keepdims=True, initial=0.0)) for part in (x, y))
    lengths = np.sqrt((weights * x**2).sum(-1)) * np.sqrt((weights * y**2).sum(-1))
    found = np.clip(ratio((weights * x * y).sum(-1), lengths), -1.0, 1.0)
    return np.where(_is_constant(truth, weights) | _is_constant(guess, weights), 0.0, found)


def spearman(truth: Floats, guess: Floats, counts: Floats | None = None) -> Floats:
    """Correlation of the ranks; equal numbers share the mean of theirs. 0 where either is constant."""
    return pearson(ranks(truth, counts), ranks(guess, counts), counts)


def ranks(values: Floats, counts: Floats | None = None) -> Floats:
    """[..., N]: place of each number among all that count, from 1; equal ones share the mean of theirs."""
    weights = _weights(values, counts)
    if not values.size:
        return weights
    different, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(different)))
    equal = np.add.reduceat(weights[..., order], starts, axis=-1)  # how many there are of each number
    first = np.cumsum(equal, axis=-1) - equal
    return (first + (equal + 1) / 2)[..., place]


def _weights(values: Floats, counts: Floats | None) -> Floats:
    return np.ones(values.shape[-1]) if counts is None else counts


def _centred(values: Floats, weights: Floats) -> Floats:
    """Without their mean; taken twice, since the first one is off by its rounding."""
    for _ in range(2):
        values = values - ratio((weights * values).sum(-1), weights.sum(-1))[..., None]
    return values


def _is_constant(values: Floats, weights: Floats) -> np.ndarray:
    """[...]: whether all that count are equal; also where nothing counts."""
    lowest = np.where(weights > 0, values, np.inf).min(-1, initial=np.inf)
    highest = np.where(weights > 0, values, -np.inf).max(-1, initial=-np.inf)
    return np.asarray(lowest >= highest)
