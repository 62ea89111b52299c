"""The rows of an evaluation: every token of a split predicted exactly once, always the same (C7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.errors import UserError
from llm.data.batches import micro_steps, worker_slice
from llm.data.mixture import share_out
from llm.data.samples import MicroBatch, micro_batch_of
from llm.data.streams import ArrayStream, Corpus, Stream, read_cyclic


class Validation:
    """Rows of several streams, one stream after the other, cut among workers as one batch.

    Row i of a stream of T tokens: inputs [i*L, i*L + L), targets one further, modulo T; i = 0..N-1 with
    N = T div L, then one row for the T mod L tokens that are left, padded with weight 0. The stream being
    cyclic, each of its T tokens is a target exactly once, token 0 after the final eos.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        length: int,
        micro_batch: int,
        rank: int = 0,
        world: int = 1,
        max_rows: int | None = None,
    ) -> None:
        """`max_rows`: only so many rows, shared by the streams in proportion, the first ones of each."""
        if length < 1 or micro_batch < 1 or not 0 <= rank < world:
            raise UserError(
                f"evaluation of length {length}, micro-batch {micro_batch}, worker {rank} of {world}: "
                "at least 1 each, and the worker within the number of workers"
            )
        self._streams = [stream for stream in streams if stream.tokens > 0]
        rows = [-(-stream.tokens // length) for stream in self._streams]
        if not rows:
            raise UserError("there is no token to evaluate on; prepare the corpus with a larger val share")
        if max_rows is not None and max_rows < sum(rows):
            rows = share_out(rows, max_rows)
        self._ends = np.cumsum(rows)
        self.length, self.micro_batch, self.rank, self.world = length, micro_batch, rank, world
        self.rows = sum(rows)
        self.micro_steps = micro_steps(self.rows, world, micro_batch)
        self.tokens = sum(min(n * length, s.tokens) for n, s in zip(rows, self._streams, strict=True))

    def __iter__(self) -> Iterator[MicroBatch]:
        """This worker's micro-batches: `micro_steps` of them, on each worker, the last with padding rows."""
        mine = worker_slice(self.rows, self.rank, self.world)
        for step in range(self.micro_steps):
            first = mine.start + step * self.micro_batch
            windows = np.zeros((self.micro_batch, self.length + 1), np.uint32)
            targets = np.zeros(self.micro_batch, np.int64)
            numbers = np.full(self.micro_batch, -1, np.int64)
            for at, row in enumerate(range(first, min(first + self.micro_batch, mine.stop))):
                numbers[at] = row
                targets[at] = self._read(row, windows[at])
            yield micro_batch_of(windows, targets, numbers)

    def _read(self, row: int, window: npt.NDArray[np.uint32]) -> int:
        """Fill the window of a row; the number of its targets."""
        k = int(np.searchsorted(self._ends, row, side="right"))
        start = (row - (int(self._ends[k - 1]) if k else 0)) * self.length
        targets = min(self.length, self._streams[k].tokens - start)
        read_cyclic(self._streams[k], start, window[: targets + 1])
        return targets


def validation_of_corpus(
    corpus: Corpus,
    split: str,
    length: int,
    micro_batch: int,
    rank: int = 0,
    world: int = 1,
    max_rows: int | None = None,
    sources: Sequence[str] | None = None,
) -> Validation:
    """The evaluation rows of a split: of all its sources in name order, or of those named."""
    names = sorted(corpus.sources(split)) if sources is None else sources
    streams = [corpus.stream(name, split) for name in names]
    return Validation(streams, length, micro_batch, rank, world, max_rows)


def validation_of_tokens(
    tokens: npt.NDArray[Any],
    length: int,
    micro_batch: int,
    rank: int = 0,
    world: int = 1,
    max_rows: int | None = None,
) -> Validation:
    """The evaluation rows of one array, such as a text file's tokens with eos at the end."""
    return Validation([ArrayStream(tokens)], length, micro_batch, rank, world, max_rows)
