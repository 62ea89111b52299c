"""Whole documents in rows: nothing twice, nothing missed, nothing cut that fits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data import BatchPlan, Loader, MicroBatch, order_of_corpus, rule_of
from llm.data.packing import best_fit, pack
from tests.llm.data.reference import VOCABULARY, Text, TextCorpus

TEXT = Text(0, 300)
CORPUS = TextCorpus({"train": {"a": TEXT}})


def naive_best_fit(sizes: list[int], capacity: int) -> list[int]:
    """What best-fit decreasing leaves of each row."""
    rooms: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [k for k, room in enumerate(rooms) if room >= size]
        if fitting:
            rooms[min(fitting, key=lambda k: rooms[k])] -= size
        else:
            rooms.append(capacity - size)
    return rooms


@given(st.integers(1, 70), st.data())
def test_best_fit_equals_the_naive_one(capacity: int, data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, capacity), max_size=80))
    row = best_fit(np.array(sizes, np.int64), capacity)
    used = np.bincount(row, sizes) if sizes else np.zeros(0)
    assert (used <= capacity).all() and (used > 0).all()  # no row is too full, no number is left out
    assert sorted(capacity - used) == sorted(naive_best_fit(sizes, capacity))


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 25), st.integers(0, 10**9))
def test_each_token_is_in_one_row_and_only_long_documents_are_cut(
    sizes: list[int], length: int, at: int
) -> None:
    bounds = at + np.cumsum([0, *sizes]) if sizes else np.zeros(0, np.int64)
    packed = pack(bounds, length)
    tokens = [t for s, n in zip(packed.starts, packed.sizes, strict=True) for t in range(s, s + n)]
    assert sorted(tokens) == list(range(at, at + sum(sizes)))
    assert np.add.reduceat(packed.sizes, packed.first[:-1]).max(initial=0) <= length if sizes else True
    assert len(packed.starts) == sum(-(-size // length) for size in sizes)
    for a, b in zip(packed.first[:-1], packed.first[1:], strict=True):
        assert (np.diff(packed.starts[a:b]) > 0).all() and b > a


def loader(length: int, confine: bool = True, batch: int = 16, group: int = 1024) -> Loader:
    rule = rule_of("bestfit", length, vocabulary=VOCABULARY, confine=confine, group_tokens=group)
    order = order_of_corpus(CORPUS, "train", None, 100, length, 3, rule=rule)
    return Loader(CORPUS, "train", order, BatchPlan([(0, batch)]), 0, 1, batch)


def epoch(one: Loader) -> list[MicroBatch]:
    (samples,) = one.order.samples_per_epoch
    one.plan = BatchPlan([(0, samples)])
    one.micro_batch = samples
    return one.batch(0).micro


@pytest.mark.parametrize("length", [16, 64, 200])
def test_every_token_of_every_document_is_a_target_once(length: int) -> None:
    (micro,) = epoch(loader(length))
    found = []
    assert micro.documents is not None
    for x, y, w, d in zip(micro.inputs, micro.targets, micro.weights, micro.documents, strict=True):
        real = int(w.sum())
        assert w[:real].all() and not w[real:].any()
        assert (x[real:] == 0).all() and (d[real:] == d[:real].max() + 1).all()
        for number in range(d[:real].max() + 1):
            (at,) = np.nonzero(d[:real] == number)
            item_x, item_y = x[at], y[at]
            assert (np.diff(at) == 1).all() and (item_x[1:] == item_y[:-1]).all()
            assert (item_y[:-1] != 3).all()  # one document, eos its last target
            found.append((int(item_x[0]), item_y.tolist()))
    pieces = []
    for first, stop in zip(TEXT.bounds[:-1], TEXT.bounds[1:], strict=True):
        for at in range(first, stop, length):
            before = 3 if at == first else int(TEXT.tokens[at - 1])
            pieces.append((before, TEXT.tokens[at : min(at + length, stop)].tolist()))
    assert sorted(found) == sorted(pieces)


def test_fewer_documents_are_cut_than_in_a_stream() -> None:
    length, sizes = 128, np.diff(TEXT.bounds)
    (micro,) = epoch(loader(length, group=1 << 20))
    starts, stops = np.array(TEXT.bounds[:-1]), np.array(TEXT.bounds[1:]) - 1
    cut_flat = int((starts // length != stops // length).sum())
    begins = (micro.inputs == 3) & (micro.weights > 0)
    cut = int((sizes > length).sum())
    assert begins.sum() == len(sizes) and cut == sum(s > length for s in sizes) < cut_flat / 3
    assert 1 - micro.weights.mean() < 0.02  # padding


def test_without_confine_there_are_no_documents() -> None:
    (micro,) = epoch(loader(64, confine=False))
    (confined,) = epoch(loader(64))
    assert micro.documents is None and (micro.inputs == confined.inputs).all()
