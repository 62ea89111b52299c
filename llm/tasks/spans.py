"""Answers that are pieces of text: which span a model means, how near its words come to an answer.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MOST_TOKENS = 30  # of an answer, as BERT's own evaluation has it (Devlin et al. 2019, run_squad's default)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(answer: str) -> str:
    """Small letters, without ASCII punctuation and English articles, one blank between words.

    Rajpurkar et al. 2016, section 6.1: "ignore punctuations and articles (a, an, the)".
    """
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(answer: str, golds: Sequence[str]) -> float:
    """1 where the answer is one of the golds, normalized; without a gold the empty answer is right."""
    return max(float(normalized(answer) == normalized(gold)) for gold in golds or ("",))


def token_f1(answer: str, golds: Sequence[str]) -> float:
    """F1 over the bag of words, normalized, against the gold that it is highest for.

    Of two empty ones 1, of one empty one 0 (Rajpurkar et al. 2018). Without a gold the empty answer is right.
    """
    return max(_f1(normalized(answer).split(), normalized(gold).split()) for gold in golds or ("",))


def _f1(answer: list[str], gold: list[str]) -> float:
    if not answer or not gold:
        return float(answer == gold)
    same = (Counter(answer) & Counter(gold)).total()
    return 2 * same / (len(answer) + len(gold))


class Spans(NamedTuple):
    """The best span of each row [B]; its score is start logit + end logit, -inf where no token is allowed."""

    score: npt.NDArray[np.float64]
    start: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]


def best_spans(
    start: npt.NDArray[np.floating],
    end: npt.NDArray[np.floating],
    allowed: npt.NDArray[np.bool_],
    most: int = MOST_TOKENS,
) -> Spans:
    """Of each row [B, T] the span of 1 to `most` tokens with the highest score, its ends among the allowed.

    Of equal ones the shortest, and of these the first.
    """
    first = np.where(allowed, start.astype(np.float64), -np.inf)
    last = np.where(allowed, end.astype(np.float64), -np.inf)
    rows, columns = np.arange(len(first)), first.shape[1]
    best = Spans(np.full(len(first), -np.inf), np.zeros(len(first), np.int64), np.zeros(len(first), np.int64))
    for further in range(min(most, columns)):
        scores = first[:, : columns - further] + last[:, further:]
        at = scores.argmax(1)
        score = scores[rows, at]
        better = score > best.score
        best = Spans(*(np.where(better, new, old) for new, old in zip((score, at, at + further), best)))
    return best
