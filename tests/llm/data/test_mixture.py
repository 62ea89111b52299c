from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import UserError
from llm.data.mixture import Mixture, cycle_length, place, realised_weights, share_out
from tests.llm.data import reference

counts_of_sources = st.lists(st.integers(1, 40) | st.integers(1, 2_000), min_size=1, max_size=12)


def worst_deviation(counts: list[int], tab: np.ndarray) -> float:
    """Largest |count_k(n) - n*q_k/Q| over all prefixes n and sources k."""
    n = np.arange(1, len(tab) + 1)
    return max(
        np.abs(np.cumsum(tab == k) - n * count / len(tab)).max().item() for k, count in enumerate(counts)
    )


@given(counts_of_sources)
@settings(max_examples=60)
def test_every_prefix_is_within_the_bound(counts: list[int]) -> None:
    tab = place(counts)
    assert np.bincount(tab, minlength=len(counts)).tolist() == counts
    bound = 1 - 1 / (2 * len(counts) - 2) if len(counts) > 1 else 0
    assert worst_deviation(counts, tab) <= bound + 1e-9


def test_bound_for_many_sources() -> None:
    rng = np.random.default_rng(3)
    for sources in (2, 3, 17, 63):
        weights = rng.dirichlet(np.full(sources, 0.3)) + 1e-6
        counts = share_out(weights.tolist(), 1 << 13)
        assert worst_deviation(counts, place(counts)) <= 1 - 1 / (2 * sources - 2) + 1e-9


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_table_equals_the_reference(counts: list[int]) -> None:
    assert place(counts).tolist() == reference.table(counts)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_locate_numbers_each_source_without_a_gap(counts: list[int]) -> None:
    mixture = Mixture(counts)
    n = 3 * sum(counts) + 2
    source, position = mixture.locate(np.arange(n))
    seen = [0] * len(counts)
    for number, (k, p) in enumerate(zip(source.tolist(), position.tolist(), strict=True)):
        assert mixture.taken(number) == seen
        assert p == seen[k]
        seen[k] += 1
    assert mixture.taken(n) == seen


def test_large_numbers_are_exact() -> None:
    mixture = Mixture([3, 2])
    source, position = mixture.locate(np.array([5 * 10**17 + 1]))
    assert position.tolist() == [[3, 2][source[0]] * 10**17 + reference.table([3, 2])[:1].count(source[0])]
    assert mixture.taken(5 * 10**17) == [3 * 10**17, 2 * 10**17]


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=20), st.integers(20, 1 << 20))
def test_shares_are_whole_and_nearest(weights: list[float], total: int) -> None:
    counts = share_out(weights, total)
    assert sum(counts) == total and min(counts) >= 1
    exact = [Fraction(repr(w)) for w in weights]
    parts = [w * total / sum(exact) for w in exact]
    if min(parts) >= 1:
        assert all(abs(count - part) < 1 for count, part in zip(counts, parts, strict=True))


def test_shares_by_hand() -> None:
    assert share_out([0.5, 0.3, 0.2], 10) == [5, 3, 2]
    assert share_out([0.1] * 3 + [0.7], 10) == [1, 1, 1, 7]  # as decimals, not as what binary makes of them
    assert share_out([1, 1, 1], 10) == [4, 3, 3]  # ties to the lower number
    assert share_out([1e-12, 1, 3], 9) == [1, 2, 6]
    assert share_out([Fraction(1, 3), Fraction(2, 3)], 9) == [3, 6]
    assert realised_weights([1, 3]) == [0.25, 0.75]


def test_cycle_length() -> None:
    assert cycle_length([1, 2], 5_000) == 5_000
    assert cycle_length([1, 2], 1 << 20) == 1 << 20
    assert cycle_length([1, 2], (1 << 20) + 1) == 1 << 16
    assert cycle_length([1, 1023], 1 << 40) == 1 << 16
    assert cycle_length([1, 1024], 1 << 40) == 1 << 20


@pytest.mark.parametrize("weights", [[], [0.5, 0], [1, -1], [float("nan"), 1], [float("inf"), 1]])
def test_wrong_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(UserError):
        share_out(weights, 100)


def test_fewer_samples_than_sources_is_refused() -> None:
    with pytest.raises(UserError, match="2 samples cannot be shared by 3"):
        share_out([1, 1, 1], 2)
    with pytest.raises(UserError, match="at least 1"):
        Mixture([3, 0])
    with pytest.raises(UserError, match="more than"):
        Mixture([1 << 20, 1])


GOLDEN_TABLE = [0, 1, 0, 2, 0, 1, 0, 3, 1, 0, 2]
GOLDEN_SHARES = [37355, 15073, 7209, 5892, 7]


def test_golden() -> None:
    """Runs hang on these values: they may never change."""
    assert place([5, 3, 2, 1]).tolist() == GOLDEN_TABLE
    assert share_out([0.57, 0.23, 0.11, 0.0899, 0.0001], 1 << 16) == GOLDEN_SHARES
