"""What a model is worth on held-out rows: sums over all workers, and the means and bits per byte of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cluster.places import Place
from llm.data.rules import Rule
from llm.data.samples import MicroBatch
from llm.data.validation import validation_of_corpus
from llm.model import Model
from llm.model.inputs import Inputs
from llm.settings import PretrainSettings
from llm.tasks.inputs import inputs_of
from llm.tasks.metrics import bits_per_byte
from llm.train.group import Group
from llm.train.objective import What

Forward = Callable[[Inputs, What], Tensor]


@dataclass(frozen=True)
class Measured:
    """Sums by name (`measured` of the model), and what they are sums over."""

    sums: dict[str, float]
    units: dict[str, str]
    counts: dict[str, float]  # weight of the targets and of the pairs

    @property
    def means(self) -> dict[str, float]:
        """Each sum over its count; those over nothing are left out."""
        return {
            name: total / self.counts[self.units[name]]
            for name, total in self.sums.items()
            if self.counts[self.units[name]]
        }

    @property
    def loss(self) -> float:
        """Mean nats: of a token, and of a pair where there are pairs."""
        return sum(value for name, value in self.means.items() if name.endswith("loss"))

    def bits_per_byte(self, size: float) -> float:
        """Of a GPT; `size`: UTF-8 bytes of the text that was seen."""
        return bits_per_byte(self.sums["loss"], size)


def measure(
    model: Model,
    forward: Forward,
    rows: Iterable[MicroBatch],
    group: Group,
    beat: Callable[[], None] = lambda: None,
) -> Measured:
    """Evaluate `rows` on all workers together; `beat` is called after each of them."""
    units = dict(model.measured)
    total = torch.zeros(len(units), dtype=torch.float64)
    tokens = pairs = 0.0
    for micro in rows:
        total += forward(inputs_of(micro, group.device), "measures").double().cpu()
        tokens += float(micro.weights.sum(dtype="f8"))
        pairs += 0.0 if micro.next_weights is None else float(micro.next_weights.sum(dtype="f8"))
        beat()
    tokens, pairs, *sums = group.sum([tokens, pairs, *total.tolist()])
    return Measured(dict(zip(units, sums, strict=True)), units, {"tokens": tokens, "pairs": pairs})


def validate_corpus(
    corpus: Any,
    settings: PretrainSettings,
    rule: Rule,
    plans: Place,
    model: Model,
    forward: Forward,
    group: Group,
    most: int | None,
    beat: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """The numbers of a run's validation by their names in metrics.jsonl; empty where the corpus has no rows.

    `most`: samples; None: all. The one way to them, by the workers that train and beside them.
    """
    tokens, size = split_size(corpus, "val")
    if not tokens:
        return {}
    rows = validation_of_corpus(
        corpus, "val", settings.length, settings.validation.batch, group.rank, group.world, most, rule=rule,
        plans=plans,
    )  # fmt: skip
    found = measure(model, forward, rows, group, beat)
    if "loss" in found.sums:
        return {"val_loss": found.loss, "bits_per_byte": found.bits_per_byte(size * rows.tokens / tokens)}
    return {"val_loss": found.loss, **{f"val_{name}": value for name, value in found.means.items()}}


def split_size(corpus: Any, split: str) -> tuple[int, int]:
    """Tokens and bytes of a split over its sources."""
    streams = [corpus.stream(name, split) for name in corpus.sources(split)]
    return sum(s.tokens for s in streams), sum(s.bytes for s in streams)
