"""A cache in front of SentencePiece: each unit of text (`word_cuts.py`) is encoded once, then remembered.

The ids are those of SentencePiece over the whole text, and so are the ends of the tokens.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data_jobs.tokens.text_column import Ints, TextColumn, TokenColumn
from data_jobs.tokens.word_cuts import Cuts
from data_jobs.tokens.word_kernels import (
    ARENA_FULL,
    COUNT,
    DONE,
    ENTRIES,
    NEEDED,
    TABLE_FULL,
    USED,
    fill_table,
    gather,
    look_up,
)  # fmt: skip

Ids = npt.NDArray[np.uint32]

CACHE_BYTES = 128 << 20
"""Most that is remembered before a batch; a full cache starts anew."""
_ENTRY_BYTES = 56  # of tables for each unit, at most
_FIRST_ENTRIES = 1 << 14
_UNITS_A_CALL = 1 << 16
# Text of one call of SentencePiece: a call a word costs more, one for all keeps too long a queue of joins.
_CALL_BYTES = 1 << 13


class WordCache:
    """Encodes columns of texts; see the top of the file."""

    def __init__(
        self,
        cuts: Cuts,
        encode: Callable[[list[str]], Sequence[npt.NDArray[Any]]],
        known: Mapping[str, Sequence[int]],
        piece_lengths: Ints,
        most_bytes: int = CACHE_BYTES,
    ) -> None:
        """`encode`: SentencePiece over some texts. `known`: units whose ids are known without it."""
        self._cuts, self._encode, self._lengths, self._most = cuts, encode, piece_lengths, most_bytes
        self._known = {**known, **{text: (token,) for text, token in cuts.fixed.items()}}
        self._lock = threading.Lock()
        self._clear()

    @property
    def held_bytes(self) -> int:
        """What is remembered."""
        return self._used + 4 * int(self._ids_at[self._entries]) + _ENTRY_BYTES * self._entries

    def encode(self, texts: TextColumn) -> TokenColumn:
        """The tokens of the texts."""
        with self._lock:
            if self.held_bytes > self._most:
                self._clear()
            try:
                units, unit_bounds = self._cut(texts)
                self._fill()
            except BaseException:  # units without their ids must not stay
                self._clear()
                raise
            return self._tokens(units, unit_bounds)

    def _clear(self) -> None:
        self._entries = self._filled = self._used = 0
        self._table = np.zeros((2 * _FIRST_ENTRIES, 2), np.uint64)
        self._keys = np.zeros(_FIRST_ENTRIES, np.uint64)
        self._arena = np.zeros(1 << 20, np.uint8)
        self._arena_at = np.zeros(_FIRST_ENTRIES + 1, np.int64)
        self._ids = np.zeros(1 << 18, np.uint32)
        self._ids_at = np.zeros(_FIRST_ENTRIES + 1, np.int64)
        units, _ = self._cut(TextColumn.of_texts(list(self._known)))
        assert units.tolist() == list(range(len(self._known))), "a known unit is none, or stands there twice"
        ids = [np.array(ids, np.uint32) for ids in self._known.values()]
        self._add(np.concatenate([np.zeros(0, np.uint32), *ids]), [len(some) for some in ids])

    def _cut(self, texts: TextColumn) -> tuple[npt.NDArray[np.int32], Ints]:
        """Entry of each unit, and at which unit each text begins."""
        state = np.zeros(7, np.int64)
        state[ENTRIES], state[USED] = self._entries, self._used
        unit_bounds = np.zeros(len(texts.bounds), np.int64)
        cuts, parts = self._cuts, []
        separator = cuts.separator[0] if cuts.separator else 0
        while True:
            part = np.empty(_UNITS_A_CALL, np.int32)
            why = look_up(
                texts.data, texts.bounds, cuts.ascii_pairs, cuts.pairs, cuts.pair_shift, cuts.starts,
                cuts.classes, cuts.trie, cuts.ends, self._table, self._keys, self._arena, self._arena_at,
                separator, part, unit_bounds, state,
            )  # fmt: skip
            self._entries, self._used = int(state[ENTRIES]), int(state[USED])
            parts.append(part[: state[COUNT]])
            if why == DONE:
                return np.concatenate(parts), unit_bounds
            if why == TABLE_FULL:
                self._grow_table()
            elif why == ARENA_FULL:
                self._arena = _longer(self._arena, self._used + int(state[NEEDED]))

    def _grow_table(self) -> None:
        room = 2 * len(self._keys)
        self._keys = _longer(self._keys, room)
        self._arena_at, self._ids_at = _longer(self._arena_at, room + 1), _longer(self._ids_at, room + 1)
        self._table = np.zeros((2 * room, 2), np.uint64)
        fill_table(self._keys, self._entries, self._table)

    def _fill(self) -> None:
        """Encode the units that came in by the last `_cut`: they stand one after the other in the arena."""
        at = self._arena_at[self._filled : self._entries + 1]
        new = len(at) - 1
        if not new:
            return
        if self._cuts.separator is None:
            spans = [(start, stop - 1) for start, stop in itertools.pairwise(at.tolist())]
            encoded = self._encode([self._arena[start:stop].tobytes().decode() for start, stop in spans])
            self._add(np.concatenate(encoded), [len(ids) for ids in encoded])
            return
        # Many units a call, each with the separator after it.
        firsts = np.unique(np.searchsorted(at, np.arange(at[0], at[-1], _CALL_BYTES)))
        edges = at[np.union1d(firsts, [new])].tolist()
        ids = np.concatenate(
            self._encode([self._arena[a:b].tobytes().decode() for a, b in itertools.pairwise(edges)])
        )
        token = self._cuts.separator[1]
        marks = np.flatnonzero(ids == token)
        assert len(marks) == new, "a separator is not one token"
        self._add(ids[ids != token], np.diff(marks, prepend=-1) - 1)

    def _add(self, ids: npt.NDArray[Any], counts: npt.ArrayLike) -> None:
        """The ids of the entries that have none yet."""
        start = int(self._ids_at[self._filled])
        self._ids = _longer(self._ids, start + len(ids))
        self._ids[start : start + len(ids)] = ids
        self._ids_at[self._filled + 1 : self._entries + 1] = start + np.cumsum(counts)
        self._filled = self._entries

    def _tokens(self, units: npt.NDArray[np.int32], unit_bounds: Ints) -> TokenColumn:
        total = int((self._ids_at[units + 1] - self._ids_at[units]).sum())
        ids, ends = np.empty(total, np.uint32), np.empty(total, np.int64)
        bounds = np.empty(len(unit_bounds), np.int64)
        gather(units, unit_bounds, self._ids_at, self._ids, self._lengths, ids, ends, bounds)
        return TokenColumn(ids, ends, bounds)


def _longer(array: npt.NDArray[Any], room: int) -> npt.NDArray[Any]:
    """The array, with room for so many at least; twice as long where it must grow."""
    if len(array) >= room:
        return array
    grown = np.zeros(max(room, 2 * len(array)), array.dtype)
    grown[: len(array)] = array
    return grown
