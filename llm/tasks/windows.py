"""From rows back to examples: which rows a part is scored on, and windows of one text joined.

Shapes: R rows, N examples, C outputs of the head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from llm.tasks.classification import Floats, Ints
from llm.tasks.judging import AnswerTokens, SpanAnswers
from llm.tasks.kept import Kept
from llm.tasks.references import References


def spread(examples: int, most: int | None) -> Ints:
    """All of so many, or `most` of them, evenly: files are often sorted by class."""
    if most is None or most >= examples:
        return np.arange(examples)
    return np.arange(most) * examples // most


def rows_of(example_of_row: Ints, examples: int, most: int | None) -> Ints:
    """The rows that are scored, in order: of the chosen examples with all their windows.

    Where several examples are packed in a row, as large a share of the rows.
    """
    rows = len(example_of_row)
    if most is None or most >= examples:
        return np.arange(rows)
    if rows < examples:
        return spread(rows, max(1, most * rows // examples))
    return np.flatnonzero(np.isin(example_of_row, spread(examples, most)))


def by_example(references: References, kept: Kept) -> tuple[Any, Any]:
    """What was kept of rows, sorted, to what `judging.judge` takes: outputs and truth of each example."""
    example = references.example_of[kept["row"]]
    scored = np.unique(example)
    match references.kind:
        case "classification":
            assert references.classes is not None
            return mean_of_rows(kept["outputs"], example), references.classes[scored]
        case "multi_label":
            assert references.label_sets is not None
            return mean_of_rows(kept["outputs"], example), references.label_sets[scored]
        case "regression":
            assert references.values is not None
            return mean_of_rows(kept["outputs"], example), references.values[scored]
        case "token_classification":
            return by_words(kept, example)
        case "question_answering":
            assert references.answers is not None
            answers = references.answers
            found = best_answers(kept, example, _text_of(references), any(not texts for texts in answers))
            return found, [answers[each] for each in scored.tolist()]
    return AnswerTokens(kept["nats"], kept["hits"], kept["tokens"]), None


def mean_of_rows(outputs: npt.NDArray[Any], example: Ints) -> Floats:
    """[N, C]: of each example the mean over its rows of their outputs [R, C], in float64."""
    different, place, rows = np.unique(example, return_inverse=True, return_counts=True)
    sums = np.zeros((len(different), outputs.shape[1]))
    np.add.at(sums, place, outputs.astype(np.float64))
    return sums / rows[:, None]


def by_words(kept: Kept, example: Ints) -> tuple[list[Floats], list[Ints]]:
    """Of each example its words' outputs [W, C] and classes [W]."""
    first = np.unique(example, return_index=True)[1]
    return np.split(kept["outputs"], first[1:]), np.split(kept["targets"], first[1:])


def best_answers(
    kept: Kept, example: Ints, text_of: Callable[[int, int, int], str], may_be_none: bool
) -> SpanAnswers:
    """Of each example its highest span over all windows; nothing, where each window says that more strongly.

    `text_of(row, start, end)`: the text of those tokens of a row. `may_be_none`: whether a question can be
    without an answer; "none" scores what it does in the window where it is lowest (Devlin et al. 2019,
    section 4.3: s_null against the best span).
    """
    texts, nats, ends = [], [], []
    first = np.unique(example, return_index=True)[1]
    for rows in np.split(np.arange(len(example)), first[1:]):
        best = rows[kept["score"][rows].argmax()]
        none = kept["none"][rows].min() if may_be_none else -np.inf
        place = (int(kept[name][best]) for name in ("row", "start", "end"))
        texts.append(text_of(*place) if kept["score"][best] > none else "")
        nats.append(kept["nats"][rows].sum())
        ends.append(2.0 * len(rows))
    return SpanAnswers(texts, np.array(nats), np.array(ends))


def _text_of(references: References) -> Callable[[int, int, int], str]:
    places, contexts = references.places, references.contexts
    assert places is not None and contexts is not None
    return lambda row, start, end: places[row].text(contexts[int(references.example_of[row])], start, end)
