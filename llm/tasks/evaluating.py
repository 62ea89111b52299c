"""A model over a part of the examples, on all workers together, to its metrics.

Rows go through in batches that are the same for any number of workers, each batch through one of them: so the
numbers are the same to the bit, on the same device with as many threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llm.data.batches import worker_slice
from llm.data.samples import MicroBatch
from llm.model.inputs import Inputs
from llm.tasks.classification import Ints
from llm.tasks.inputs import inputs_of
from llm.tasks.judged import Judged
from llm.tasks.kept import Kept, joined, kept_of
from llm.tasks.scoring import Loss, judge, numbers_of
from llm.tasks.windows import answer_tokens, best_answers, by_words, golds_of, mean_logits, rows_of

Forward = Callable[[Inputs, Literal["outputs"]], Tensor]


class Workers(Protocol):
    """This worker among the others (llm.train.group.Group)."""

    @property
    def rank(self) -> int: ...
    @property
    def world(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    def gather(self, value: Kept) -> list[Kept]:
        """What each worker has, in the order of their ranks, on all of them."""


class Part(Protocol):
    """A part of the examples (llm.tasks.examples.Examples)."""

    kind: str
    labels: Sequence[str]

    @property
    def rows(self) -> int: ...
    @property
    def examples(self) -> int: ...
    def make(self, indices: Ints, numbers: Ints, rows: int) -> tuple[MicroBatch, int]: ...
    def example_of(self, row: int) -> int: ...
    @property
    def answers(self) -> Sequence[Sequence[str]]:
        """question_answering: of each example the texts of its right answers."""

    def is_context(self, row: int) -> npt.NDArray[np.bool_]:
        """question_answering [T]: which tokens of a row are of the context."""

    def text_of(self, row: int, start: int, end: int) -> str:
        """question_answering: the piece of the context that these tokens of a row span."""


@dataclass(frozen=True)
class Scored:
    """What a part came to, the same on all workers."""

    numbers: dict[str, float]
    """Each metric by its name."""
    judged: Judged
    """What intervals and tables are taken from."""
    outputs: Any
    """Of each example, in their order: as `scoring.score` takes them."""
    rows: int


def evaluate_part(
    model: torch.nn.Module,
    forward: Forward,
    examples: Part,
    group: Workers,
    batch: int,
    beat: Callable[[], None] = lambda: None,
    most: int | None = None,
) -> Scored:
    """Score `examples`, `batch` rows a forward; `beat` is called after each.

    `most`: only so many examples, spread evenly over the part. Windows of one text are joined: logits by their
    mean, answers by the best span. With ZeRO 3 all workers must call this together.
    """
    kind, example_of_row = examples.kind, _examples_of(examples, np.arange(examples.rows))
    rows = rows_of(example_of_row, examples.examples, most)
    batches = [rows[first : first + batch] for first in range(0, len(rows), batch)]
    mine = batches[worker_slice(len(batches), group.rank, group.world)]
    steps = -(-len(batches) // group.world)  # the same on each worker, so that each joins every collective
    kept = []
    for numbers in mine + [rows[:0]] * (steps - len(mine)):
        micro, _ = examples.make(numbers, numbers, batch)
        with torch.no_grad():
            outputs = forward(inputs_of(micro, group.device), "outputs").float().cpu().numpy()
        kept.append(kept_of(kind, micro, outputs, _allowed(examples, micro)))
        beat()
    whole = joined(group.gather(joined(kept)))
    loss: Loss = getattr(getattr(model, "task", None), "loss", "cross_entropy")
    found, references = _by_example(examples, whole, example_of_row[whole["row"]])
    judged = judge(kind, found, references, examples.labels, loss)
    return Scored(numbers_of(judged), judged, found, len(rows))


def _by_example(examples: Part, kept: Kept, example: Ints) -> tuple[Any, Any]:
    """What `judge` takes."""
    match examples.kind:
        case "token_classification":
            return by_words(kept, example)
        case "instruction":
            return answer_tokens(kept), None
        case "question_answering":
            golds = examples.answers
            may_be_none = any(not texts for texts in golds)
            found = best_answers(kept, example, examples.text_of, may_be_none)
            return found, golds_of(golds, example)
    return mean_logits(kept, example)


def _allowed(examples: Part, micro: MicroBatch) -> npt.NDArray[np.bool_] | None:
    """[B, T]: of question answering, the tokens of the context."""
    if examples.kind != "question_answering":
        return None
    allowed = np.zeros(micro.inputs.shape, bool)
    for at, row in enumerate(micro.numbers.tolist()):
        if row >= 0:
            there = examples.is_context(row)
            allowed[at, : len(there)] = there
    return allowed


def _examples_of(examples: Part, rows: Ints) -> Ints:
    return np.array([examples.example_of(row) for row in rows.tolist()], np.int64)
