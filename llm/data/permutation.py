"""perm_k: a keyed permutation of [0, n) that answers for any position without being stored (C2)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from data_jobs.hashes import h64, mix_array

TABLE_LIMIT = 65_536
ROUNDS = 6


def permute(x: npt.NDArray[np.int64], n: int, key: int) -> npt.NDArray[np.int64]:
    """perm_key of each x in [0, n).

    n <= 65,536: the x-th entry of argsort over y in [0, n) of mix(y xor key). Else a Feistel network,
    because a table would grow with the corpus; below that limit the table, because Feistel is not uniform
    for tiny n (chi2/df 8.4 at n = 5).
    """
    assert n >= 1
    if n <= TABLE_LIMIT:
        return _table(n, key)[x].astype(np.int64)
    return _walk(x, n, key)


@lru_cache(maxsize=256)  # at most 256 x 128 KiB; one entry serves one (source, epoch)
def _table(n: int, key: int) -> npt.NDArray[np.uint16]:
    order = np.argsort(
        mix_array(np.arange(n, dtype=np.uint64) ^ np.uint64(key))
    )  # no ties: mix is a bijection
    table = order.astype(np.uint16)
    table.flags.writeable = False  # shared by all callers
    return table


def _walk(x: npt.NDArray[np.int64], n: int, key: int) -> npt.NDArray[np.int64]:
    """Cycle walking: Feistel on ceil(log2 n) bits, repeated for a value while it is >= n (under 2 tries)."""
    bits = (n - 1).bit_length()
    value = _feistel(x.astype(np.uint64), bits, key)
    outside = np.flatnonzero(value >= n)
    while outside.size:
        value[outside] = _feistel(value[outside], bits, key)
        outside = outside[value[outside] >= n]
    return value.astype(np.int64)


def _feistel(x: npt.NDArray[np.uint64], bits: int, key: int) -> npt.NDArray[np.uint64]:
    """6 rounds of (left, right) -> (right, left xor F), F = low bits of mix(right xor H64(key, round)).

    left = the upper bits div 2 bits, right = the rest. The widths of unequal halves change places in each
    round, F is cut to the width of the half that it meets, and after an even number of rounds all is back.
    """
    low = bits - bits // 2
    left_width, right_width = bits // 2, low
    left, right = x >> np.uint64(low), x & np.uint64((1 << low) - 1)
    for round_key in _round_keys(key):
        cut = np.uint64((1 << left_width) - 1)
        left, right = right, left ^ (mix_array(right ^ np.uint64(round_key)) & cut)
        left_width, right_width = right_width, left_width
    return (left << np.uint64(low)) | right


@lru_cache(maxsize=256)
def _round_keys(key: int) -> tuple[int, ...]:
    return tuple(h64(key, round_) for round_ in range(ROUNDS))
