"""How much each setting of a sweep mattered: the share of the metric's variance, by ranks, that it explains.

One setting at a time, so that no model of the sweep has to be believed. Everything is counted on the ranks of
the metric (ties share their mean), so one trial that failed outright weighs no more than the last place.

- Numbers: the square of Spearman's rank correlation (Spearman 1904). It sees what rises or falls, and is
  blind to a best value in the middle.
- Everything else: the share of variance between the groups, H / (n - 1) of Kruskal and Wallis (1952).

Both are 0 to 1. With few trials either is large by chance: `chance` is the share of random orders of the
metric in which it is as large (a permutation test, Fisher 1935; with a seed of its own).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEAST = 3
"""Trials below which nothing is said."""
FEW = 10
"""Trials below which the page warns."""
ORDERS = 2000
SLACK = 1e-9  # what two ways of adding up may differ by


@dataclass(frozen=True)
class Importance:
    """What one setting explains. `direction`: Spearman's correlation of a number, else None."""

    setting: str
    method: str
    share: float
    direction: float | None
    chance: float
    trials: int
    values: int


def importances(settings: Mapping[str, Sequence[Any]], metric: Sequence[float]) -> list[Importance]:
    """Of each setting with two values or more over these trials, the largest share first.

    `settings`: name to its value in each trial; `metric`: finite, one a trial. Empty below LEAST trials, and
    where all trials have the same metric: nothing is there to be explained.
    """
    scores = ranks(np.asarray(metric, np.float64))
    if len(scores) < LEAST or np.ptp(scores) == 0:
        return []
    found = [_importance(name, list(values), scores) for name, values in settings.items() if varies(values)]
    return sorted(found, key=lambda each: (-each.share, each.setting))


def varies(values: Sequence[Any]) -> bool:
    """Whether there are two values or more."""
    return len({_key(value) for value in values}) > 1


def is_number(values: Sequence[Any]) -> bool:
    """Whether all are numbers; true and false are none."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def ranks(values: Floats) -> Floats:
    """Ranks from 1 on; equal values share the mean of theirs. [n] -> [n]"""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place], np.float64)


def correlations(a: Floats, many: Floats) -> Floats:
    """Pearson's correlation of a [n] with each row of many [m, n]; none may be constant. -> [m]"""
    a, many = a - a.mean(), many - many.mean(1, keepdims=True)
    return np.asarray((many @ a) / np.sqrt((a @ a) * (many * many).sum(1)))


def between_shares(groups: npt.NDArray[np.int64], many: Floats) -> Floats:
    """Share of the variance of each row of many [m, n] that lies between the groups [n]. -> [m]"""
    members = np.eye(groups.max() + 1)[groups]  # [n, groups]
    centred = many - many.mean(1, keepdims=True)
    between = ((centred @ members) ** 2 / members.sum(0)).sum(1)
    return np.asarray(between / (centred**2).sum(1))


def _importance(name: str, values: list[Any], scores: Floats) -> Importance:
    chance = np.random.default_rng(0)
    orders = np.stack([scores, *(chance.permutation(scores) for _ in range(ORDERS))])
    direction = None
    if is_number(values):
        method = "Spearman's correlation squared"
        found = correlations(ranks(np.asarray(values, np.float64)), orders)
        direction = float(found[0])
        shares = found**2
    else:
        method = "Kruskal and Wallis' share between groups"
        keys = [_key(value) for value in values]
        names = sorted(set(keys))
        shares = between_shares(np.asarray([names.index(key) for key in keys], np.int64), orders)
    as_large = float(np.mean(shares >= shares[0] - SLACK))  # the order as found is one of them
    distinct = len({_key(value) for value in values})
    return Importance(name, method, float(shares[0]), direction, as_large, len(values), distinct)


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
