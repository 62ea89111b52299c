import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import UserError
from llm.data import ArrayStream, MicroBatch, Validation, rule_of, validation_of_corpus, validation_of_tokens
from llm.data.rows import Origin
from llm.data.rules import Kind, StreamRule
from tests.llm.data.reference import VOCABULARY, ArrayCorpus, Text, TextCorpus


def predictions(micro_batches: list[MicroBatch]) -> list[tuple[int, int]]:
    """(input, target) of each position with weight, in order."""
    pairs = []
    for micro in micro_batches:
        assert set(np.unique(micro.weights)) <= {0.0, 1.0}
        real = micro.weights == 1
        pairs += list(zip(micro.inputs[real].tolist(), micro.targets[real].tolist(), strict=True))
    return pairs


def circle(tokens: np.ndarray) -> list[tuple[int, int]]:
    """Each token after the one before it, the first after the last: (0, 1), (1, 2), ..., (T-1, 0)."""
    return list(zip(tokens.tolist(), np.roll(tokens, -1).tolist(), strict=True))


cases = st.tuples(
    st.lists(st.integers(0, 90), min_size=1, max_size=4).filter(any),
    st.integers(1, 12),
    st.integers(1, 5),
    st.sampled_from([1, 2, 3, 5, 7, 64]),
)


@given(cases)
def test_every_token_is_predicted_exactly_once(case: tuple[list[int], int, int, int]) -> None:
    sizes, length, micro, world = case
    arrays = [np.arange(size, dtype=np.uint16) + 1_000 * (k + 1) for k, size in enumerate(sizes)]
    origins = [Origin(str(k), ArrayStream(a)) for k, a in enumerate(arrays)]
    workers = [Validation(origins, StreamRule(length), micro, r, world) for r in range(world)]
    found, shapes, counts = [], set(), set()
    for worker in workers:
        mine = list(worker)
        shapes |= {(m.inputs.shape, m.targets.shape, m.weights.shape) for m in mine}
        counts.add(len(mine))
        found += predictions(mine)
    assert found == [pair for array in arrays for pair in circle(array)]
    assert shapes == {((micro, length),) * 3} and counts == {workers[0].micro_steps}  # static, equal
    assert workers[0].tokens == sum(sizes) == len(found)


def test_rows_by_hand() -> None:
    (micro,) = validation_of_tokens(np.array([5, 6, 7, 8, 9, 2], np.uint16), 4, 3)
    assert micro.inputs.tolist() == [[5, 6, 7, 8], [9, 2, 5, 0], [0, 0, 0, 0]]
    assert micro.targets.tolist() == [[6, 7, 8, 9], [2, 5, 0, 0], [0, 0, 0, 0]]
    assert micro.weights.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert micro.numbers.tolist() == [0, 1, -1]


def test_a_text_shorter_than_a_row() -> None:
    validation = validation_of_tokens(np.array([4, 2], np.uint32), 10, 1)
    assert predictions(list(validation)) == [(4, 2), (2, 4)] and validation.rows == 1
    assert predictions(list(validation_of_tokens(np.array([2], np.uint32), 10, 1))) == [(2, 2)]


def test_the_same_at_every_evaluation() -> None:
    validation = validation_of_tokens(np.arange(100, dtype=np.uint16), 8, 2)
    assert predictions(list(validation)) == predictions(list(validation))


