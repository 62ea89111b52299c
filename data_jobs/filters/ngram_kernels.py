"""Kernel that counts words in a row: the most frequent, the duplicates."""

from __future__ import annotations

import numpy as np
from numba import njit

from data_jobs.filters.hash_kernels import GOLDEN
from data_jobs.filters.measures import Column
from data_jobs.kernel_cache import fingerprint, renew

_BASE = np.uint64(0xD6E8FEB86659FD93)
"""Odd: the hash of words in a row is a polynomial in it, modulo 2^64, of the words' hashes."""
_32 = np.uint64(32)
_TOP_2, _DUPLICATE_5 = int(Column.TOP_2), int(Column.DUPLICATE_5)


@njit(
    "void(uint64[::1], int32[::1], int64[::1], "
    "uint64[::1], int32[::1], int32[::1], int64[::1], int64[:, ::1])",
    cache=True,
    nogil=True,
)  # fmt: skip
def count_ngrams(words, word_characters, word_offsets, keys, stamps, tally, state, counts):  # type: ignore[no-untyped-def]
    """Columns TOP_2 to DUPLICATE_10: of words in a row, the most frequent and the duplicates."""
    for d in range(len(word_offsets) - 1):
        start = word_offsets[d]
        stop = word_offsets[d + 1]
        size = 16
        while size < 2 * (stop - start):
            size *= 2
        mask = np.int64(size - 1)
        for n in range(2, 11):
            if stop - start < n:
                break
            state[0] += 1
            stamp = state[0]
            leaving = np.uint64(1)
            for _ in range(n):
                leaving *= _BASE
            h = np.uint64(0)
            length = np.int64(0)
            best = np.int64(1)  # one that stands once is no repetition
            best_characters = np.int64(0)
            covered = np.int64(0)
            covered_to = start
            for i in range(start, stop):
                h = h * _BASE + words[i]
                length += word_characters[i]
                first = i - n + 1
                if first > start:
                    h -= words[first - 1] * leaving
                    length -= word_characters[first - 1]
                if first < start:
                    continue
                at = np.int64((h * GOLDEN) >> _32) & mask
                while stamps[at] == stamp and keys[at] != h:
                    at = (at + 1) & mask
                if stamps[at] != stamp:
                    stamps[at], keys[at], tally[at] = stamp, h, 1
                    continue
                tally[at] += 1
                if n < 5:
                    if tally[at] > best or (tally[at] == best and tally[at] * length > best_characters):
                        best = tally[at]
                        best_characters = best * length
                else:
                    for k in range(max(first, covered_to), i + 1):
                        covered += word_characters[k]
                    covered_to = i + 1
            if n < 5:
                counts[d, _TOP_2 + n - 2] = best_characters
            else:
                counts[d, _DUPLICATE_5 + n - 5] = covered
                if covered == 0:  # no longer row of words stands twice either
                    break


_MADE_FOR = fingerprint(GOLDEN, list(Column))


@njit("int64()", cache=True)
def _compiled_for():  # type: ignore[no-untyped-def]
    return _MADE_FOR


renew(_compiled_for, _MADE_FOR, [count_ngrams])
