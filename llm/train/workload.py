"""What a run trains: a model, samples in an order, and what a validation is.

Pretraining and fine-tuning differ here alone: loop, engines, checkpoints, elastic groups and tracking are one
for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from data_jobs.tokens.tokenizer import Tokenizer
from llm.data.batches import BatchPlan
from llm.data.loader import BatchLoader, SampleOrder
from llm.model import Model
from llm.model.inputs import Inputs
from llm.train.group import Group
from llm.train.mfu import Utilisation
from llm.train.objective import What

Forward = Callable[[Inputs, What], Tensor]


class Workload(Protocol):
    """Made by each worker from its job, on the worker's own machine."""

    facts: dict[str, Any]
    """Of the data, for a checkpoint's index: what identifies it."""
    z_loss: float
    has_validation: bool
    tokenizer: Tokenizer

    @property
    def order(self) -> SampleOrder:
        """Of the training samples."""
        ...

    def fresh_model(self) -> Model:
        """With initial weights, a function of (settings, seed)."""
        ...

    def fill(self, model: Model) -> None:
        """The first weights, those of the model that the run starts from; nothing where it starts anew."""
        ...

    def loader(self, plan: BatchPlan, group: Group, micro_batch: int) -> BatchLoader:
        """The training samples for one worker."""
        ...

    def validate(
        self, most: int | None, model: Model, forward: Forward, group: Group, beat: Callable[[], None]
    ) -> dict[str, Any]:
        """Numbers by their names in metrics.jsonl, equal on all workers; `most`: samples, None: all."""
        ...

    def measure_by(self, group: Group) -> Utilisation:
        """What tokens/s are measured by."""
        ...

    def score(self, found: dict[str, Any]) -> float | None:
        """Of a validation's numbers what checkpoints are compared by: the lowest is best."""
        ...

    def start_of_text(self) -> Sequence[int]:
        """What stands before a text that the model writes."""
        ...
