"""Sentences in rows: segments, parts that follow each other and parts that do not."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import UserError
from llm.data import BatchPlan, Loader, MicroBatch, order_of_corpus, rule_of
from llm.data.sentence_rows import cut_segments, pair
from llm.training_settings import MaskingSettings
from tests.llm.data.reference import SPECIALS, VOCABULARY, Text, TextCorpus

TEXT = Text(1, 400)
CORPUS = TextCorpus({"train": {"a": TEXT}})
LENGTH = 64
BUDGET = LENGTH - 3
SHOW_ALL = MaskingSettings(mask=0, random=0)  # what is guessed is shown as it is


def bounds_and_ends(sizes: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Documents of sentences of these sizes, each with an eos."""
    bounds, ends = [0], []
    for document in sizes:
        ends += [bounds[-1] + n for n in np.cumsum(document).tolist()]
        bounds.append(bounds[-1] + sum(document) + 1)
    return np.array(bounds), np.array(ends, dtype=np.int64)


@given(
    st.lists(st.lists(st.integers(1, 25), min_size=1, max_size=12), min_size=1, max_size=8),
    st.integers(2, 20),
)
def test_segments_hold_every_sentence_once(sizes: list[list[int]], budget: int) -> None:
    bounds, ends = bounds_and_ends(sizes)
    segments = cut_segments(bounds + 1000, ends + 1000, budget)
    spans = [segments.span(i) for i in range(segments.samples)]
    tokens = [t - 1000 for start, stop in spans for t in range(start, stop)]
    eos = set((bounds[1:] - 1).tolist())
    assert tokens == [t for t in range(bounds[-1]) if t not in eos]
    whole = {*(ends + 1000).tolist()}
    for start, stop in spans:
        assert 0 < stop - start <= budget
        if stop not in whole:  # a sentence longer than a segment
            assert stop - start == budget
    units = np.diff(segments.first)
    for i, ((start, stop), (following, _)) in enumerate(pairwise(spans)):
        if (
            stop == following
        ):  # in one document: the next sentence does not fit, or was given away to make two
            first = int(segments.ends[segments.first[i + 1]]) + segments.base
            next_end = spans[i + 1][1] if segments.halved[i + 1] else first
            assert next_end - start > budget or (units[i + 1] == 2 and not segments.halved[i + 1])


def test_a_lone_sentence_takes_one_of_the_segment_before() -> None:
    segments = cut_segments(*bounds_and_ends([[3, 3, 3, 5], [9, 9]]), 10)
    assert [segments.span(i) for i in range(4)] == [(0, 6), (6, 14), (15, 24), (24, 33)]
    assert segments.cuts.tolist() and np.diff(segments.first).tolist() == [2, 2, 2, 2]
    assert segments.halved.tolist() == [False, False, True, True]  # those have no neighbour to spare


def test_halves_are_paired_with_halves() -> None:
    """Or a second part that begins inside a sentence would tell the label."""
    segments = cut_segments(*bounds_and_ends([[20, 20], [10, 10], [20, 7], [10, 10]]), 20)
    assert segments.halved.tolist() == [True, True, False, True, True, False]
    middles = {segments.span(i)[0] + 10 for i in (0, 1, 3)}
    for epoch in range(50):
        for i in (0, 1, 3):
            found = pair(segments, i, epoch, i)
            assert found is not None and found.cut == found.start + 10 and found.second in middles
        found = pair(segments, 2, epoch, 2)
        assert found is not None and found.second not in middles
        assert pair(segments, 4, epoch, 4) is None  # nothing else has 4 tokens after a middle


