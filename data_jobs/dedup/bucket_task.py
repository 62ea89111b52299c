"""Task of near duplicates, the second: texts that agree in a band to verified edges, a range of band hashes.

Pairs are compared by the texts themselves: the signature only says which are worth it. Pairs that are
connected already are not compared, so a cluster of n costs about n comparisons and not n^2; what is
connected in the end is the same.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_jobs.dedup.minhash import least_agreement
from data_jobs.dedup.signed_runs import SignedRuns, Vertices
from data_jobs.key_ranges import Range, read_range
from data_jobs.work import Job, keep, temporary

Array = npt.NDArray[Any]
SETS_BYTES = 64 << 20
"""N-gram sets kept for the next comparison."""


class Buckets(NamedTuple):
    """Texts that agree in a band; bucket k has members[starts[k]:starts[k + 1]], ordered by content."""

    starts: npt.NDArray[np.int64]
    members: npt.NDArray[np.int64]
    bands: npt.NDArray[np.uint8]
    texts: Vertices
    """A document of each text: members are places in here."""
    copies: npt.NDArray[np.int64]
    """The text of each of `vertices`."""
    vertices: Vertices


def bucket_range(job: Job) -> dict[str, Any]:
    """Job: {signed, range, ranges, minhash, file, folder}. Receipt: {files, forest, edges, compared, ...}."""
    from data_jobs.dedup.graph_kernels import star_forest

    wanted = job["minhash"]
    signed = SignedRuns(job["signed"])
    buckets = _read_buckets(signed, Range.of(job["range"], job["ranges"]))
    parent = np.arange(len(buckets.texts))
    told = _connect(buckets, parent, signed, wanted)
    roots, vertices = star_forest(*_edges(buckets, parent))
    sizes = np.diff(buckets.starts)
    with temporary(job["folder"]) as tmp:
        write_forest(tmp, roots, vertices)
        path = keep(tmp, job["file"])
    return {
        "files": [path],
        "forest": path,
        "edges": len(roots),
        **told,
        "buckets": len(sizes),
        "largest_bucket": int(sizes.max(initial=0)),
        "capped_buckets": int((sizes > wanted["max_bucket"] + 1).sum()),
        "rejects": [],
    }


def write_forest(path: Any, roots: Vertices, vertices: Vertices) -> None:
    """Edges as an .npy file of shape (2, n): roots, then vertices."""
    with open(path, "wb") as file:  # a path without .npy: np.save would add it
        np.save(file, np.stack([roots, vertices]))


def read_forest(path: str) -> Array:
    """The edges of `write_forest`, memory-mapped."""
    forest: Array = np.load(path, mmap_mode="r")
    return forest


def _read_buckets(signed: SignedRuns, keys: Range) -> Buckets:
    rows = read_range([run["bands"] for run in signed.rows], keys)
    hashes = np.concatenate([np.zeros(0, np.uint64), *(columns[0] for _, columns in rows)])
    vertices = np.concatenate(
        [np.zeros(0, np.uint64), *(signed.vertices(run, columns[1]) for run, columns in rows)]
    )
    bands = np.concatenate([np.zeros(0, np.uint8), *(columns[2] for _, columns in rows)])
    order = np.argsort(hashes, kind="stable")
    new = np.diff(hashes[order], prepend=~hashes[order][:1]) != 0
    bucket = np.cumsum(new) - 1
    several = np.bincount(bucket, minlength=1)[bucket] > 1 if len(bucket) else np.zeros(0, bool)
    bucket, order = bucket[several], order[several]
    unique, inverse = np.unique(vertices[order], return_inverse=True)
    text_of, texts = _texts(signed, unique)
    members = text_of[inverse]
    # Copies of a text are one member, and a bucket of one text is none.
    by_bucket = np.lexsort((members, bucket))
    bucket, members, bands = bucket[by_bucket], members[by_bucket], bands[order][by_bucket]
    first = (np.diff(bucket, prepend=-1) != 0) | (np.diff(members, prepend=-1) != 0)
    bucket, members, bands = bucket[first], members[first], bands[first]
    several = np.bincount(bucket, minlength=1)[bucket] > 1 if len(bucket) else np.zeros(0, bool)
    bucket, members, bands = bucket[several], members[several], bands[several]
    begins = np.flatnonzero(np.diff(bucket, prepend=-1))
    starts = np.append(begins, len(bucket)).astype(np.int64)
    return Buckets(starts, members, bands[begins], texts, text_of, unique)


def _texts(signed: SignedRuns, vertices: Vertices) -> tuple[npt.NDArray[np.int64], Vertices]:
    """(text of each document, a document of each text), texts in the order (source, key, c)."""
    if not len(vertices):
        return np.zeros(0, np.int64), vertices
    sources, ranks = signed.ranks(vertices)
    columns = [sources, ranks["key"], ranks["c"][:, 0], ranks["c"][:, 1]]
    order = np.lexsort([vertices, *columns[::-1]])
    new = np.zeros(len(order), bool)
    new[0] = True
    for column in columns:
        new[1:] |= column[order][1:] != column[order][:-1]
    text_of = np.empty(len(order), np.int64)
    text_of[order] = np.cumsum(new) - 1
    return text_of, vertices[order[new]]


def _connect(buckets: Buckets, parent: Array, signed: SignedRuns, wanted: dict[str, Any]) -> dict[str, int]:
    """Unite the texts that are near duplicates in `parent`; how many pairs were looked at."""
    from data_jobs.dedup.graph_kernels import next_pair, unite

    told = {"compared": 0, "near": 0, "unlike_signatures": 0}
    if not len(buckets.members):
        return told
    count = wanted["bands"] * wanted["rows"]
    used = np.unique(buckets.members)
    signatures = np.zeros((len(buckets.texts), count), np.uint8)
    signatures[used] = signed.signatures(buckets.texts[used])
    least = least_agreement(wanted["threshold"], count) if wanted["verify"] else 0
    sets = ShingleSets(signed, wanted["ngram"])
    state = np.array([0, 1, 0, 0, 0, 0])
    while next_pair(
        state, buckets.starts, buckets.members, buckets.bands, signatures, wanted["rows"], parent,
        wanted["max_bucket"], least,
    ):  # fmt: skip
        x, y = int(state[3]), int(state[4])
        if wanted["verify"]:
            told["compared"] += 1
            if sets.jaccard(int(buckets.texts[x]), int(buckets.texts[y])) < wanted["threshold"]:
                continue
        told["near"] += 1
        unite(parent, x, y)
    told["unlike_signatures"] = int(state[5])
    return told


def _edges(buckets: Buckets, parent: Array) -> tuple[Vertices, Vertices]:
    """Edges that say what `parent` says, and tie the copies of each connected text to it."""
    up = parent
    while True:  # to the roots
        higher = up[up]
        if (higher == up).all():
            break
        up = higher
    connected = np.bincount(up, minlength=1)[up] > 1 if len(up) else np.zeros(0, bool)
    texts = np.flatnonzero(connected)
    vertices = np.flatnonzero(connected[buckets.copies])
    return (
        np.concatenate([buckets.texts[up[texts]], buckets.texts[buckets.copies[vertices]]]),
        np.concatenate([buckets.texts[texts], buckets.vertices[vertices]]),
    )


class ShingleSets:
    """Sets of n-gram hashes of documents, the last used ones kept."""

    def __init__(self, signed: SignedRuns, ngram: int) -> None:
        self._signed, self._ngram = signed, ngram
        self._held: OrderedDict[int, Array] = OrderedDict()
        self._held_bytes = 0

    def jaccard(self, one: int, other: int) -> float:
        """Size of the intersection over size of the union."""
        from data_jobs.dedup.graph_kernels import count_common

        a, b = self._set(one), self._set(other)
        common = count_common(a, b)
        return common / (len(a) + len(b) - common)

    def _set(self, vertex: int) -> Array:
        from data_jobs.dedup.text_kernels import hash_shingles

        if vertex in self._held:
            self._held.move_to_end(vertex)
            return self._held[vertex]
        values, start, stop = self._signed.text(vertex)
        found = np.empty((stop - start) // 2 + 1, np.uint64)
        count = hash_shingles(values, start, stop, self._ngram, True, found)
        self._held[vertex] = shingles = np.unique(found[:count])
        self._held_bytes += shingles.nbytes
        while self._held_bytes > SETS_BYTES and len(self._held) > 2:
            self._held_bytes -= self._held.popitem(last=False)[1].nbytes
        return shingles
