"""What the loader needs of a corpus: token streams that are read by range, seen as a circle."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class Stream(Protocol):
    """The tokens of one source in one split, in shard order."""

    @property
    def tokens(self) -> int:
        """T, the number of tokens."""

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Tokens [start, stop) for 0 <= start <= stop <= T, uint16 or uint32, checked against digests."""


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
    """A stream over an array: the tokens of a text file, or of a test."""

    def __init__(self, tokens: npt.NDArray[Any]) -> None:
        self._tokens = tokens

    @property
    def tokens(self) -> int:
        """T, the number of tokens."""
        return len(self._tokens)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Tokens [start, stop), not copied."""
        return self._tokens[start:stop]


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
