"""Task of near duplicates, the fourth: of each cluster the text that stays, for a part of the clusters.

What stays is a text, by its content hash. Copies of it stay too, here: exact duplicates are counted where
shards are merged, and how many of them one run holds shall change no count.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_jobs.dedup.bucket_task import read_forest
from data_jobs.dedup.signed_runs import SignedRuns, Vertices
from data_jobs.hashes import mix_array
from data_jobs.key_ranges import Range
from data_jobs.work import Job, keep, temporary

Array = npt.NDArray[Any]
TOP = 20
"""Largest clusters that are shown."""
TOP_OF_SOURCE = 3
_SAMPLES = 3
_SCAN = 1 << 20


def choose_range(job: Job) -> dict[str, Any]:
    """Job: {signed, forest, range, ranges, keep, file, folder}.

    Receipt: {files, chosen, clusters, sizes_log2, largest, largest_of_source}. The file has shape (2, n):
    documents that are dropped, sorted, then the one that stays instead of each.
    """
    signed = SignedRuns(job["signed"])
    comp, vertices = _clusters(read_forest(job["forest"]), Range.of(job["range"], job["ranges"]))
    told: dict[str, Any] = {"clusters": 0, "sizes_log2": [], "largest": [], "largest_of_source": {}}
    dropped = kept = np.zeros(0, np.uint64)
    if len(vertices):
        dropped, kept, told = _choose(signed, comp, vertices, job["keep"])
    with temporary(job["folder"]) as tmp:
        with open(tmp, "wb") as file:
            np.save(file, np.stack([dropped, kept]))
        path = keep(tmp, job["file"])
    return {"files": [path], "chosen": path, **told, "rejects": []}


def read_chosen(path: str | Path) -> Array:
    """The two rows of a file of `choose_range`, memory-mapped."""
    chosen: Array = np.load(path, mmap_mode="r")
    return chosen


def _clusters(forest: Array, part: Range) -> tuple[npt.NDArray[np.int64], Vertices]:
    """(cluster from 0, document) of the clusters whose root falls into the part."""
    found = [np.zeros((2, 0), np.uint64)]
    for at in range(0, forest.shape[1], _SCAN):
        edges = np.asarray(forest[:, at : at + _SCAN])
        place = mix_array(edges[0])
        found.append(edges[:, (place >= np.uint64(part.low)) & (place <= np.uint64(part.high - 1))])
    root, vertex = np.concatenate(found, axis=1)
    roots, comp = np.unique(root, return_inverse=True)
    return (
        np.concatenate([np.arange(len(roots)), comp]).astype(np.int64),
        np.concatenate([roots, vertex]),
    )


def _choose(
    signed: SignedRuns, comp: npt.NDArray[np.int64], vertices: Vertices, rule: str
) -> tuple[Vertices, Vertices, dict[str, Any]]:
    sources, ranks = signed.ranks(vertices)
    content = [sources, ranks["key"], ranks["c"][:, 0], ranks["c"][:, 1]]
    text = _numbered([comp, *content])
    quality = np.full(text.max() + 1, -np.inf)
    np.maximum.at(quality, text, ranks["quality"])  # copies may have other metadata
    order = keep_order(rule, comp, quality[text], ranks["bytes"], content, vertices)
    first = np.flatnonzero(np.diff(comp[order], prepend=-1))
    winner = order[first]  # one a cluster, in the order of clusters
    stays = text == text[winner][comp]
    dropped = np.flatnonzero(~stays)
    by_vertex = dropped[np.argsort(vertices[dropped])]
    return (
        vertices[by_vertex],
        vertices[winner][comp[by_vertex]],
        _tell(signed, comp, text, sources, vertices, order, winner),
    )


def keep_order(
    rule: str, comp: Array, quality: Array, sizes: Array, content: list[Array], vertices: Vertices
) -> Array:
    """Documents by cluster, in each the one first that stays by the rule; a function of contents alone.

    first: by (source, key, c). longest: by bytes, the most first, then as `first`. best: by quality, the
    highest first, then as `longest`.
    """
    ascending = [comp]
    if rule == "best":
        ascending.append(-quality)
    if rule in ("best", "longest"):
        ascending.append(~sizes)  # of unsigned numbers: the largest first
    return np.lexsort([vertices, *[*ascending, *content][::-1]])


def _numbered(columns: list[Array]) -> npt.NDArray[np.int64]:
    """Equal rows get equal numbers from 0."""
    order = np.lexsort(columns[::-1])
    new = np.zeros(len(order), bool)
    for column in columns:
        new[1:] |= column[order][1:] != column[order][:-1]
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.cumsum(new)
    return numbers


def _tell(
    signed: SignedRuns,
    comp: npt.NDArray[np.int64],
    text: npt.NDArray[np.int64],
    sources: npt.NDArray[np.int64],
    vertices: Vertices,
    order: Array,
    winner: Array,
) -> dict[str, Any]:
    """What a report says of the clusters: sizes in distinct texts, and the largest ones."""
    places = np.unique(text[order], return_index=True)[1]
    ordered = order[np.sort(places)]  # a document of each text, by cluster, in each by the rule
    sizes = np.bincount(comp[ordered])
    starts = np.concatenate([[0], np.cumsum(sizes)])

    def describe(cluster: int) -> dict[str, Any]:
        members = ordered[starts[cluster] : starts[cluster + 1]]
        names = [signed.source_name(int(vertices[at])) for at in members]
        return {
            "texts": int(sizes[cluster]),
            "sources": {name: names.count(name) for name in sorted(set(names))},
            "kept": _shown(signed, int(vertices[winner[cluster]])),
            "samples": [_shown(signed, int(vertices[at])) for at in members[1 : 1 + _SAMPLES]],
        }

    by_source = {}
    for number in np.unique(sources).tolist():
        own = np.bincount(comp[ordered][sources[ordered] == number], minlength=len(sizes))
        top = [c for c in _largest(own, TOP_OF_SOURCE) if own[c] > 1]
        if top:
            name = signed.source_name(int(vertices[np.flatnonzero(sources == number)[0]]))
            by_source[name] = [{"own_texts": int(own[c]), **describe(c)} for c in top]
    return {
        "clusters": len(sizes),
        "sizes_log2": np.bincount(np.log2(sizes).astype(np.int64)).tolist(),
        "largest": [describe(cluster) for cluster in _largest(sizes, TOP)],
        "largest_of_source": by_source,
    }


def _largest(sizes: Array, count: int) -> list[int]:
    order: list[int] = np.argsort(-sizes, kind="stable")[:count].tolist()
    return order


def _shown(signed: SignedRuns, vertex: int) -> dict[str, Any]:
    place = signed.place(vertex)
    return {
        "source": signed.source_name(vertex),
        "file": place["file"],
        "offset": place["offset"],
        "head": signed.head(vertex),
    }
