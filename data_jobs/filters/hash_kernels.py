"""Kernels over 64-bit hashes of words, lines and paragraphs: to spread them, and to find equal ones."""

from __future__ import annotations

import numpy as np
from numba import njit

import data_jobs.kernel_cache  # noqa: F401 (it says when something is compiled)

# FNV-1a's start and factor (Fowler, Noll, Vo), then a finalizer of splitmix64's kind.
START = np.uint64(0xCBF29CE484222325)
FACTOR = np.uint64(0x100000001B3)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_32, _29 = np.uint64(32), np.uint64(29)


@njit("uint64(uint64)", cache=True, nogil=True)
def mixed(h):  # type: ignore[no-untyped-def]
    """Spread a hash over all bits."""
    h = (h ^ (h >> _32)) * _MIX
    return h ^ (h >> _29)


@njit(
    "void(uint64[::1], int64, int64, uint64[::1], int32[::1], int64[::1], uint8[::1])", cache=True, nogil=True
)
def find_repeats(hashes, start, stop, keys, stamps, state, repeats):  # type: ignore[no-untyped-def]
    """repeats[i] = 1 where an equal hash stands before i in [start, stop). `keys` and `stamps`: a table of
    a power of two entries, more than twice as many as hashes; an entry is used if it has this pass' stamp.
    """
    size = 16
    while size < 2 * (stop - start):
        size *= 2
    mask = np.int64(size - 1)
    state[0] += 1
    stamp = state[0]
    for i in range(start, stop):
        h = hashes[i]
        at = np.int64((h * GOLDEN) >> _32) & mask
        while stamps[at] == stamp and keys[at] != h:
            at = (at + 1) & mask
        if stamps[at] == stamp:
            repeats[i] = 1
        else:
            stamps[at], keys[at] = stamp, h
            repeats[i] = 0