def test_pairs_follow_or_are_of_another_document() -> None:
    segments = cut_segments(np.array(TEXT.bounds), TEXT.sentence_ends, BUDGET)
    starts = {0, *TEXT.bounds, *TEXT.sentence_ends.tolist()}
    spans = [segments.span(i) for i in range(segments.samples)]
    middles = {
        (start + stop) // 2 for (start, stop), half in zip(spans, segments.halved, strict=True) if half
    }
    labels, none, cuts = [], 0, set()
    for epoch in range(20):
        for i in range(segments.samples):
            found = pair(segments, i, epoch, i)
            if found is None:
                none += 1
                continue
            start, stop = segments.span(i)
            assert (found.start, found.stop) == (start, stop) and start < found.cut < stop
            size = found.stop - found.cut
            if segments.halved[i]:
                assert found.cut == (start + stop) // 2
                assert found.second == found.cut if found.is_next else found.second in middles
            else:
                assert found.cut in starts
            if found.is_next:
                assert found.second == found.cut
            else:
                assert TEXT.document_of(found.second) != TEXT.document_of(start)
                assert segments.halved[i] or (found.second in starts and found.second + size in starts)
                assert TEXT.document_of(found.second) == TEXT.document_of(found.second + size - 1)
                assert 3 not in TEXT.tokens[found.second : found.second + size]
            labels.append(found.is_next)
            cuts.add((i, found.cut))
    assert abs(np.mean(labels) - 0.5) < 5 * 0.5 / len(labels) ** 0.5
    assert none < 0.1 * len(labels)
    assert len(cuts) > 3 * segments.samples  # other draws in other epochs


def test_lengths_say_nothing() -> None:
    """Whatever the lengths of the parts: labels are even. And second parts are alike: the same sentences."""
    segments = cut_segments(np.array(TEXT.bounds), TEXT.sentence_ends, BUDGET)
    rows = []
    for epoch in range(60):
        for i in range(segments.samples):
            found = pair(segments, i, epoch, i)
            if found is not None:
                inside = np.searchsorted(
                    TEXT.sentence_ends, [found.second, found.second + found.stop - found.cut]
                )
                rows.append(
                    (found.cut - found.start, found.stop - found.cut, inside[1] - inside[0], found.is_next)
                )
    table = np.array(rows, float)
    label = table[:, 3] == 1
    bins = np.digitize(table[:, 0], [15, 30, 45]) * 4 + np.digitize(table[:, 1], [15, 30, 45])
    for k in np.unique(bins):
        here = label[bins == k]
        assert abs(here.mean() - 0.5) < 4.5 * 0.5 / len(here) ** 0.5
    # Guess by the rule that half of the rows teach best: the more likely label of each (|A|, |B|).
    cell = (table[:, 0] * 100 + table[:, 1]).astype(int)
    half = np.arange(len(cell)) % 2 == 0
    votes = np.bincount(cell[half], np.where(label[half], 1, -1), minlength=cell.max() + 1)
    right = (votes[cell[~half]] > 0) == label[~half]
    assert abs(right.mean() - 0.5) < 4 * 0.5 / len(right) ** 0.5
    for columns in (1, 2):  # tokens and sentences of the second part
        a, b = table[label, columns], table[~label, columns]
        assert abs(a.mean() - b.mean()) < 4.5 * np.hypot(a.std() / len(a) ** 0.5, b.std() / len(b) ** 0.5)


def test_a_group_of_one_document_has_no_pairs() -> None:
    segments = cut_segments(*bounds_and_ends([[3] * 40]), 20)
    assert all(pair(segments, i, 0, i) is None for i in range(segments.samples))


def loader(kind: str, batch: int, masking: MaskingSettings = SHOW_ALL, corpus: TextCorpus = CORPUS) -> Loader:
    rule = rule_of(kind, LENGTH, vocabulary=VOCABULARY, masking=masking, seed=5, group_tokens=1 << 14)  # type: ignore[arg-type]
    order = order_of_corpus(corpus, "train", None, 100, LENGTH, 3, rule=rule)
    return Loader(corpus, "train", order, BatchPlan([(0, batch)]), 0, 1, batch)


def epoch(kind: str, number: int = 0) -> MicroBatch:
    samples = loader(kind, 1).order.samples_per_epoch[0]
    return loader(kind, samples).batch(number).micro[0]


