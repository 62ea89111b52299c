"""Answers that are pieces of text: words against their golds, spans against a search of all."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from llm.tasks.spans import best_spans, exact_match, normalized, token_f1

# What SQuAD's own evaluation does to a text (Rajpurkar et al. 2016).
NORMALIZED = {
    "The Cat": "cat",
    "a  man,\n an\tOX!": "man ox",
    "U.S.A.": "usa",
    "theatre": "theatre",
    "an-other": "another",
    "  ": "",
    "the a an": "",
    "Überall — l'été": "überall — lété",
    "3.14": "314",
}


@pytest.mark.parametrize("text", NORMALIZED)
def test_normalisation(text: str) -> None:
    assert normalized(text) == NORMALIZED[text]


@pytest.mark.parametrize(
    ("answer", "golds", "exact", "f1"),
    [
        ("Denver Broncos", ["the Denver Broncos"], 1, 1.0),
        ("Denver", ["Denver Broncos", "Broncos"], 0, 2 / 3),
        ("Broncos of Denver", ["Denver Broncos", "Denver"], 0, 0.8),
        ("to be to be", ["to be"], 0, 2 * 2 / 6),
        ("", [], 1, 1.0),
        ("the", [], 1, 1.0),
        ("something", [], 0, 0.0),
        ("", ["something"], 0, 0.0),
        ("!", ["a"], 1, 1.0),
        ("wrong", ["right", "correct"], 0, 0.0),
    ],
)
def test_words_against_golds(answer: str, golds: list[str], exact: float, f1: float) -> None:
    assert exact_match(answer, golds) == exact
    assert token_f1(answer, golds) == pytest.approx(f1, rel=0, abs=1e-12)


def test_token_f1_is_scikit_learns_over_words() -> None:
    """Of answers without a word twice: each word of either is an example, in the gold or not, said or not."""
    chance = np.random.default_rng(0)
    words = [f"word{i}" for i in range(8)]
    for _ in range(30):
        gold, said = chance.random(8) < 0.5, chance.random(8) < 0.5
        if gold.any() and said.any():
            texts = [" ".join(w for w, there in zip(words, which) if there) for which in (said, gold)]
            wanted = f1_score(gold, said, zero_division=0)
            assert token_f1(texts[0], [texts[1]]) == pytest.approx(wanted, rel=0, abs=1e-12)


@pytest.mark.parametrize("most", [1, 3, 30])
def test_best_spans_are_those_of_a_search_of_all(most: int) -> None:
    chance = np.random.default_rng(most)
    start, end = chance.normal(size=(2, 40, 17))
    allowed = chance.random((40, 17)) < 0.7
    found = best_spans(start, end, allowed, most)
    for row in range(40):
        spans = [
            (start[row, s] + end[row, e], s, e)
            for s in range(17)
            for e in range(s, min(s + most, 17))
            if allowed[row, s] and allowed[row, e]
        ]
        assert (found.score[row], found.start[row], found.end[row]) == max(spans)


def test_no_token_allowed_is_no_span() -> None:
    found = best_spans(np.ones((2, 4)), np.ones((2, 4)), np.array([[False] * 4, [False, True, False, True]]))
    assert found.score.tolist() == [-np.inf, 2.0]
    assert (found.start[1], found.end[1]) == (1, 1), "of equal spans the shortest, and of these the first"
