"""Kernels that look for words of a list in documents that were scanned."""

from __future__ import annotations

import numpy as np
from numba import njit

from data_jobs.filters.character_classes import PUNCTUATION
from data_jobs.filters.hash_kernels import FACTOR, START, mixed
from data_jobs.filters.measure_kernels import MADE_FOR as CLASSES
from data_jobs.filters.measure_kernels import class_of
from data_jobs.kernel_cache import fingerprint, renew, source_of
from data_jobs.utf8_kernel import code_at


@njit("uint64[::1](uint8[::1], int32[:, ::1], uint16[::1])", cache=True, nogil=True)
def core_hashes(data, bounds, table):  # type: ignore[no-untyped-def]
    """Of each word the hash of what is left without marks at its ends, in small letters; of one that is
    nothing but marks, of all of it.
    """
    found = np.empty(len(bounds), np.uint64)
    for w in range(len(bounds)):
        i = np.int64(bounds[w, 0])
        stop = np.int64(bounds[w, 1])
        h = START
        core = START
        has_begun = False
        while i < stop:
            point, after = code_at(data, i)
            is_mark = class_of(point, table) & PUNCTUATION != 0
            if has_begun or not is_mark:
                has_begun = True
                for k in range(i, after):
                    b = data[k]
                    if 65 <= b <= 90:
                        b |= 32
                    h = (h ^ np.uint64(b)) * FACTOR
                if not is_mark:
                    core = h
            i = after
        if not has_begun:
            for k in range(bounds[w, 0], bounds[w, 1]):
                core = (core ^ np.uint64(data[k])) * FACTOR
        found[w] = mixed(core)
    return found


@njit("uint64(uint64, uint64)", cache=True, nogil=True)
def and_then(h, word):  # type: ignore[no-untyped-def]
    """The hash of a phrase with one more word."""
    return mixed((h ^ word) * FACTOR)


@njit("Tuple((uint64[::1], int64[::1]))(uint64[::1], int64[::1])", cache=True, nogil=True)
def phrase_hashes(cores, offsets):  # type: ignore[no-untyped-def]
    """Of each document as one phrase: its hash, and how many words it has."""
    wholes = np.empty(len(offsets) - 1, np.uint64)
    lengths = np.empty(len(offsets) - 1, np.int64)
    for d in range(len(offsets) - 1):
        h = START
        for k in range(offsets[d], offsets[d + 1]):
            h = and_then(h, cores[k])
        wholes[d] = h
        lengths[d] = offsets[d + 1] - offsets[d]
    return wholes, lengths


@njit("boolean(uint64[::1], uint64)", cache=True, nogil=True)
def holds(ascending, h):  # type: ignore[no-untyped-def]
    """Whether a value is in an ascending array."""
    low, high = 0, len(ascending)
    while low < high:
        middle = (low + high) // 2
        if ascending[middle] < h:
            low = middle + 1
        else:
            high = middle
    return low < len(ascending) and ascending[low] == h


@njit("int64[::1](uint64[::1], int64[::1], uint64[::1], uint64[::1], int64)", cache=True, nogil=True)
def count_phrases(cores, offsets, firsts, wholes, longest):  # type: ignore[no-untyped-def]
    """Places of each document at which a phrase of the list begins."""
    found = np.zeros(len(offsets) - 1, np.int64)
    for d in range(len(offsets) - 1):
        for start in range(offsets[d], offsets[d + 1]):
            if holds(firsts, cores[start]):
                h = START
                for k in range(start, min(start + longest, offsets[d + 1])):
                    h = and_then(h, cores[k])
                    if holds(wholes, h):
                        found[d] += 1
                        break
    return found


_MADE_FOR = fingerprint(PUNCTUATION, CLASSES, source_of(class_of), source_of(mixed), source_of(code_at))


@njit("int64()", cache=True)
def _compiled_for():  # type: ignore[no-untyped-def]
    return _MADE_FOR


renew(_compiled_for, _MADE_FOR, [core_hashes, and_then, phrase_hashes, holds, count_phrases])
