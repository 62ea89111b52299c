"""Columns of texts and of their tokens: all values one after the other, and where each text begins.

What is done to a corpus is done to a batch at once, by kernels over such arrays.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]


class TextColumn(NamedTuple):
    """Text i is `data[bounds[i]:bounds[i + 1]]`, in UTF-8; the first begins at 0."""

    data: npt.NDArray[np.uint8]
    bounds: Ints

    @classmethod
    def of_arrow(cls, texts: pa.LargeStringArray) -> TextColumn:
        """A copy of an Arrow column (kernels are compiled for arrays that can be written)."""
        if not len(texts):
            return cls(np.zeros(0, np.uint8), np.zeros(1, np.int64))
        _, offsets, data = texts.buffers()
        bounds = np.frombuffer(offsets, np.int64, len(texts) + 1, 8 * texts.offset)
        first, size = int(bounds[0]), int(bounds[-1] - bounds[0])
        values = np.frombuffer(data, np.uint8, size, first).copy() if size else np.zeros(0, np.uint8)
        return cls(values, bounds - first)

    @classmethod
    def of_texts(cls, texts: Sequence[str]) -> TextColumn:
        """The column of some texts."""
        parts = [text.encode() for text in texts]
        return cls(
            np.frombuffer(bytearray(b"".join(parts)), np.uint8), bounds_of(map(len, parts), len(parts))
        )

    @property
    def sizes(self) -> Ints:
        """UTF-8 bytes of each text."""
        return np.diff(self.bounds)

    def texts(self) -> list[str]:
        """Each text as a string."""
        data, bounds = self.data.tobytes(), self.bounds.tolist()
        return [data[start:stop].decode() for start, stop in itertools.pairwise(bounds)]

    def take(self, rows: npt.NDArray[np.bool_]) -> TextColumn:
        """The texts of these rows."""
        return TextColumn(self.data[np.repeat(rows, self.sizes)], _bounds_left(self.sizes, rows))


class TokenColumn(NamedTuple):
    """Tokens of text i are `ids[bounds[i]:bounds[i + 1]]`; each one ends at `ends` of its text's bytes."""

    ids: npt.NDArray[np.uint32]
    ends: Ints
    bounds: Ints

    @classmethod
    def of_pairs(cls, pairs: Sequence[tuple[npt.NDArray[np.uint32], Ints]]) -> TokenColumn:
        """Of (ids, ends) for each text."""
        ids = np.concatenate([np.zeros(0, np.uint32), *(ids for ids, _ in pairs)])
        ends = np.concatenate([np.zeros(0, np.int64), *(ends for _, ends in pairs)])
        return cls(ids, ends, bounds_of((len(ids) for ids, _ in pairs), len(pairs)))

    def lists(self) -> list[npt.NDArray[np.uint32]]:
        """The ids of each text."""
        bounds = self.bounds.tolist()
        return [self.ids[start:stop] for start, stop in itertools.pairwise(bounds)]

    def take(self, rows: npt.NDArray[np.bool_]) -> TokenColumn:
        """The tokens of these texts."""
        counts = np.diff(self.bounds)
        kept = np.repeat(rows, counts)
        return TokenColumn(self.ids[kept], self.ends[kept], _bounds_left(counts, rows))


class Offsets(NamedTuple):
    """Of text i: `values[bounds[i]:bounds[i + 1]]`, rising offsets in its bytes or tokens."""

    values: Ints
    bounds: Ints


def bounds_of(counts: Iterator[int] | map[int], texts: int) -> Ints:
    """Where each of so many texts begins, and where the last one ends."""
    bounds = np.zeros(texts + 1, np.int64)
    np.cumsum(np.fromiter(counts, np.int64, texts), out=bounds[1:])
    return bounds


def _bounds_left(counts: Ints, rows: npt.NDArray[np.bool_]) -> Ints:
    kept = counts[rows]
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
