"""Ranges [first, end) of sample numbers: how they are joined, cut and compared."""

from __future__ import annotations

from collections.abc import Iterable

Range = tuple[int, int]


def join(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same numbers as sorted ranges that lie apart."""
    joined: list[Range] = []
    for first, end in sorted(ranges):
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((first, end))
    return tuple(joined)


def ranges_of(numbers: Iterable[int]) -> tuple[Range, ...]:
    """Ranges that hold just these numbers."""
    return join((int(number), int(number) + 1) for number in numbers)


def first_difference(one: Iterable[Range], other: Iterable[Range]) -> int | None:
    """The least number that one side holds and the other does not; None where there is none."""
    edges = sorted(set(_edges(one)) ^ set(_edges(other)))
    return edges[0] if edges else None


def _edges(ranges: Iterable[Range]) -> list[int]:
    """Where it changes whether a number is held."""
    return [edge for both in join(ranges) for edge in both]
