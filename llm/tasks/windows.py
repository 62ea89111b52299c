"""From rows back to examples: which rows a part is scored on, and windows of one text joined.

Shapes: R rows, N examples, C outputs of the head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llm.tasks.classification import Ints
from llm.tasks.kept import Kept
from llm.tasks.scoring import AnswerTokens, SpanAnswers


def spread(examples: int, most: int | None) -> Ints:
    """All examples, or so many evenly over them: files are often sorted by class."""
    if most is None or most >= examples:
        return np.arange(examples)
    return np.arange(most) * examples // most


def rows_of(example_of_row: Ints, examples: int, most: int | None) -> Ints:
    """The rows [R] of the examples that are scored, in order."""
    if most is None or most >= examples:
        return np.arange(len(example_of_row))
    return np.flatnonzero(np.isin(example_of_row, spread(examples, most)))


def mean_logits(kept: Kept, example: Ints) -> tuple[Any, Any]:
    """Of each example the mean over its rows of their outputs [R, C] in float64, and its targets."""
    _, first, place, rows = np.unique(example, return_index=True, return_inverse=True, return_counts=True)
    sums = np.zeros((len(first), *kept["outputs"].shape[1:]))
    np.add.at(sums, place, kept["outputs"].astype(np.float64))
    return sums / rows.reshape(-1, *[1] * (sums.ndim - 1)), kept["targets"][first]


def by_words(kept: Kept, example: Ints) -> tuple[Any, Any]:
    """Of each example its words' outputs [W, C] and targets [W]."""
    _, first = np.unique(example, return_index=True)
    return np.split(kept["outputs"], first[1:]), np.split(kept["targets"], first[1:])


def best_answers(
    kept: Kept, example: Ints, text_of: Callable[[int, int, int], str], may_be_none: bool
) -> SpanAnswers:
    """Of each example its highest span over all windows; nothing, where each window says that more strongly.

    `text_of(row, start, end)`: the text of those tokens of a row. `may_be_none`: whether a question can be
    without an answer; "none" scores what it does in the window where it is lowest (Devlin et al. 2019, 4.3:
    s_null against the best span).
    """
    texts, nats, ends = [], [], []
    _, first = np.unique(example, return_index=True)
    for rows in np.split(np.arange(len(example)), first[1:]) if len(example) else ():
        best = rows[kept["score"][rows].argmax()]
        none = kept["none"][rows].min()
        found = kept["score"][best] > (none if may_be_none else -np.inf)
        place = (int(kept[name][best]) for name in ("row", "start", "end"))
        texts.append(text_of(*place) if found else "")
        nats.append(kept["nats"][rows].sum())
        ends.append(2.0 * len(rows))
    return SpanAnswers(texts, np.array(nats, np.float64), np.array(ends, np.float64))


def answer_tokens(kept: Kept) -> AnswerTokens:
    """Of each answer: none of them reaches over two rows."""
    return AnswerTokens(kept["nats"], kept["hits"], kept["tokens"])


def golds_of(references: Sequence[Sequence[str]], example: Ints) -> list[Sequence[str]]:
    """The right answers of the examples that were scored."""
    return [references[each] for each in np.unique(example).tolist()]
