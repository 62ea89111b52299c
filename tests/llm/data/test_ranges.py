"""Ranges of sample numbers, against sets of numbers."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from llm.data.ranges import first_difference, join, ranges_of


def numbers_of(ranges: object) -> set[int]:
    return {n for first, end in ranges for n in range(first, end)}  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(20))
def test_they_are_sets(seed: int) -> None:
    chance = random.Random(seed)

    def some() -> list[tuple[int, int]]:
        firsts = [chance.randrange(30) for _ in range(chance.randrange(5))]
        return [(first, first + chance.randrange(1, 6)) for first in firsts]

    one, other = some(), some()
    joined = join(one)
    assert numbers_of(joined) == numbers_of(one)
    assert all(end < first for (_, end), (first, _) in pairwise(joined))
    assert ranges_of(numbers_of(one)) == joined
    assert first_difference(one, other) == min(numbers_of(one) ^ numbers_of(other), default=None)
