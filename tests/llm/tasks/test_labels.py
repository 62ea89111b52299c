"""Classes: their order, weights as scikit-learn has them, and what is said of odd ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from cluster.errors import UserError
from llm.tasks.example_fields import Example
from llm.tasks.labels import (
    balanced_weights,
    choose_labels,
    classes_of,
    count_classes,
    notes_on_classes,
    unknown_class,
)


def examples(*names: str) -> list[Example]:
    return [Example(f"f:{number}", ("t",), name) for number, name in enumerate(names)]


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=6))
def test_weights_are_those_of_scikit_learn(counts: list[int]) -> None:
    y = np.repeat(np.arange(len(counts)), counts)
    theirs = compute_class_weight("balanced", classes=np.arange(len(counts)), y=y)
    assert np.allclose(balanced_weights(counts), theirs, rtol=1e-12)


def test_a_class_without_examples_has_no_weight() -> None:
    assert balanced_weights([2, 0, 6]) == [2.0, 0.0, 8 / 12]


def test_whole_numbers_are_in_their_order() -> None:
    assert classes_of(examples("10", "9", "-1")) == ["-1", "9", "10"]
    assert classes_of(examples("10", "9", "x")) == ["10", "9", "x"]


def test_what_is_counted() -> None:
    words = [Example("f:1", ("x", "y", "z"), ("O", "O", "P"))]
    assert count_classes(words, ["O", "P", "Q"], per_word=True) == {"O": 2, "P": 1, "Q": 0}
    assert count_classes(words, ["O", "P", "Q"], per_word=False) == {"O": 1, "P": 1, "Q": 0}


def test_unbalanced_classes_are_told() -> None:
    (note,) = notes_on_classes("classification", {"yes": 40, "no": 10}, balanced=False)
    assert "40 examples of 'yes', 10 of 'no'" in note and "class_weights balanced" in note
    assert notes_on_classes("classification", {"yes": 39, "no": 10}, balanced=False) == []
    (note,) = notes_on_classes("token_classification", {"O": 90, "P": 5}, balanced=True)
    assert "words" in note and "class_weights" not in note
    (note,) = notes_on_classes("classification", {"Yes": 5, "no": 5, " yes": 5}, balanced=False)
    assert "'Yes', ' yes' differ only by" in note


@pytest.mark.parametrize(
    ("kind", "given_labels", "names", "says"),
    [
        ("classification", (), ("a", "a"), "only the class 'a'"),
        ("regression", ("a",), (), "has no classes"),
        ("classification", ("a", "b", "a"), ("a", "b"), "'a' stands there twice"),
        ("multi_label", (), (), "no example of the training part has a class"),
    ],
)
def test_labels_that_cannot_be(
    kind: str, given_labels: tuple[str, ...], names: tuple[str, ...], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        choose_labels(kind, given_labels, examples(*names))  # type: ignore[arg-type]


def test_an_unknown_class_is_told_with_the_nearest() -> None:
    example = examples("positiv")[0]
    assert unknown_class(example, ["negative", "positive"], "those of train") == (
        "class 'positiv' is none of those of train; did you mean 'positive'?"
    )
    assert unknown_class(examples("positive")[0], ["negative", "positive"], "x") is None