def test_max_rows_takes_the_first_of_each_source() -> None:
    arrays = {"a": np.arange(80, dtype=np.uint16), "b": np.arange(100, 141, dtype=np.uint16)}
    corpus = ArrayCorpus({"val": arrays})
    validation = validation_of_corpus(corpus, "val", 8, 4, max_rows=5)  # 10 rows and 6
    expected = circle(arrays["a"])[:24] + circle(arrays["b"])[:16]
    assert predictions(list(validation)) == expected
    assert (validation.rows, validation.tokens) == (5, 40)
    assert validation_of_corpus(corpus, "val", 8, 4, max_rows=999).tokens == 121
    only_b = validation_of_corpus(corpus, "val", 8, 4, sources=["b"])
    assert predictions(list(only_b)) == circle(arrays["b"])


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(1, 9), st.data())
def test_max_rows_counts_its_tokens(sizes: list[int], length: int, data: st.DataObject) -> None:
    most = data.draw(st.integers(len(sizes), 80))
    origins = [Origin(str(k), ArrayStream(np.arange(size, dtype=np.uint16))) for k, size in enumerate(sizes)]
    validation = Validation(origins, StreamRule(length), 3, max_rows=most)
    assert len(predictions(list(validation))) == validation.tokens
    assert validation.rows == min(most, sum(-(-size // length) for size in sizes))


def test_nothing_to_evaluate_is_refused() -> None:
    with pytest.raises(UserError, match="corpus.val_fraction"):
        validation_of_tokens(np.array([], np.uint16), 8, 1)
    with pytest.raises(UserError, match="worker 2 of 2"):
        validation_of_tokens(np.array([1], np.uint16), 8, 1, rank=2, world=2)


TEXTS = TextCorpus({"val": {"a": Text(3, 60), "b": Text(4, 20)}})


def of_bert(
    kind: Kind, rank: int = 0, world: int = 1, max_rows: int | None = None, seed: int = 0
) -> Validation:
    rule = rule_of(kind, 40, vocabulary=VOCABULARY, seed=seed, group_tokens=2000)
    return validation_of_corpus(TEXTS, "val", 40, 4, rank, world, max_rows, rule=rule)


def real_rows(micro_batches: list[MicroBatch]) -> list[tuple[bytes, ...]]:
    """All that is seen of each row."""
    rows = []
    for m in micro_batches:
        arrays = [
            a
            for a in (m.inputs, m.targets, m.weights, m.positions, m.segments, m.next_labels)
            if a is not None
        ]
        rows += [tuple(a[i].tobytes() for a in arrays) for i in range(len(m.inputs)) if m.numbers[i] >= 0]
    return rows


@pytest.mark.parametrize("kind", ["pairs", "segments"])
def test_a_bert_is_evaluated_on_its_samples_once(kind: Kind) -> None:
    alone = of_bert(kind)
    rows = real_rows(list(alone))
    assert len(rows) == alone.rows and rows == real_rows(list(alone)) == real_rows(
        list(of_bert(kind, seed=9))
    )
    for world in (2, 3):
        workers = [of_bert(kind, rank, world) for rank in range(world)]
        assert [row for worker in workers for row in real_rows(list(worker))] == rows
        assert {len(list(worker)) for worker in workers} == {workers[0].micro_steps}
    numbers = np.concatenate([m.numbers for m in alone])
    assert numbers[numbers >= 0].tolist() == list(range(alone.rows))
    texts = [TEXTS.splits["val"][name].tokens for name in "ab"]
    assert alone.tokens == sum(int((t != 3).sum()) for t in texts)
    if kind == "segments":
        seen = sum(int((m.inputs >= 6).sum()) for m in alone)  # [MASK] and text
        assert seen == alone.tokens
    part = of_bert(kind, max_rows=10)
    assert part.rows == 10 and set(real_rows(list(part))) < set(rows) and part.tokens < alone.tokens


def test_documents_of_a_row_each_are_evaluated_as_they_are_trained_on() -> None:
    """Images: a row begins with the eos before one, and its last target is its own."""
    tokens = np.tile(np.array([7, 8, 9, 3]), 5)
    corpus = TextCorpus({"val": {"a": Text(3, 60)}})
    corpus.splits["val"]["a"].stream = ArrayStream(tokens, 3)
    rule = rule_of("bestfit", 4, vocabulary=VOCABULARY)
    rows = list(validation_of_corpus(corpus, "val", 4, 2, rule=rule))
    inputs = np.concatenate([m.inputs[m.weights.sum(1) > 0] for m in rows])
    targets = np.concatenate([m.targets[m.weights.sum(1) > 0] for m in rows])
    assert inputs.tolist() == [[3, 7, 8, 9]] * 5 and targets.tolist() == [[7, 8, 9, 3]] * 5


def test_a_run_of_packed_documents_is_evaluated_on_every_token() -> None:
    text = TEXTS.splits["val"]["a"]
    rule = rule_of("bestfit", 40, vocabulary=VOCABULARY, confine=True)
    validation = validation_of_corpus(TEXTS, "val", 40, 4, sources=["a"], rule=rule)
    micro_batches = list(validation)
    *others, last = circle(text.tokens)  # after the last eos, the first of all: there the first row begins
    assert predictions(micro_batches) == [last, *others] and validation.tokens == len(text.tokens)
    for m in micro_batches:
        assert m.documents is not None
        for x, w, d in zip(m.inputs, m.weights, m.documents, strict=True):
            real = int(w.sum())
            assert d[:real].tolist() == np.cumsum(x[:real] == 3).tolist()
            assert (d[real:] == (d[real - 1] + 1 if real else 1)).all()
    plain = validation_of_corpus(TEXTS, "val", 40, 4, rule=rule_of("bestfit", 40, vocabulary=VOCABULARY))
    assert next(iter(plain)).documents is None
    text_file = validation_of_tokens(text.tokens, 40, 4, eos=3)
    assert next(iter(text_file)).documents is not None
