"""Which source each sample number comes from, exact to one sample for every prefix (C1)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from heapq import heappop, heappush

import numpy as np
import numpy.typing as npt

from cluster.errors import UserError

LONGEST_CYCLE = 1 << 20
SHORT_CYCLE = 1 << 16
Weight = int | float | Fraction


def cycle_length(weights: Sequence[Weight], planned: int) -> int:
    """Q = the planned number of samples up to 2^20 (repeats then end exactly), else 2^16, or 2^20 where a
    normalised weight is under 2^-10."""
    if planned <= LONGEST_CYCLE:
        return planned
    shares = _shares(weights)
    return LONGEST_CYCLE if min(shares) < Fraction(1, 1 << 10) else SHORT_CYCLE


def share_out(weights: Sequence[Weight], total: int) -> list[int]:
    """`total` in whole parts by weight: largest remainder, each part at least 1; ties to the lower number.

    A source whose exact part is under 1 gets 1; the others share what is left by their weights, again until
    no part is under 1; then each gets the floor, and those with the largest remainders one more.
    """
    shares = _shares(weights)
    if total < len(shares):
        raise UserError(
            f"{total} samples cannot be shared by {len(shares)} sources, each needs one; "
            "take more samples or fewer sources"
        )
    ones: set[int] = set()
    while True:
        rest, weight = total - len(ones), sum(s for k, s in enumerate(shares) if k not in ones)
        parts = {k: s * rest / weight for k, s in enumerate(shares) if k not in ones}
        small = {k for k, part in parts.items() if part < 1}
        if not small:
            break
        ones |= small
    counts = [1 if k in ones else int(parts[k]) for k in range(len(shares))]
    by_remainder = sorted(parts, key=lambda k: (counts[k] - parts[k], k))
    for k in by_remainder[: total - sum(counts)]:
        counts[k] += 1
    return counts


def realised_weights(counts: Sequence[int]) -> list[float]:
    """The weights that the integer counts give, q_k / Q: to be printed beside those asked for."""
    return [count / sum(counts) for count in counts]


def place(counts: Sequence[int]) -> npt.NDArray[np.uint16]:
    """The source of each of the Q places, by earliest deadline.

    d = 2m-2. At place n = 1..Q, unit j of source k may stand once q_k*n*d >= ((j-1)*d + 1)*Q, and is due at
    the first n with q_k*n*d >= (j*d - 1)*Q; the earliest due stands, ties by source number. For every
    prefix: |count_k(n) - n*q_k/Q| <= 1 - 1/(2m-2) (Tijdeman 1980).
    """
    sources, cycle, d = len(counts), sum(counts), 2 * len(counts) - 2
    if sources == 1:
        return np.zeros(cycle, np.uint16)
    assert cycle * cycle * d < 1 << 62, "int64 holds the products below"
    opens, keys = [], []
    for k, count in enumerate(counts):
        unit = np.arange(1, count + 1, dtype=np.int64)
        opens.append(-(-((unit - 1) * d + 1) * cycle // (count * d)))
        keys.append(-(-(unit * d - 1) * cycle // (count * d)) * sources + k)  # orders by (due, source)
    opened = np.concatenate(opens)
    by_open = np.argsort(opened, kind="stable")
    key_of = np.concatenate(keys)[by_open].tolist()
    open_until = np.searchsorted(opened[by_open], np.arange(1, cycle + 1), side="right").tolist()
    heap: list[int] = []
    placed: list[int] = []
    done = 0
    for until in open_until:
        for key in key_of[done:until]:
            heappush(heap, key)
        done = until
        placed.append(heappop(heap))
    return (np.array(placed) % sources).astype(np.uint16)


class Mixture:
    """The table of one cycle of Q places: tab[b] = source, rank[b] = units of that source before b."""

    def __init__(self, counts: Sequence[int]) -> None:
        if not counts or min(counts) < 1:
            raise UserError(f"each source needs a count of at least 1, got {list(counts)}")
        self.counts = np.array(counts, np.int64)
        self.cycle = int(self.counts.sum())
        if len(counts) > 1 << 16:
            raise UserError(f"{len(counts)} sources: at most {1 << 16}")
        if len(counts) > 1:  # one source needs no table: position = number
            if self.cycle > LONGEST_CYCLE:
                raise UserError(f"counts add up to {self.cycle}, more than {LONGEST_CYCLE}; use share_out")
            self.tab = place(counts)
            self.rank = np.empty(self.cycle, np.uint32)
            by_source = np.argsort(self.tab, kind="stable")
            self.rank[by_source] = np.concatenate([np.arange(count, dtype=np.uint32) for count in counts])

    def locate(self, numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Sample numbers to (source k, position p): b = n mod Q, p = (n div Q)*q_k + rank[b]."""
        if len(self.counts) == 1:
            return np.zeros_like(numbers), numbers
        turn = numbers // self.cycle
        place_ = numbers - turn * self.cycle
        source = self.tab[place_].astype(np.int64)
        return source, turn * self.counts[source] + self.rank[place_]

    def taken(self, n: int) -> list[int]:
        """How many of the samples 0..n-1 come from each source."""
        if len(self.counts) == 1:
            return [n]
        turns, rest = divmod(n, self.cycle)
        part = np.bincount(self.tab[:rest], minlength=len(self.counts))
        return [int(count) * turns + int(more) for count, more in zip(self.counts, part, strict=True)]


def exact(weight: Weight) -> Fraction:
    """A weight as a fraction. A float is the decimal that a person writes for it: 0.1 is 1/10."""
    try:
        return Fraction(weight) if isinstance(weight, int | Fraction) else Fraction(repr(float(weight)))
    except ValueError:
        raise UserError(f"a weight must be a finite number, got {weight!r}") from None


def _shares(weights: Sequence[Weight]) -> list[Fraction]:
    """Weights as exact parts of their sum."""
    fractions = [exact(weight) for weight in weights]
    if not fractions or min(fractions) <= 0:
        raise UserError(f"weights must be above 0, got {list(weights)}; leave out a source that is unwanted")
    total = sum(fractions)
    return [fraction / total for fraction in fractions]
