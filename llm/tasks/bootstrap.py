"""How sure a metric is: percentile intervals over resampled examples.

Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from data_jobs.hashes import h64
from llm.tasks.classification import Floats

RESAMPLES = 1000
AT_ONCE = 1 << 21  # numbers of the resamples that are there at a time


def resampled(examples: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Counts [r, N], `resamples` rows in all: how often each example is in a draw of N with replacement."""
    generator = np.random.Generator(np.random.PCG64(h64(seed, "bootstrap")))
    at_once = max(1, AT_ONCE // max(examples, 1))
    for first in range(0, resamples, at_once):
        rows = min(at_once, resamples - first)
        drawn = generator.integers(examples, size=(rows, examples)) + np.arange(rows)[:, None] * examples
        yield np.bincount(drawn.ravel(), minlength=rows * examples).reshape(rows, examples).astype(np.float64)


def intervals(
    numbers: Callable[[Floats], Mapping[str, Floats]],
    examples: int,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Of each of `numbers(counts)` [r] the range that holds the middle `level` of its resamples.

    Same seed, same interval. Empty without examples or resamples. With fewer examples than about 30 such a
    range is too narrow.
    """
    if not examples or not resamples:
        return {}
    found: dict[str, list[Floats]] = {}
    for counts in resampled(examples, resamples, seed):
        for name, values in numbers(counts).items():
            found.setdefault(name, []).append(values)
    ends = ((1 - level) / 2, (1 + level) / 2)
    return {name: tuple(np.quantile(np.concatenate(parts), ends).tolist()) for name, parts in found.items()}
