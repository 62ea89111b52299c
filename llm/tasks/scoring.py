"""A model over a part of the examples, on all workers together, to its metrics.

Rows go through in batches that are the same for any number of workers, each batch through one of them: so the
numbers are the same to the bit, on the same device with as many threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from llm.data.batches import worker_slice
from llm.data.samples import MicroBatch
from llm.model.inputs import Inputs
from llm.tasks.example_rows import Examples
from llm.tasks.inputs import inputs_of
from llm.tasks.judged import Judged
from llm.tasks.judging import Loss, judge, metric_names, numbers_of, score
from llm.tasks.kept import Kept, joined, kept_of
from llm.tasks.references import References
from llm.tasks.windows import by_example, rows_of

__all__ = ["Scored", "evaluate_part", "metric_names", "score"]

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


@dataclass(frozen=True)
class Scored:
    """What a part came to, the same on all workers."""

    numbers: dict[str, float]
    """Each metric by its name."""
    judged: Judged
    """What intervals and tables are taken from."""
    outputs: Any
    """Of each example, in their order: as `judging.score` takes them; so are `truth`s."""
    truth: Any
    rows: int


def evaluate_part(
    model: nn.Module,
    forward: Forward,
    examples: Examples,
    group: Workers,
    batch: int,
    beat: Callable[[], None] = lambda: None,
    most: int | None = None,
) -> Scored:
    """Score `examples`, `batch` rows a forward; `beat` is called after each.

    `most`: only so many examples, spread evenly over the part. Windows of one text are joined: logits by
    their mean, answers by the best span. With ZeRO 3 all workers must call this together.
    """
    references = examples.references()
    rows = rows_of(references.example_of, references.examples, most)
    batches = [rows[first : first + batch] for first in range(0, len(rows), batch)]
    mine = batches[worker_slice(len(batches), group.rank, group.world)]
    steps = -(-len(batches) // group.world)  # the same on each worker, so that each joins every collective
    kept = []
    for numbers in mine + [rows[:0]] * (steps - len(mine)):
        micro, _ = examples.make(numbers, numbers, batch)
        with torch.no_grad():
            outputs = forward(inputs_of(micro, group.device), "outputs").float().cpu().numpy()
        kept.append(kept_of(examples.kind, micro, outputs, _allowed(references, micro)))
        beat()
    whole = joined(group.gather(joined(kept)))
    loss: Loss = getattr(getattr(model, "task", None), "loss", "cross_entropy")
    found, truth = by_example(references, whole)
    judged = judge(examples.kind, found, truth, examples.labels, loss)
    return Scored(numbers_of(judged), judged, found, truth, len(rows))


def _allowed(references: References, micro: MicroBatch) -> npt.NDArray[np.bool_] | None:
    """[B, T]: of question answering, the tokens that an answer may begin and end with."""
    if references.places is None:
        return None
    rows, width = micro.inputs.shape
    allowed = np.zeros((rows, width), bool)
    for at, row in enumerate(micro.numbers.tolist()):
        if row >= 0:
            allowed[at] = references.places[row].allowed(width)
    return allowed
