from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import UserError
from llm.data import lanes as lanes_module
from llm.data.lanes import Lanes
from tests.llm.data import reference


def make(tokens: int, length: int, seed: int, lanes: int | None, name: str = "web") -> Lanes:
    """Lanes of a source that counts as large (so that `lanes` is obeyed), or as small where that is None."""
    limit = lanes_module.FULL_SHUFFLE_TOKENS if lanes is None else 0
    with patch.object(lanes_module, "FULL_SHUFFLE_TOKENS", limit):
        return Lanes(name, tokens, length, seed, lanes or 1)


shapes = st.integers(1, 12).flatmap(
    lambda length: st.tuples(
        st.integers(length + 1, 900),
        st.just(length),
        st.integers(0, 2**64 - 1),
        st.none() | st.integers(1, 1_000),
    )
)


@given(shapes)
@settings(max_examples=150)
def test_each_sample_once_an_epoch(shape: tuple[int, int, int, int | None]) -> None:
    tokens, length, _, _ = shape
    source = make(*shape)
    n = source.samples
    start = source.start(np.arange(3 * n))
    for epoch in range(3):
        mine = start[epoch * n : (epoch + 1) * n]
        read = np.sort((mine[:, None] + np.arange(length)) % tokens, axis=None)
        assert len(np.unique(read)) == n * length  # no token twice as an input
        assert tokens - n * length == source.unread == tokens % length  # the rest is counted
        assert np.array_equal(np.sort(source.index(epoch, np.arange(n))), np.arange(n))


@given(shapes)
def test_equals_the_reference_and_enumeration(shape: tuple[int, int, int, int | None]) -> None:
    tokens, length, seed, k = shape
    source = make(*shape)
    n = 2 * source.samples + 1
    whole = source.start(np.arange(n))
    asked = np.random.default_rng(seed).permutation(n)[:20]
    assert np.array_equal(source.start(asked), whole[asked])
    small = 2**33 if k is None else 0
    assert whole[asked].tolist() == [
        reference.start("web", tokens, length, seed, k or 1, p, small) for p in asked.tolist()
    ]


@given(st.integers(2**33 - 5, 10**13), st.integers(64, 8192), st.lists(st.integers(0, 10**13), max_size=6))
def test_large_sources_equal_the_reference(tokens: int, length: int, positions: list[int]) -> None:
    source = Lanes("web", tokens, length, 5)
    expected = [reference.start("web", tokens, length, 5, 16_384, p) for p in positions]
    assert source.start(np.array(positions, np.int64)).tolist() == expected


def test_lanes_are_read_forwards() -> None:
    """Within an epoch a lane goes one row at a time, from row 0 in epoch 0, else from a row of its own."""
    source = make(10_007, 7, 3, 16)
    for epoch in (0, 1):
        q = np.arange(source.lanes * source.rows)
        lane, row = np.divmod(source.index(epoch, q).reshape(source.rows, source.lanes), source.rows)
        assert (lane == lane[0]).all()
        assert ((np.diff(row, axis=0) % source.rows) == 1).all()
        assert (row[0] == 0).all() if epoch == 0 else len(np.unique(row[0])) > 8


def test_which_sources_are_laned() -> None:
    assert Lanes("a", 2**33, 2048, 0).lanes == 2**33 // 2048
    assert Lanes("a", 2**33 + 1, 2048, 0).lanes == 16_384
    assert Lanes("a", 2**33 + 1, 2**31, 0).lanes == 4  # fewer samples than lanes


def test_epochs_seeds_and_names_give_other_orders() -> None:
    p = np.arange(200)
    web = Lanes("web", 2_000, 10, 1).start(np.arange(400))
    orders = [web[:200], web[200:], Lanes("web", 2_000, 10, 2).start(p), Lanes("wiki", 2_000, 10, 1).start(p)]
    phases = {int(order[0]) % 10 for order in orders}
    assert len(phases) > 1  # new cuts
    for a in range(4):
        for b in range(a):
            assert (orders[a] == orders[b]).mean() < 0.1


def test_too_short_a_source_is_named() -> None:
    with pytest.raises(UserError, match=r"source 'poems' has 10 tokens.* length 10 needs 11"):
        Lanes("poems", 10, 10, 0)
    assert Lanes("poems", 11, 10, 0).samples == 1


GOLDEN_SMALL = [91, 994, 471, 456, 56]
GOLDEN_LARGE = [814203172926, 224060631102, 814203174974, 181636902974, 465953032674, 488748126857]


def test_golden() -> None:
    """Runs hang on these values: they may never change."""
    assert Lanes("web", 1_003, 10, 42).start(np.array([0, 1, 99, 100, 101])).tolist() == GOLDEN_SMALL
    large = Lanes("web", 10**12, 2048, 42)
    assert large.start(np.array([0, 1, 16_384, 488_281_249, 488_281_250, 10**12])).tolist() == GOLDEN_LARGE


@given(st.integers(1, 500), st.integers(1, 90))
@settings(max_examples=40)
def test_planned_samples_in_lanes_once_an_epoch(samples: int, lanes: int) -> None:
    """A plan says how many samples there are; the same permutation, without a phase."""
    with patch.object(lanes_module, "FULL_SHUFFLE_TOKENS", 0):
        source = Lanes("web", 10_000, 64, 3, lanes, planned=samples)
    assert (source.samples, source.lanes, source.unread) == (samples, min(samples, lanes), 0)
    found = source.start(np.arange(3 * samples)).reshape(3, samples)
    assert (np.sort(found, axis=1) == np.arange(samples)).all()
    for epoch in range(3):
        assert np.array_equal(found[epoch], source.index(epoch, np.arange(samples)))
