"""The rows of an evaluation: a split once, always the same (C7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.errors import UserError
from cluster.places import Place
from llm.data.batches import micro_steps, worker_slice
from llm.data.mixture import share_out
from llm.data.plans import plan_of
from llm.data.rows import Origin, SentenceRows
from llm.data.rules import Rule, SentenceRule, StreamRule, evaluation_rule
from llm.data.samples import MicroBatch, Picks, micro_batch_of
from llm.data.streams import ArrayStream, Corpus, read_cyclic


class Validation:
    """Rows of several sources, one source after the other, cut among workers as one batch.

    Stream: row i of a source of T tokens has the inputs [i*L, i*L + L), and the targets one further, modulo
    T; i = 0..N-1 with N = T div L, then one row for the T mod L tokens that are left, padded with weight 0.
    The stream being cyclic, each of its T tokens is a target exactly once, token 0 after the final eos. With
    the rule's `lead` all of this begins so many tokens earlier.

    A BERT's rules: the samples i = 0..N-1 of each source, with pairs and masks of a key that is fixed.
    """

    def __init__(
        self,
        origins: Sequence[Origin],
        rule: StreamRule | SentenceRule,
        micro_batch: int,
        rank: int = 0,
        world: int = 1,
        max_rows: int | None = None,
    ) -> None:
        """`max_rows`: only so many rows, shared by the sources in proportion, the first ones of each."""
        if rule.length < 1 or micro_batch < 1 or not 0 <= rank < world:
            raise UserError(
                f"evaluation of length {rule.length}, micro-batch {micro_batch}, worker {rank} of {world}: "
                "at least 1 each, and the worker within the number of workers"
            )
        self._origins = [origin for origin in origins if _count_rows(origin, rule)]
        counts = [_count_rows(origin, rule) for origin in self._origins]
        if not counts:
            raise UserError(
                "there are no validation documents, or none long enough for a sample: prepare the corpus "
                "with a larger corpus.val_fraction"
            )
        if max_rows is not None and max_rows < sum(counts):
            counts = share_out(counts, max_rows)
        self._counts, self._ends, self._rule = counts, np.cumsum(counts), rule
        self._maker = SentenceRows(rule, self._origins) if isinstance(rule, SentenceRule) else None
        self.length, self.micro_batch, self.rank, self.world = rule.length, micro_batch, rank, world
        self.rows = sum(counts)
        self.micro_steps = micro_steps(self.rows, world, micro_batch)

    @cached_property
    def tokens(self) -> int:
        """Of all rows and workers. Stream: targets. A BERT: tokens of text, of which it guesses a share."""
        if self._maker is not None:
            return sum(self._maker.text_tokens(source, count) for source, count in enumerate(self._counts))
        sizes = (origin.stream.tokens for origin in self._origins)
        return sum(min(n * self.length, size) for n, size in zip(self._counts, sizes, strict=True))

    def __iter__(self) -> Iterator[MicroBatch]:
        """This worker's micro-batches: `micro_steps` of them, on each worker, the last with padding rows."""
        for step in range(self.micro_steps):
            yield self.micro(step)

    def micro(self, step: int) -> MicroBatch:
        """One of this worker's micro-batches."""
        mine = worker_slice(self.rows, self.rank, self.world)
        first = mine.start + step * self.micro_batch
        numbers = np.arange(first, min(first + self.micro_batch, mine.stop))
        source = np.searchsorted(self._ends, numbers, side="right")
        row = numbers - np.concatenate([[0], self._ends])[source]
        return self._make(numbers, source, row)

    def _make(
        self, numbers: npt.NDArray[np.int64], source: npt.NDArray[np.int64], row: npt.NDArray[np.int64]
    ) -> MicroBatch:
        padded = np.full(self.micro_batch, -1, np.int64)
        padded[: len(numbers)] = numbers
        if self._maker is not None:
            # Masks by source and row: the rows of a part of an evaluation are rows of the whole one.
            picks = Picks(row + (source << 40), source, np.zeros_like(row), row)
            return replace(self._maker.make(picks, self.micro_batch)[0], numbers=padded)
        windows = np.zeros((self.micro_batch, self.length + 1), np.uint32)
        targets = np.zeros(self.micro_batch, np.int64)
        assert isinstance(self._rule, StreamRule)
        for at, (k, i) in enumerate(zip(source.tolist(), row.tolist(), strict=True)):
            stream = self._origins[k].stream
            targets[at] = min(self.length, stream.tokens - i * self.length)
            start = (i * self.length - self._rule.lead) % stream.tokens
            read_cyclic(stream, start, windows[at, : targets[at] + 1])
        return micro_batch_of(windows, targets, padded, self._rule.eos)


def validation_of_corpus(
    corpus: Corpus,
    split: str,
    length: int,
    micro_batch: int,
    rank: int = 0,
    world: int = 1,
    max_rows: int | None = None,
    sources: Sequence[str] | None = None,
    rule: Rule | None = None,
    plans: str | Place | None = None,
) -> Validation:
    """The evaluation rows of a split: of all its sources in name order, or of those named.

    `rule`: that of the training (default: stream); `plans`: the folder that keeps plans.
    """
    fixed = evaluation_rule(rule or StreamRule(length))
    assert fixed.length == length
    origins = []
    for name in sorted(corpus.sources(split)) if sources is None else sources:
        plan = plan_of(corpus, split, name, fixed, plans) if isinstance(fixed, SentenceRule) else None
        origins.append(Origin(name, corpus.stream(name, split), plan))
    return Validation(origins, fixed, micro_batch, rank, world, max_rows)


def validation_of_tokens(
    tokens: npt.NDArray[Any],
    length: int,
    micro_batch: int,
    rank: int = 0,
    world: int = 1,
    max_rows: int | None = None,
    eos: int | None = None,
) -> Validation:
    """The evaluation rows of one array, such as a text file's tokens with eos at the end.

    `eos`: attention stays inside each document.
    """
    rule = StreamRule(length, eos)
    return Validation([Origin("tokens", ArrayStream(tokens))], rule, micro_batch, rank, world, max_rows)


def _count_rows(origin: Origin, rule: StreamRule | SentenceRule) -> int:
    if isinstance(rule, SentenceRule):
        assert origin.plan is not None
        return origin.plan.samples
    return -(-origin.stream.tokens // rule.length)
