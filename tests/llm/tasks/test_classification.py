"""Classes told right: every metric equals scikit-learn's, also of what a bootstrap draws."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from llm.tasks import classification as ours
from llm.tasks.bootstrap import resampled

AVERAGES = ("macro", "micro", "weighted")
PARTS = {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}


def drawn(seed: int, examples: int, classes: int, right: float) -> tuple[Any, Any]:
    """Truth and guesses of which about so many are right; classes of unequal size."""
    chance = np.random.default_rng(seed)
    shares = chance.dirichlet(np.full(classes, 0.7))
    truth = chance.choice(classes, examples, p=shares)
    guess = np.where(chance.random(examples) < right, truth, chance.choice(classes, examples, p=shares))
    return truth, guess


CASES = {
    **{f"random {n} {c}": (*drawn(n + c, n, c, 0.6), c) for n in (2, 7, 200) for c in (2, 3, 9)},
    "all right": (np.array([0, 1, 2, 1]), np.array([0, 1, 2, 1]), 3),
    "all wrong": (np.array([0, 1, 0, 1]), np.array([1, 0, 1, 0]), 2),
    "one class only": (np.array([1, 1, 1]), np.array([1, 1, 1]), 2),
    "constant guess": (np.array([0, 1, 2, 2]), np.array([2, 2, 2, 2]), 3),
    "constant truth": (np.array([2, 2, 2, 2]), np.array([0, 1, 2, 2]), 3),
    "a class that stands nowhere": (np.array([0, 2, 2]), np.array([2, 0, 2]), 4),
    "one example": (np.array([1]), np.array([0]), 2),
}


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """scikit-learn warns where it divides by zero, which is what many of these cases are for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("case", CASES)
def test_one_class_equals_scikit_learn(case: str) -> None:
    truth, guess, classes = CASES[case]
    labels = list(range(classes))
    confusion = ours.confusion_matrix(truth, guess, classes)
    assert confusion.tolist() == sk.confusion_matrix(truth, guess, labels=labels).tolist()
    assert close(ours.accuracy(confusion), sk.accuracy_score(truth, guess))
    assert close(ours.matthews(confusion), sk.matthews_corrcoef(truth, guess))
    tally = ours.tally_of_confusion(confusion)
    compare(tally, lambda of, average: of(truth, guess, labels=labels, average=average, zero_division=0))


def test_matthews_of_many_examples_keeps_its_digits() -> None:
    truth, guess = drawn(3, 300_000, 2, 0.8)
    confusion = ours.confusion_matrix(truth, guess, 2)
    hits, wrong = confusion[1, 1] * confusion[0, 0], confusion[0, 1] * confusion[1, 0]
    exact = (int(hits) - int(wrong)) / np.prod(np.sqrt([*confusion.sum(0), *confusion.sum(1)]))
    assert close(ours.matthews(confusion), exact)
    assert close(ours.matthews(confusion), sk.matthews_corrcoef(truth, guess))


def labels_drawn(seed: int, examples: int, classes: int) -> tuple[Any, Any]:
    chance = np.random.default_rng(seed)
    truth = (chance.random((examples, classes)) < chance.random(classes)).astype(np.int64)
    return truth, np.where(chance.random(truth.shape) < 0.7, truth, 1 - truth)


LABEL_CASES = {
    **{f"random {n} {c}": labels_drawn(n * c, n, c) for n in (1, 5, 120) for c in (2, 6)},
    "no label anywhere": (np.zeros((4, 3), np.int64), np.zeros((4, 3), np.int64)),
    "nothing guessed": (np.array([[1, 0], [1, 1]]), np.zeros((2, 2), np.int64)),
    "everything guessed": (np.array([[1, 0], [0, 0]]), np.ones((2, 2), np.int64)),
}


@pytest.mark.parametrize("case", LABEL_CASES)
def test_any_number_of_classes_equals_scikit_learn(case: str) -> None:
    truth, guess = LABEL_CASES[case]
    assert close(ours.exact_match(truth, guess), sk.accuracy_score(truth, guess))
    assert close(ours.hamming_loss(truth, guess), sk.hamming_loss(truth, guess))
    tally = ours.tally_of_labels(truth, guess)
    compare(tally, lambda of, average: of(truth, guess, average=average, zero_division=0))


def test_counts_are_examples_taken_so_often() -> None:
    """What a bootstrap measures is what scikit-learn says of the examples that it drew."""
    truth, guess = drawn(1, 60, 4, 0.5)
    many, told = labels_drawn(2, 60, 3)
    counts = next(resampled(60, 20, seed=5))
    confusion = ours.confusion_matrix(truth, guess, 4, counts)
    tally, by_label = ours.tally_of_confusion(confusion).averages(), ours.tally_of_labels(many, told, counts)
    for row, times in enumerate(counts.astype(int)):
        taken = np.repeat(np.arange(60), times)
        assert len(taken) == 60
        pair, labels = (truth[taken], guess[taken]), [0, 1, 2, 3]
        assert close(ours.accuracy(confusion)[row], sk.accuracy_score(*pair))
        assert close(ours.matthews(confusion)[row], sk.matthews_corrcoef(*pair))
        wanted = sk.f1_score(*pair, labels=labels, average="weighted", zero_division=0)
        assert close(tally["f1_weighted"][row], wanted)
        wanted = sk.precision_score(*pair, labels=labels, average="macro", zero_division=0)
        assert close(tally["precision_macro"][row], wanted)
        pair = (many[taken], told[taken])
        assert close(ours.exact_match(many, told, counts)[row], sk.accuracy_score(*pair))
        assert close(ours.hamming_loss(many, told, counts)[row], sk.hamming_loss(*pair))
        wanted = sk.recall_score(*pair, average="micro", zero_division=0)
        assert close(by_label.averages()["recall_micro"][row], wanted)


def test_without_examples_everything_is_zero() -> None:
    none = np.zeros(0, np.int64)
    confusion = ours.confusion_matrix(none, none, 3)
    found = [ours.accuracy(confusion), ours.matthews(confusion), ours.mean_of(np.zeros(0))]
    found += list(ours.tally_of_confusion(confusion).averages().values())
    found += [ours.exact_match(none.reshape(0, 2), none.reshape(0, 2)), ours.hamming_loss(none, none)]
    assert [float(value) for value in found] == [0.0] * len(found)


def compare(tally: ours.Tally, truth: Any) -> None:
    averages = tally.averages()
    for name, of in PARTS.items():
        np.testing.assert_allclose(getattr(tally, name), truth(of, None), rtol=0, atol=1e-12, err_msg=name)
        for average in AVERAGES:
            assert close(averages[f"{name}_{average}"], truth(of, average)), (name, average)


def close(ours: Any, theirs: float) -> bool:
    return float(ours) == pytest.approx(float(theirs), rel=0, abs=1e-12)
