"""Tasks that find what many documents share: lines and paragraphs of a run, then a range of their hashes.

A line counts once a distinct text: a document that stands in the input a hundred times does not make its
lines boilerplate. The first of equal paragraphs is the one of the document with the smallest (key, place in
the text); both are functions of contents.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_jobs.key_ranges import WHOLE, KeyedWriter, Range, parts_of_range
from data_jobs.runs import RunFile, text_buffers
from data_jobs.work import Job, keep, temporary

Array = npt.NDArray[Any]
UNIT = {"hash": np.uint64, "key": np.uint64, "at": np.uint64}
FIRST = np.dtype([("hash", "<u8"), ("key", "<u8"), ("at", "<u8")])
MOST_ROWS = 1 << 24
"""That a task takes into memory at once, 24 bytes each, and again to sort."""


def hash_run(job: Job) -> dict[str, Any]:
    """Job: {run, name, kind, least_words, folder}; kind: lines or paragraphs. Receipt: {files, units}.

    The file has (hash of the words, key of the document, first byte in the text) of each unit.
    """
    with temporary(job["folder"]) as tmp:
        with KeyedWriter(tmp, UNIT) as file:
            for batch in RunFile(job["run"]).batches():
                hashes, documents, starts, _ = units_of(batch["text"], job["kind"], job["least_words"])
                keys = batch["key"].to_numpy()[documents]
                file.add(*_distinct(job["kind"], hashes, keys, starts))
        path = keep(tmp, f"{job['name']}.{job['kind']}.arrow")
    return {"files": [path], "units": path, "rejects": []}


def common_lines(job: Job) -> dict[str, Any]:
    """Job: {units, range, ranges, least, file, folder}. Receipt: {files, found}: lines of `least` texts.

    A line that stands nearly everywhere has too many rows for one task, and all of them in one range. They
    are counted in parts of the documents then, since each document is in one part alone.
    """
    rows = sum(len(columns[0]) for columns in _parts(job))
    lines, counts = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    for documents in WHOLE.cut(-(-rows // MOST_ROWS)):
        one, number = _count_texts(job, documents)
        both = np.concatenate([lines, one])
        lines, place = np.unique(both, return_inverse=True)
        summed = np.zeros(len(lines), np.int64)
        np.add.at(summed, place, np.concatenate([counts, number]))
        counts = summed
    return _keep(job, lines[counts >= job["least"]])


def _count_texts(job: Job, documents: Range) -> tuple[Array, Array]:
    """(lines, how many texts have each) of the documents with keys in a range."""
    low, last = np.uint64(documents.low), np.uint64(documents.high - 1)
    found = [np.zeros((2, 0), np.uint64)]
    for columns in _parts(job):
        rows = np.stack(columns[:2])
        found.append(rows[:, (rows[1] >= low) & (rows[1] <= last)])
    hashes, keys = np.concatenate(found, axis=1)
    order = np.lexsort((keys, hashes))
    hashes, keys = hashes[order], keys[order]
    new = (np.diff(hashes, prepend=~hashes[:1]) != 0) | (np.diff(keys, prepend=~keys[:1]) != 0)
    return np.unique(hashes[new], return_counts=True)


def first_paragraphs(job: Job) -> dict[str, Any]:
    """Job: {units, range, ranges, file, folder}. Receipt: {files, found}: repeated ones, with first place."""
    held, count, most = [np.zeros(0, FIRST)], 0, MOST_ROWS
    for columns in _parts(job):
        rows = np.empty(len(columns[0]), FIRST)
        rows["hash"], rows["key"], rows["at"] = columns
        held.append(rows)
        count += len(rows)
        if count > most:
            held = [_ends(np.concatenate(held))]
            count = len(held[0])
            most = max(MOST_ROWS, 2 * count)
    rows = _ends(np.concatenate(held))
    first = np.flatnonzero(np.diff(rows["hash"], prepend=~rows["hash"][:1]) != 0)
    last = np.append(first[1:], len(rows)) - 1 if len(first) else first
    repeated = rows[first] != rows[last]  # copies of one text have one place
    return _keep(job, rows[first[repeated]])


def _ends(rows: Array) -> Array:
    """By hash, key and place; of each hash the first and the last row alone."""
    if not len(rows):
        return rows
    rows = rows[np.lexsort((rows["at"], rows["key"], rows["hash"]))]
    first = np.diff(rows["hash"], prepend=~rows["hash"][:1]) != 0
    return rows[first | np.append(first[1:], True)]


def units_of(
    texts: pa.Array, kind: str, least_words: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """(hash, number of the text, first byte and bytes in it) of each line or paragraph of so many words."""
    from data_jobs.dedup.text_kernels import hash_units

    values, offsets = text_buffers(texts)
    room = int((values[offsets[0] : offsets[-1]] == 10).sum()) + len(texts)
    hashes = np.empty(room, np.uint64)
    documents = np.empty(room, np.int64)
    spans = np.empty((room, 2), np.int64)
    count = hash_units(values, offsets, kind == "paragraphs", least_words, hashes, documents, spans)
    hashes, documents, spans = hashes[:count], documents[:count], spans[:count]
    starts = (spans[:, 0] - offsets[documents]).astype(np.uint64)
    return hashes, documents, starts, spans[:, 1] - spans[:, 0]


def _distinct(kind: str, hashes: Array, keys: Array, starts: Array) -> Iterator[Array]:
    """Of equal lines of a text the first alone."""
    if kind == "lines" and len(hashes):
        order = np.lexsort((starts, keys, hashes))
        new = np.diff(hashes[order], prepend=~hashes[order][:1]) != 0
        new |= np.diff(keys[order], prepend=~keys[order][:1]) != 0
        chosen = order[new]
        hashes, keys, starts = hashes[chosen], keys[chosen], starts[chosen]
    yield from (hashes, keys, starts)


def _parts(job: Job) -> Iterator[list[Array]]:
    """The columns of the job's range, part by part of each file."""
    for path in job["units"]:
        yield from parts_of_range(path, Range.of(job["range"], job["ranges"]))


def _keep(job: Job, found: Array) -> dict[str, Any]:
    with temporary(job["folder"]) as tmp:
        with open(tmp, "wb") as file:
            np.save(file, found)
        path = keep(tmp, job["file"])
    return {"files": [path], "found": path, "rejects": []}
