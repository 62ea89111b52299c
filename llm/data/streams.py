"""What the loader needs of a corpus: token streams that are read by range, seen as a circle."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt


class Stream(Protocol):
    """The tokens of one source in one split, in shard order."""

    @property
    def tokens(self) -> int:
        """T, the number of tokens."""

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Tokens [start, stop) for 0 <= start <= stop <= T, uint16 or uint32, checked against digests."""

    def document_bounds(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Bounds of the documents that begin in [start, stop): where each begins, then where the last ends.

        Empty where none begins there.
        """

    def sentence_ends(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Where the sentences of these documents end (exclusive), rising; the last of each before its eos."""


@runtime_checkable
class FarStream(Protocol):
    """A stream whose tokens are fetched when they are read, or before."""

    def expect(self, start: int, stop: int) -> None:
        """Say that tokens [start, stop) will be read, so that they are fetched meanwhile."""


class Corpus(Protocol):
    """A corpus that was opened."""

    @property
    def corpus_id(self) -> str:
        """Its fingerprint."""

    def sources(self, split: str) -> list[str]:
        """Names of the sources that have tokens in a split."""

    def stream(self, source: str, split: str) -> Stream:
        """The tokens of one source."""


class ArrayStream:
    """A stream over an array: the tokens of a text file, or of a test.

    `eos` ends each document (None: it is one document); `sentence_ends` are positions in the array (None:
    each document is one sentence).
    """

    def __init__(
        self,
        tokens: npt.NDArray[Any],
        eos: int | None = None,
        sentence_ends: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self._tokens, self._eos, self._sentence_ends = tokens, eos, sentence_ends

    @property
    def tokens(self) -> int:
        """T, the number of tokens."""
        return len(self._tokens)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Tokens [start, stop), not copied."""
        return self._tokens[start:stop]

    def document_bounds(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """See `Stream`. What comes after the last eos is a document, too."""
        bounds = self._bounds
        first, last = np.searchsorted(bounds[:-1], [start, stop])
        return bounds[first : last + 1] if last > first else bounds[:0]

    def sentence_ends(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """See `Stream`."""
        bounds = self.document_bounds(start, stop)
        if not len(bounds):
            return bounds
        if self._sentence_ends is not None:
            first, last = np.searchsorted(self._sentence_ends, bounds[[0, -1]], side="right")
            return self._sentence_ends[first:last]
        ends = bounds[1:] - (self._tokens[bounds[1:] - 1] == self._eos)
        return ends[ends > bounds[:-1]]

    @cached_property
    def _bounds(self) -> npt.NDArray[np.int64]:
        ends = np.flatnonzero(self._tokens == self._eos) + 1 if self._eos is not None else np.zeros(0, int)
        bounds = np.concatenate([np.zeros(1, np.int64), ends, [len(self._tokens)]])
        return np.unique(bounds)


def read_cyclic(stream: Stream, start: int, out: npt.NDArray[np.uint32]) -> None:
    """Fill `out` with the tokens from `start` on; after the last token comes the first."""
    total, size, done = stream.tokens, len(out), 0
    while done < size:
        stop = min(start + size - done, total)
        part = stream.read(start, stop)
        assert len(part) == stop - start, "numpy would spread a single token over the row"
        out[done : done + stop - start] = part
        done += stop - start
        start = 0
