"""Compiled loops over pairs of documents: candidates of a bucket, common n-grams, connected components."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, types

import data_jobs.kernel_cache  # noqa: F401 (it says when something is compiled)

Array = npt.NDArray[Any]

_C1 = np.uint64(0xBF58476D1CE4E5B9)
_C2 = np.uint64(0x94D049BB133111EB)
_27, _30, _31 = (np.uint64(n) for n in (27, 30, 31))

_ints = types.Array(types.int64, 1, "C", readonly=True)
_hashes = types.Array(types.uint64, 1, "C", readonly=True)
_small = types.Array(types.uint8, 1, "C", readonly=True)
_matrix = types.Array(types.uint8, 2, "C", readonly=True)


@njit(nogil=True)
def _root(parent: Array, x: int) -> int:
    while parent[x] != x:
        parent[x] = parent[parent[x]]
        x = parent[x]
    return x


@njit(types.void(types.int64[::1], types.int64, types.int64), cache=True, nogil=True)
def unite(parent: Array, x: int, y: int) -> None:
    """Put two sets of a union-find forest together; the smallest number is the root."""
    x, y = _root(parent, x), _root(parent, y)
    if x < y:
        parent[y] = x
    else:
        parent[x] = y


@njit(nogil=True)
def _agreement(signatures: Array, x: int, y: int) -> int:
    same = 0
    for i in range(signatures.shape[1]):
        same += signatures[x, i] == signatures[y, i]
    return same


@njit(nogil=True)
def _meet_before(signatures: Array, x: int, y: int, band: int, rows: int) -> bool:
    """Whether two signatures agree in all of a band below this one."""
    for other in range(band):
        same = True
        for i in range(other * rows, (other + 1) * rows):
            if signatures[x, i] != signatures[y, i]:
                same = False
                break
        if same:
            return True
    return False


@njit(
    types.boolean(
        types.int64[::1],
        _ints,
        _ints,
        _small,
        _matrix,
        types.int64,
        types.int64[::1],
        types.int64,
        types.int64,
    ),
    cache=True,
    nogil=True,
)
def next_pair(
    state: Array,
    starts: Array,
    members: Array,
    bands: Array,
    signatures: Array,
    rows: int,
    parent: Array,
    window: int,
    least: int,
) -> bool:
    """Go on to the next pair of texts that is worth a comparison; False at the end.

    Bucket k holds members[starts[k]:starts[k + 1]] and is of band bands[k]. Each member is paired with at
    most `window` before it. Passed over: pairs that `parent` connects already, those that met in an earlier
    band, and those whose signatures agree at fewer than `least` places. `state`: bucket, place of the
    second, place of the first to come; then the pair; then how many were passed over for their signatures.
    It begins as [0, 1, 0, 0, 0, 0].
    """
    bucket, second, first = state[0], state[1], state[2]
    while bucket < len(starts) - 1:
        start = starts[bucket]
        size = starts[bucket + 1] - start
        while second < size:
            y = members[start + second]
            while first < second:
                x = members[start + first]
                first += 1
                if _root(parent, x) == _root(parent, y):
                    continue
                if _agreement(signatures, x, y) < least:
                    state[5] += 1
                    continue
                if _meet_before(signatures, x, y, np.int64(bands[bucket]), rows):
                    continue
                state[0], state[1], state[2], state[3], state[4] = bucket, second, first, x, y
                return True
            second += 1
            first = max(0, second - window)
        bucket += 1
        second, first = 1, 0
    state[0], state[1], state[2] = bucket, 1, 0
    return False


@njit(types.int64(_hashes, _hashes), cache=True, nogil=True)
def count_common(one: Array, other: Array) -> int:
    """How many numbers two sorted arrays without repetitions share."""
    i = j = common = 0
    while i < len(one) and j < len(other):
        if one[i] == other[j]:
            common += 1
            i += 1
            j += 1
        elif one[i] < other[j]:
            i += 1
        else:
            j += 1
    return common


@njit(nogil=True)
def _slot(table: Array, ids: Array, wanted: Any) -> Any:
    """Where a number stands in the open-addressed table, or the free place for it."""
    x = wanted
    x = (x ^ (x >> _30)) * _C1
    x = (x ^ (x >> _27)) * _C2
    mask = len(table) - 1
    at = np.int64(x ^ (x >> _31)) & mask
    while table[at] >= 0 and ids[table[at]] != wanted:
        at = (at + 1) & mask
    return at


@njit(types.UniTuple(types.uint64[::1], 2)(_hashes, _hashes), cache=True, nogil=True)
def star_forest(one: Array, other: Array) -> tuple[Array, Array]:
    """Connected components of the edges (one[i], other[i]) as stars: (root, vertex) of all but the roots.

    A root is the smallest number of its component, so that the result is a function of the set of
    components, but for its order. Union-find with path halving (Tarjan, van Leeuwen 1984) over numbers that
    a hash table makes small: time grows with the edges, memory with the vertices that have one.
    """
    size = 1 << 12
    table = np.full(size, -1, np.int32)
    ids = np.empty(size // 2, np.uint64)
    parent = np.empty(size // 2, np.int64)
    count = 0
    for edge in range(len(one)):
        if count + 2 > size // 2:
            size *= 2
            table = np.full(size, -1, np.int32)
            grown, moved = np.empty(size // 2, np.uint64), np.empty(size // 2, np.int64)
            grown[:count] = ids[:count]
            moved[:count] = parent[:count]
            ids, parent = grown, moved
            for k in range(count):
                table[_slot(table, ids, ids[k])] = k
        at = _slot(table, ids, one[edge])
        if table[at] < 0:
            table[at], ids[count], parent[count] = count, one[edge], count
            count += 1
        x = _root(parent, np.int64(table[at]))
        at = _slot(table, ids, other[edge])
        if table[at] < 0:
            table[at], ids[count], parent[count] = count, other[edge], count
            count += 1
        y = _root(parent, np.int64(table[at]))
        if ids[x] < ids[y]:
            parent[y] = x
        elif ids[y] < ids[x]:
            parent[x] = y
    roots, vertices = np.empty(count, np.uint64), np.empty(count, np.uint64)
    found = 0
    for k in range(count):
        root = _root(parent, k)
        if root != k:
            roots[found], vertices[found] = ids[root], ids[k]
            found += 1
    return roots[:found].copy(), vertices[:found].copy()
