"""Kernels of the word cache: cut a batch of texts into units, look each up, and put the tokens together.

State of `look_up` between its calls (int64): the numbers below.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from data_jobs.kernel_cache import fingerprint, renew, source_of
from data_jobs.tokens.word_cuts import GOLDEN
from data_jobs.utf8_kernel import code_at

TEXT, AT, UNITS, ENTRIES, USED, COUNT, NEEDED = range(7)
"""Number of the text, byte in the data, units of all calls, entries, bytes of the arena, units of this call,
bytes of a unit that the arena had no room for."""
DONE, UNITS_FULL, TABLE_FULL, ARENA_FULL = range(4)
"""Why `look_up` came back."""

_GOLDEN = np.uint64(GOLDEN)
# FNV-1a of 64 bits (Fowler, Noll, Vo).
_BASIS, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_FREE, _SHORT, _LONG = np.uint64(0), 7, np.uint64(1 << 63)

Array = npt.NDArray[Any]


@njit(nogil=True, forceinline=True)
def _fixed_end(data: Array, at: int, stop: int, classes: Array, trie: Array, ends: Array) -> int:
    """Where the longest fixed entry from here ends; `at` where there is none."""
    node, end = np.int64(0), at
    while at < stop:
        kind = classes[data[at]]
        if kind == 0:
            break
        node = np.int64(trie[node, kind])
        if node == 0:
            break
        at += 1
        if ends[node] != 0:
            end = at
    return end


@njit(nogil=True, forceinline=True)
def _are_joined(first: int, second: int, ascii_pairs: Array, pairs: Array, shift: int) -> bool:
    """Do the two characters stand side by side in an entry?"""
    if first < 128 and second < 128:
        return ascii_pairs[first * 128 + second] != 0
    key = first << 21 | second
    mask = len(pairs) - 1
    slot = np.int64((np.uint64(key) * _GOLDEN) >> np.uint64(shift))
    while pairs[slot] >= 0:
        if pairs[slot] == key:
            return True
        slot = (slot + 1) & mask
    return False


@njit(nogil=True, forceinline=True)
def _unit_end(
    data: Array, at: int, stop: int, ascii_pairs: Array, pairs: Array, shift: int, starts: Array,
    classes: Array, trie: Array, ends: Array,
) -> int:  # fmt: skip
    """Where the unit that begins here ends."""
    if starts[data[at]] != 0:
        end = _fixed_end(data, at, stop, classes, trie, ends)
        if end > at:
            return end
    before, at = code_at(data, at)
    while at < stop:
        # No unit but its own holds a fixed entry: a separator is none that a unit has inside.
        if starts[data[at]] != 0 and _fixed_end(data, at, stop, classes, trie, ends) > at:
            return at
        code, after = code_at(data, at)  # a U+2581 of the text is in no pair: entries have it for a blank
        if not _are_joined(before, code, ascii_pairs, pairs, shift):
            return at
        before, at = code, after
    return at


@njit(nogil=True, forceinline=True)
def _key_of(data: Array, at: int, end: int) -> np.uint64:
    """A number for a unit: of up to 7 bytes their length and the bytes, so no other has it; else a hash."""
    if end - at <= _SHORT:
        key = np.uint64(end - at)
        for place in range(at, end):
            key = (key << np.uint64(8)) | np.uint64(data[place])
        return key
    key = _BASIS
    for place in range(at, end):
        key = (key ^ np.uint64(data[place])) * _PRIME
    return key | _LONG


@njit(nogil=True, forceinline=True)
def _are_equal(arena: Array, arena_at: Array, entry: int, data: Array, at: int, size: int) -> bool:
    """Is the unit of this size that begins here the entry?"""
    begin = arena_at[entry]
    if arena_at[entry + 1] - begin - 1 != size:
        return False
    for place in range(size):  # noqa: SIM110 (kernels have no generators)
        if arena[begin + place] != data[at + place]:
            return False
    return True


@njit(nogil=True, forceinline=True)
def _slot_shift(slots: int) -> np.uint64:
    """64 less the bits of a place in a table of so many, a power of two."""
    shift = 64
    while slots > 1:
        slots >>= 1
        shift -= 1
    return np.uint64(shift)


@njit(
    "int64(uint8[::1], int64[::1], uint8[::1], int64[::1], int64, uint8[::1], uint8[::1], int32[:, ::1], "
    "uint8[::1], uint64[:, ::1], uint64[::1], uint8[::1], int64[::1], int64, int32[::1], int64[::1], "
    "int64[::1])",
    cache=True,
    nogil=True,
)
def look_up(
    data: Array, bounds: Array, ascii_pairs: Array, pairs: Array, shift: int, starts: Array, classes: Array,
    trie: Array, ends: Array, table: Array, keys: Array, arena: Array, arena_at: Array, separator: int,
    units: Array, unit_bounds: Array, state: Array,
) -> np.int64:  # fmt: skip
    """Cut the texts into units, and write the number of each one's entry to `units`; new units get entries.

    `table`: a hash table of (key, entry), linear probing, at most half full, key 0 is free; `keys`: of each
    entry, as many as there is room for. Entry e is `arena[arena_at[e]:arena_at[e + 1] - 1]`; then the
    separator follows. `unit_bounds`: at which unit each text begins. Goes on where `state` says, and says
    there where it stopped.
    """
    text, at, entries, used = state[TEXT], state[AT], state[ENTRIES], state[USED]
    count, why = np.int64(0), np.int64(DONE)
    mask, slot_shift = len(table) - 1, _slot_shift(len(table))
    while text < len(bounds) - 1:
        stop = bounds[text + 1]
        if at >= stop:
            text += 1
            unit_bounds[text] = state[UNITS] + count
            continue
        if count == len(units):
            why = np.int64(UNITS_FULL)
            break
        end = _unit_end(data, at, stop, ascii_pairs, pairs, shift, starts, classes, trie, ends)
        size = end - at
        key = _key_of(data, at, end)
        slot = np.int64((key * _GOLDEN) >> slot_shift)
        entry = np.int64(-1)
        while table[slot, 0] != _FREE:
            if table[slot, 0] == key:
                entry = np.int64(table[slot, 1])
                if key < _LONG or _are_equal(arena, arena_at, entry, data, at, size):
                    break
                entry = np.int64(-1)
            slot = (slot + 1) & mask
        if entry < 0:
            if entries == len(keys):
                why = np.int64(TABLE_FULL)
                break
            if used + size + 1 > len(arena):
                state[NEEDED] = size + 1
                why = np.int64(ARENA_FULL)
                break
            entry = entries
            table[slot, 0], table[slot, 1], keys[entry] = key, np.uint64(entry), key
            for place in range(size):
                arena[used + place] = data[at + place]
            arena[used + size] = separator
            used += size + 1
            entries += 1
            arena_at[entries] = used
        units[count] = entry
        count += 1
        at = end
    state[TEXT], state[AT], state[ENTRIES], state[USED] = text, at, entries, used
    state[COUNT] = count
    state[UNITS] += count
    return why


@njit("void(uint64[::1], int64, uint64[:, ::1])", cache=True, nogil=True)
def fill_table(keys: Array, entries: int, table: Array) -> None:
    """Put entries, all different, into an empty table."""
    mask, slot_shift = len(table) - 1, _slot_shift(len(table))
    for entry in range(entries):
        slot = np.int64((keys[entry] * _GOLDEN) >> slot_shift)
        while table[slot, 0] != _FREE:
            slot = (slot + 1) & mask
        table[slot, 0], table[slot, 1] = keys[entry], np.uint64(entry)


@njit(
    "void(int32[::1], int64[::1], int64[::1], uint32[::1], int64[::1], uint32[::1], int64[::1], int64[::1])",
    cache=True,
    nogil=True,
)
def gather(
    units: Array, unit_bounds: Array, ids_at: Array, arena: Array, lengths: Array, ids: Array, ends: Array,
    bounds: Array,
) -> None:  # fmt: skip
    """The ids of all units, where each one ends in its text's bytes, and at which token each text begins."""
    at = np.int64(0)
    bounds[0] = 0
    for text in range(len(unit_bounds) - 1):
        reached = np.int64(0)
        for number in range(unit_bounds[text], unit_bounds[text + 1]):
            unit = units[number]
            for place in range(ids_at[unit], ids_at[unit + 1]):
                token = arena[place]
                reached += lengths[token]
                ids[at], ends[at] = token, reached
                at += 1
        bounds[text + 1] = at


_MADE_FOR = fingerprint(GOLDEN, source_of(code_at))


@njit("int64()", cache=True)
def _compiled_for() -> int:
    return _MADE_FOR


renew(_compiled_for, _MADE_FOR, [look_up, fill_table, gather])
