"""What each example of a part came to, as arrays that the metrics of its kind are taken from.

Shapes: N examples, U units that are judged (words, where an example has many), C classes, ... the resamples
of a bootstrap. `numbers(counts)` gives each metric [...] with each example counted so often ([..., N]; None:
once).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llm.tasks import classification, correlation
from llm.tasks.classification import Floats, Ints, Tally, mean_of

AVERAGES = ("macro", "micro", "weighted")


class Judged(Protocol):
    """The examples of a part, judged one by one."""

    @property
    def examples(self) -> int:
        """How many there are: what a bootstrap draws from."""

    def numbers(self, counts: Floats | None = None) -> dict[str, Floats]:
        """Each metric of the kind by its name."""


@dataclass(frozen=True)
class Classes:
    """One class for each unit."""

    labels: Sequence[str]
    truth: Ints  # [U]
    guess: Ints  # [U]
    nats: Floats  # [U]: loss of each
    examples: int
    example: Ints | None = None  # [U]: of which example each unit is; None: each is one
    correlated: bool = True
    """Whether Matthews' correlation is among the metrics."""

    def confusion(self, counts: Floats | None = None) -> Floats:
        """[..., C, C] with the true classes as rows."""
        return classification.confusion_matrix(self.truth, self.guess, len(self.labels), counts, self.example)

    def tally(self) -> Tally:
        """Hits, guesses and truths of each class."""
        return classification.tally_of_confusion(self.confusion())

    def numbers(self, counts: Floats | None = None) -> dict[str, Floats]:
        confusion = self.confusion(counts)
        tally = classification.tally_of_confusion(confusion)
        found = {"loss": self._loss(counts), "accuracy": classification.accuracy(confusion)}
        found |= tally.averages()
        if self.correlated:
            found["matthews"] = classification.matthews(confusion)
        if self.correlated and len(self.labels) == 2:
            found |= {name: getattr(tally, name)[..., 1] for name in ("precision", "recall", "f1")}
        return found | _by_class(tally, self.labels)

    def _loss(self, counts: Floats | None) -> Floats:
        """Mean over the units."""
        if self.example is None:
            return mean_of(self.nats, counts)
        nats, units = (np.bincount(self.example, each, self.examples) for each in (self.nats, None))
        return mean_of(nats, counts, units.astype(np.float64))


@dataclass(frozen=True)
class ManyLabels:
    """Any number of classes for each example."""

    labels: Sequence[str]
    truth: Ints  # [N, C]: 0 or 1
    guess: Ints  # [N, C]
    nats: Floats  # [N]: mean loss of its C decisions

    @property
    def examples(self) -> int:
        return len(self.truth)

    def tally(self) -> Tally:
        """Hits, guesses and truths of each class."""
        return classification.tally_of_labels(self.truth, self.guess)

    def numbers(self, counts: Floats | None = None) -> dict[str, Floats]:
        tally = classification.tally_of_labels(self.truth, self.guess, counts)
        return {
            "loss": mean_of(self.nats, counts),
            "exact_match": classification.exact_match(self.truth, self.guess, counts),
            "hamming": classification.hamming_loss(self.truth, self.guess, counts),
            **tally.averages(),
            **_by_class(tally, self.labels),
        }


@dataclass(frozen=True)
class Numbers:
    """A number for each example."""

    truth: Floats  # [N]
    guess: Floats  # [N]

    @property
    def examples(self) -> int:
        return len(self.truth)

    def numbers(self, counts: Floats | None = None) -> dict[str, Floats]:
        names = ("mse", "mae", "pearson", "spearman", "r2")
        found = {name: getattr(correlation, name)(self.truth, self.guess, counts) for name in names}
        return {"loss": found["mse"], **found}


@dataclass(frozen=True)
class Answers:
    """A piece of text for each example."""

    exact: Floats  # [N]: 1 where the answer is a right one
    f1: Floats  # [N]: of its words
    nats: Floats  # [N]: summed loss of the ends of its spans, in all its windows
    ends: Floats  # [N]: how many those are

    @property
    def examples(self) -> int:
        return len(self.exact)

    def numbers(self, counts: Floats | None = None) -> dict[str, Floats]:
        return {
            "loss": mean_of(self.nats, counts, self.ends),
            "exact_match": mean_of(self.exact, counts),
            "f1": mean_of(self.f1, counts),
        }


@dataclass(frozen=True)
class Texts:
    """Tokens that were to be written, for each example."""

    nats: Floats  # [N]: summed over its tokens
    hits: Floats  # [N]: tokens that were the likeliest
    tokens: Floats  # [N]

    @property
    def examples(self) -> int:
        return len(self.nats)

    def numbers(self, counts: Floats | None = None) -> dict[str, Floats]:
        loss = mean_of(self.nats, counts, self.tokens)
        return {
            "loss": loss,
            "perplexity": np.exp(np.minimum(loss, 700.0)),  # where doubles end
            "token_accuracy": mean_of(self.hits, counts, self.tokens),
        }


@dataclass(frozen=True)
class Written:
    """Answers that a model wrote, for each example."""

    exact: Floats  # [N]
    f1: Floats  # [N]

    @property
    def examples(self) -> int:
        return len(self.exact)

    def numbers(self, counts: Floats | None = None) -> dict[str, Floats]:
        return {"exact_match": mean_of(self.exact, counts), "f1": mean_of(self.f1, counts)}


def class_name(metric: str, label: str) -> str:
    """Of a class' own metric; a class that is called as an average is told apart from it."""
    return f"{metric}_class_{label}" if label in AVERAGES else f"{metric}_{label}"


def _by_class(tally: Tally, labels: Sequence[str]) -> dict[str, Floats]:
    f1 = tally.f1
    return {class_name("f1", label): f1[..., at] for at, label in enumerate(labels)}
