"""Whole documents into rows, so that the fewest are cut (Ding et al. 2024, "Fewer Truncations")."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from llm.data.samples import Ints


class Packed(NamedTuple):
    """The rows of one group: documents, or pieces of long ones, by the stream's tokens that they hold."""

    starts: Ints  # [items]: first token, rising within a row
    sizes: Ints  # [items]: tokens
    first: Ints  # [rows + 1]: the first item of each row, then the number of items

    @property
    def samples(self) -> int:
        """Rows."""
        return len(self.first) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self)


def pack(bounds: Ints, length: int) -> Packed:
    """Rows of at most `length` tokens, of documents with these bounds.

    A document longer than a row is cut into full rows and a rest; nothing else is cut. Rows stand in the
    order of their first tokens, items in a row too: in the order of the stream, and not by size, so that a
    place in a row says nothing about a document.
    """
    if not len(bounds):
        return Packed(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(1, np.int64))
    pieces = -(-np.diff(bounds) // length)
    document = np.repeat(np.arange(len(pieces)), pieces)
    piece = np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = bounds[document] + piece * length
    sizes = np.minimum(length, bounds[document + 1] - starts)
    _, seen, row = np.unique(best_fit(sizes, length), return_index=True, return_inverse=True)
    by_first = np.argsort(np.argsort(seen))[row]  # items rise, so the first one of a row is its start
    order = np.argsort(by_first, kind="stable")
    first = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(by_first))])
    return Packed(starts[order], sizes[order], first)


def best_fit(sizes: npt.NDArray[np.int64], capacity: int) -> Ints:
    """The row of each item, 1 <= size <= capacity: largest items first, each to the row that it fills best.

    The room that rows have left is a bit set in one integer, so that the row of least sufficient room is its
    lowest bit above the size: about 1 us an item.
    """
    row_of = np.empty(len(sizes), np.int64)
    order = np.argsort(-sizes, kind="stable")
    full = int((sizes == capacity).sum())
    row_of[order[:full]] = np.arange(full)
    rows, rooms = full, 0
    with_room: list[list[int]] = [[] for _ in range(capacity)]
    placed = []
    for size in sizes[order[full:]].tolist():
        fits = rooms >> size
        if fits:
            left = (fits & -fits).bit_length() - 1
            row = with_room[left + size].pop()
            if not with_room[left + size]:
                rooms ^= 1 << (left + size)
        else:
            left, row = capacity - size, rows
            rows += 1
        placed.append(row)
        if left:
            with_room[left].append(row)
            rooms |= 1 << left
    row_of[order[full:]] = placed
    return row_of
