import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import UserError
from llm.data import Order, Source, order_of_corpus
from tests.llm.data import reference
from tests.llm.data.reference import EndlessCorpus

EVIDENCE = [82_031, 39_062, 40, 2_734]  # samples of the contract's four sources
REPEATS = [1, 2, 4, 3]


def test_repeats_end_exactly() -> None:
    """Each sample of each source exactly once in each epoch, and all epochs end with the plan."""
    length = 8
    sources = [Source(f"s{k}", n * length + k) for k, n in enumerate(EVIDENCE)]
    order = Order.from_repeats(sources, REPEATS, length, seed=11)
    assert order.cycle == sum(n * r for n, r in zip(EVIDENCE, REPEATS, strict=True))
    source, start = order.rows(np.arange(order.cycle))
    for k, (samples, repeats) in enumerate(zip(EVIDENCE, REPEATS, strict=True)):
        mine = start[source == k]
        assert len(mine) == samples * repeats
        for epoch in np.split(mine, repeats):
            assert len(np.unique((epoch - epoch[0]) % sources[k].tokens)) == samples
    assert [(s.epoch, s.samples_of_epoch) for s in order.standing(order.cycle)] == [(r, 0) for r in REPEATS]


@given(
    st.lists(st.tuples(st.integers(9, 400), st.integers(1, 30)), min_size=1, max_size=5),
    st.integers(1, 8),
    st.integers(0, 2**64 - 1),
)
@settings(max_examples=60)
def test_equals_the_reference_and_enumeration(shapes: list[tuple[int, int]], length: int, seed: int) -> None:
    sources = [Source(f"s{k}", tokens) for k, (tokens, _) in enumerate(shapes)]
    counts = [count for _, count in shapes]
    order = Order(sources, counts, length, seed)
    tab = reference.table(counts)
    taken = [0] * len(counts)
    expected = []
    n = 2 * sum(counts) + 3
    for number in range(n):
        k = tab[number % len(tab)]
        at = reference.start(sources[k].name, sources[k].tokens, length, seed, 16_384, taken[k])
        expected.append((k, at))
        taken[k] += 1
    source, start = order.rows(np.arange(n))
    assert list(zip(source.tolist(), start.tolist(), strict=True)) == expected
    asked = np.random.default_rng(seed).permutation(n)[:25]
    some_source, some_start = order.rows(asked)
    assert np.array_equal(some_source, source[asked]) and np.array_equal(some_start, start[asked])


def test_windows_equal_the_whole_over_many_sources() -> None:
    order = Order.from_repeats([Source(f"s{k}", 900 * 8 + k) for k in range(20)], [1.5] * 20, 8, 2)
    source, start = order.rows(np.arange(60_000))
    rng = np.random.default_rng(0)
    for first in rng.integers(0, 59_000, 100):
        part = order.rows(np.arange(first, first + 64))
        assert np.array_equal(part[0], source[first : first + 64])
        assert np.array_equal(part[1], start[first : first + 64])


def test_adding_a_source_leaves_the_orders_of_the_others() -> None:
    a, b = Source("a", 5_000), Source("b", 3_000)
    alone = Order([a], [1], 10, 1).rows(np.arange(300))[1]
    source, start = Order([b, a], [1, 1], 10, 1).rows(np.arange(600))
    assert np.array_equal(start[source == 1], alone)


def test_weights_and_what_is_told_of_them() -> None:
    sources = [Source("a", 10_000), Source("b", 1_003)]
    order = Order.from_weights(sources, [0.75, 0.25], 1_000, 10, 0)
    assert order.counts == [750, 250] and order.weights == [0.75, 0.25] and order.cycle == 1_000
    assert order.samples_per_epoch == [1_000, 100] and order.unread_per_epoch == [0, 3]
    by_size = Order.from_weights(sources, None, 1_100, 10, 0)
    assert by_size.counts == [1_000, 100]  # one epoch of everything
    tails = [Source("a", 95), Source("b", 19)]  # 9 samples and 1: by samples, not by tokens
    assert Order.from_weights(tails, None, 10, 10, 0).counts == [9, 1]
    assert Order.from_weights(sources[:1], None, 5_000, 10, 0).counts == [1]
    b = order.standing(1_000)[1]
    assert (b.source, b.samples, b.epoch, b.samples_of_epoch) == ("b", 250, 2, 50)
    assert order.describe()["sources"][1] == {"name": "b", "tokens": 1_003, "count": 250}


def test_order_of_a_corpus() -> None:
    corpus = EndlessCorpus(web=10_000, books=5_000)
    order = order_of_corpus(corpus, "train", None, 150, 100, 0)
    assert [s.name for s in order.sources] == ["books", "web"] and order.counts == [50, 100]
    order = order_of_corpus(corpus, "train", {"web": 2, "books": 1}, 30, 100, 0)
    assert order.counts == [10, 20]
    with pytest.raises(UserError, match="no source 'wbe'; it has: books, web"):
        order_of_corpus(corpus, "train", {"wbe": 1}, 30, 100, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Order([], [], 8, 0), "one source or more"),
        (lambda: Order([Source("a", 99), Source("a", 99)], [1, 1], 8, 0), "different names"),
        (lambda: Order([Source("a", 99)], [1, 1], 8, 0), "1 sources and 2 counts"),
        (lambda: Order([Source("a", 99), Source("b", 8)], [1, 1], 8, 0), "source 'b' has 8 tokens"),
        (lambda: Order.from_weights([Source("a", 3)], None, 9, 8, 0), "source 'a' has 3 tokens"),
        (lambda: Order.from_weights([Source("a", 99)], [1.0], 0, 8, 0), "0 samples cannot be shared"),
        (lambda: Order.from_repeats([Source("a", 99), Source("b", 99)], [1, 0], 8, 0), "above 0"),
        (lambda: Order([Source("a", 99)], [1], 8, 0, lanes=0), "lanes must be at least 1"),
    ],
)
def test_wrong_orders_are_refused(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()  # type: ignore[operator]


def test_memory_does_not_grow_with_the_corpus() -> None:
    tracemalloc.start()
    try:
        sources = [Source("web", 10**12), Source("books", 10**11), Source("small", 2**33)]
        order = Order.from_weights(sources, [0.7, 0.2, 0.1], 10**9, 2_048, 0)
        for step in range(0, 10**9, 10**8):
            order.rows(np.arange(step, step + 1_024))
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 4 << 20 and peak < 32 << 20  # the peak is the mixture's table being made


GOLDEN_COUNTS = [39322, 22937, 3277]
GOLDEN_SOURCES = [0, 1, 0, 0, 1, 0, 1, 0]
GOLDEN_STARTS = [
    814203172926,
    433374975,
    224060631102,
    443296540734,
    1518968575,
    733393500222,
    2884054783,
    475827927102,
]
GOLDEN_FAR = [(1, 2951610788), (0, 459935433186), (0, 423498277346)]


def test_golden() -> None:
    """Runs hang on these values: they may never change."""
    sources = [Source("web", 10**12), Source("books", 3 * 10**9), Source("notes", 5_000)]
    order = Order.from_weights(sources, [0.6, 0.35, 0.05], 10**8, 2_048, 42)
    assert order.counts == GOLDEN_COUNTS
    source, start = order.rows(np.arange(8))
    assert source.tolist() == GOLDEN_SOURCES and start.tolist() == GOLDEN_STARTS
    source, start = order.rows(np.array([10**9, 10**9 + 1, 10**9 + 9]))
    assert list(zip(source.tolist(), start.tolist(), strict=True)) == GOLDEN_FAR
