"""The two equations of the ledger."""

from __future__ import annotations

import pytest

from data_jobs.ledger import Count, chain, total


def stage(documents_in: int, size: int) -> Count:
    return Count(documents_in=documents_in, documents_out=documents_in, bytes_in=size, bytes_out=size)


def test_a_count_that_adds_up() -> None:
    count = Count(documents_in=3, documents_out=1, documents_added=1, bytes_in=10, bytes_out=5)
    for size in (2, 1, 0):
        count.drop("empty" if size else "cut", size)
    count.change(4, 3)
    count.change(3, 4)
    count.bytes_removed += 2
    count.check("here")
    assert Count.from_json(count.to_json()) == count


@pytest.mark.parametrize("name", ["documents_in", "documents_out", "bytes_in", "bytes_out", "bytes_removed"])
def test_one_off_is_seen(name: str) -> None:
    count = stage(2, 5)
    setattr(count, name, getattr(count, name) + 1)
    with pytest.raises(AssertionError, match="do not add up"):
        count.check("here")


def test_sum_and_chain() -> None:
    first, second = stage(3, 9), Count(documents_in=3, documents_out=2, bytes_in=9, bytes_out=7)
    second.drop("duplicate", 2)
    both = total([second, second])
    assert (both.documents_in, both.documents_dropped) == (6, {"duplicate": 2})
    whole = chain([first, second])
    assert (whole.documents_in, whole.documents_out, whole.bytes_in, whole.bytes_out) == (3, 2, 9, 7)
    whole.check("whole")
    with pytest.raises(AssertionError, match="the next one takes"):
        chain([second, first])
