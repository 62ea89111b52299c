"""What a task's outputs are scored against: by example, in the order of the examples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from llm.data.samples import Ints
from llm.finetune_settings import TaskKind
from llm.tasks.columns_file import Column, Ragged, Texts


@dataclass(frozen=True)
class Places:
    """question_answering: what the tokens of one row stand for.

    Token `context_at + i` stands for characters [starts[i], stops[i]) of the context; others are no answer.
    """

    context_at: int
    starts: npt.NDArray[np.int32]
    stops: npt.NDArray[np.int32]

    def allowed(self, width: int) -> npt.NDArray[np.bool_]:
        """[width]: the tokens of a padded row that an answer may begin and end with."""
        found = np.zeros(width, bool)
        found[self.context_at : self.context_at + len(self.starts)] = self.stops > self.starts
        return found

    def text(self, context: str, first: int, last: int) -> str:
        """What the tokens from `first` to `last` of the row spell."""
        at = self.context_at
        return context[self.starts[first - at] : self.stops[last - at]]


@dataclass(frozen=True, eq=False)
class References:
    """Gold labels. E examples, R rows, C classes; what a kind has not is None."""

    kind: TaskKind
    labels: Sequence[str]
    examples: int  # E
    example_of: Ints  # [R]: the example of each row; of packed examples the first
    lines: Ints  # [E]: where each stands in its file, from 1
    classes: Ints | None = None  # [E] classification
    label_sets: Ints | None = None  # [E, C] multi_label: 0 or 1
    values: npt.NDArray[np.float64] | None = None  # [E] regression
    tags: Ragged | None = None  # token_classification: tags of the words that are seen, by row
    tag_places: Ragged | None = None  # their tokens in the row
    tagged_words: Ragged | None = None  # and which words of the example they are
    words: Ints | None = None  # [E]: words of each, seen or not
    contexts: Texts | None = None  # question_answering, by example
    places: Sequence[Places] | None = None  # by row
    answers: Sequence[tuple[str, ...]] | None = None  # question_answering (none: unanswerable), instruction
    prompts: Ragged | None = None  # instruction: the ids after which the last answer is to be written


def references_of(
    kind: TaskKind, labels: Sequence[str], rows: Mapping[str, Column], columns: Mapping[str, Column]
) -> References:
    """The references of a part, from its columns."""
    lines = cast(Ints, columns["line"])
    known: dict[str, Any] = {}
    match kind:
        case "classification":
            known["classes"] = cast(Ints, columns["label"]).astype(np.int64)
        case "multi_label":
            sets = np.zeros((len(lines), len(labels)), np.int64)
            some = cast(Ragged, columns["labels"])
            sets[np.repeat(np.arange(len(lines)), some.lengths), some.values] = 1
            known["label_sets"] = sets
        case "regression":
            known["values"] = columns["value"]
        case "token_classification":
            known |= {name: rows[name] for name in ("tags", "tag_places", "tagged_words")}
            known["words"] = cast(Ints, columns["words"]).astype(np.int64)
        case "question_answering":
            starts, stops = cast(Ragged, rows["span_starts"]), cast(Ragged, rows["span_stops"])
            second_at = cast(Ints, rows["second_at"]).tolist()
            known["places"] = [Places(at, starts[row], stops[row]) for row, at in enumerate(second_at)]
            known |= {"contexts": columns["context"], "answers": _answers(columns)}
        case "instruction":
            known |= {"prompts": columns["prompt"], "answers": _answers(columns)}
    return References(kind, labels, len(lines), cast(Ints, rows["example"]), lines, **known)


def _answers(columns: Mapping[str, Column]) -> list[tuple[str, ...]]:
    texts = cast(Texts, columns["answers"])
    return [tuple(json.loads(texts[number])) for number in range(len(texts))]
