"""Task of decontamination, the first: evaluation files to the sorted set of their n-grams.

Every text of an object is taken (question, choices, answer), each for itself; a plain text file is one text.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster import places
from cluster.errors import UserError
from data_jobs.hashes import sha256
from data_jobs.reading.inputs import absolute
from data_jobs.reading.json_lines import read_objects
from data_jobs.reading.raw_bytes import Piece, Reading
from data_jobs.reading.records import Reject
from data_jobs.reading.text_files import read_whole
from data_jobs.work import Job, keep, temporary

GRAMS = np.dtype([("hash", "<u8"), ("file", "<u2")])
_OBJECTS = (".jsonl", ".ndjson", ".json")
_PACKED = (".gz", ".zst", ".xz")
_MOST_BYTES = 1 << 25
"""Of a text; a longer file is more than one."""


def collect_grams(job: Job) -> dict[str, Any]:
    """Job: {files, ngram, file, folder}, absolute. Receipt: {files, grams, count}: with the first file of
    each.
    """
    parts = [_grams_of(path, number, job["ngram"]) for number, path in enumerate(job["files"])]
    grams = np.concatenate([np.zeros(0, GRAMS), *parts])
    grams = grams[np.lexsort((grams["file"], grams["hash"]))]
    grams = grams[np.diff(grams["hash"], prepend=~grams["hash"][:1]) != 0]
    with temporary(job["folder"]) as tmp:
        with open(tmp, "wb") as file:
            np.save(file, grams)
        path = keep(tmp, job["file"])
    return {"files": [path], "grams": path, "count": len(grams), "rejects": []}


def digest_of(files: list[str]) -> str:
    """One number for what some evaluation files hold: SHA-256 over the sorted ones of each."""
    return sha256("\n".join(sorted(_digest(path) for path in files)).encode())


def check_evaluations(files: list[str]) -> None:
    """UserError where one cannot be read: before anything else is done, or hours would be lost."""
    for path in files:
        for _ in texts_of(absolute(path)):
            pass


def texts_of(path: str) -> Iterator[str]:
    """The texts of an evaluation file. UserError where something cannot be read."""
    piece, reading = Piece(path, name=Path(path).name), Reading()
    name = path.lower()
    for end in _PACKED:
        name = name.removesuffix(end)
    if name.endswith(_OBJECTS):
        for item in read_objects(piece, reading):
            if isinstance(item, Reject):
                raise _bad(item)
            yield from _strings(item[0])
    else:
        for record in read_whole(piece, reading, _MOST_BYTES, {}):
            if isinstance(record, Reject):
                raise _bad(record)
            yield record.text


def _bad(reject: Reject) -> UserError:
    return UserError(f"{reject.place}: {reject.reason}: {reject.detail} (corpus.decontaminate.files)")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _grams_of(path: str, number: int, ngram: int) -> npt.NDArray[Any]:
    parts = [shingles_of(text, ngram) for text in texts_of(path)]
    hashes = np.unique(np.concatenate([np.zeros(0, np.uint64), *parts]))
    grams = np.empty(len(hashes), GRAMS)
    grams["hash"], grams["file"] = hashes, number
    return grams


def shingles_of(text: str, ngram: int) -> npt.NDArray[np.uint64]:
    """The hashes of the n-grams of words in their order; none where there are fewer words."""
    from data_jobs.dedup.text_kernels import hash_shingles

    values = np.frombuffer(text.encode("utf-8", "replace") or b"\n", np.uint8)
    found = np.empty(len(values) // 2 + 1, np.uint64)
    return found[: hash_shingles(values, 0, len(values), ngram, False, found)]


def _digest(path: str) -> str:
    try:
        with places.open_read(places.at(absolute(path))) as file:
            return sha256(file.read())
    except places.PlaceError:
        raise
    except OSError as error:
        raise UserError(f"corpus.decontaminate.files: {path}: cannot be read: {error.strerror}") from None