def test_rows_of_pairs() -> None:
    micro = epoch("pairs")
    assert micro.segments is not None and micro.documents is not None and micro.positions is not None
    assert micro.next_labels is not None and micro.next_weights is not None
    seen, text = 0, TEXT.tokens.astype(np.int64)
    where: dict[bytes, list[int]] = {}
    for at in range(len(text) - 1):
        where.setdefault(text[at : at + 2].tobytes(), []).append(at)

    def places(part: np.ndarray) -> list[int]:
        return [at for at in where[part[:2].tobytes()] if np.array_equal(text[at : at + len(part)], part)]

    for row in range(len(micro.inputs)):
        x, segment, document = micro.inputs[row], micro.segments[row], micro.documents[row]
        used = int((document == 0).sum())
        assert x[0] == SPECIALS["cls"] and x[used - 1] == SPECIALS["sep"] and not x[used:].any()
        assert (document[used:] == 1).all() and SPECIALS["eos"] not in x
        (seps,) = np.nonzero(x == SPECIALS["sep"])
        first = int(seps[0])
        assert not segment[: first + 1].any() and not segment[used:].any()
        assert segment[first + 1 : used].all()
        assert len(seps) == 1 + micro.next_weights[row] and (x[:used] >= 7).sum() == used - 1 - len(seps)
        if micro.next_weights[row] and min(first - 1, used - first - 2) > 1:
            a, b = x[1:first], x[first + 1 : used - 1]
            follows = any(at + len(a) in places(b) for at in places(a))
            assert follows == (micro.next_labels[row] == 0)
            seen += 1
        else:
            assert micro.next_weights[row] or micro.next_labels[row] == 0
    assert seen > 0.8 * len(micro.inputs)
    assert micro.weights.shape == micro.positions.shape == (len(micro.inputs), 9)


def test_rows_of_segments_hold_the_text_once_an_epoch() -> None:
    micro = epoch("segments")
    assert micro.segments is not None and not micro.segments.any()
    assert micro.next_labels is None and micro.next_weights is None
    found = sorted(row[row >= 7].tolist() for row in micro.inputs)
    assert all((row == SPECIALS["sep"]).sum() == 1 for row in micro.inputs)
    text = sorted(t for row in found for t in row)
    assert text == sorted(t for t in TEXT.tokens.tolist() if t != 3)


def test_another_epoch_has_the_same_segments_and_other_draws() -> None:
    a, b = epoch("segments", 0), epoch("segments", 1)
    rows = [sorted(map(bytes, m.inputs)) for m in (a, b)]
    assert rows[0] == rows[1] and not np.array_equal(a.inputs, b.inputs)
    assert a.positions is not None and b.positions is not None
    assert not np.array_equal(a.positions[np.lexsort(a.inputs.T)], b.positions[np.lexsort(b.inputs.T)])


def test_missing_rows_are_padding() -> None:
    one = loader("pairs", 5)
    one.micro_batch = 8
    batch = one.batch(0)
    (micro,) = batch.micro
    assert micro.numbers.tolist() == [0, 1, 2, 3, 4, -1, -1, -1]
    assert micro.documents is not None and (micro.documents[5:] == 1).all()
    assert not micro.weights[5:].any() and not micro.inputs[5:].any()
    assert batch.tokens == micro.weights.sum() and batch.pairs == micro.next_weights.sum()  # type: ignore[union-attr]
    for array in (micro.inputs, micro.targets, micro.positions, micro.documents, micro.segments):
        assert array is not None and array.dtype == np.int64
        assert array.flags.c_contiguous and array.flags.writeable and array.base is None


def test_what_is_too_short_or_has_no_specials_is_refused() -> None:
    with pytest.raises(UserError, match=r"pretrain\.length is 7"):
        rule_of("pairs", 7, vocabulary=VOCABULARY)
