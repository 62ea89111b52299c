"""Runs: sorted files of documents between the stages.

Rows stand in the order (split, sort key, c, metadata, place), train before val. A batch holds about 1
MiB, and the schema metadata says with which (split, key) each begins, so a range of keys is read
without the rest.
"""

from __future__ import annotations

import bisect
import json
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_jobs.dedup.drops import Drops
from data_jobs.work import unreadable

BATCH_BYTES = 1 << 20
_OTHER_FILES = 256
"""That a process has open beside its runs, at most."""
_INDEX_KEY = b"manta.batches"


class Document(NamedTuple):
    """A cleaned document; the order of its fields is the order of a run."""

    val: bool
    key: int
    c: bytes
    metadata: bytes
    """Canonical JSON."""
    place: str
    """Where it stood in the input, as JSON (file, start, line, offset): for the reader of a report only."""
    text: str


TEXT_RUN = pa.schema(
    [
        ("val", pa.bool_()),
        ("key", pa.uint64()),
        ("c", pa.binary(16)),
        ("metadata", pa.large_binary()),
        ("place", pa.large_string()),
        ("text", pa.large_string()),
    ]
)


def token_run(token_type: pa.DataType) -> pa.Schema:
    """Schema of a run after encoding: `bytes` of the text instead of the text."""
    return pa.schema(
        [
            *list(TEXT_RUN)[:-1],
            ("bytes", pa.uint64()),
            ("tokens", pa.large_list(token_type)),
            ("sentence_ends", pa.large_list(pa.uint32())),
        ]
    )


def write_text_run(path: str | Path, documents: Sequence[Document]) -> None:
    """Write sorted documents."""
    batches: list[list[Document]] = []
    held = BATCH_BYTES
    for document in documents:
        if held >= BATCH_BYTES or document.val != batches[-1][0].val:
            batches.append([])
            held = 0
        batches[-1].append(document)
        held += len(document.text)
    schema = with_index(TEXT_RUN, [(batch[0].val, batch[0].key) for batch in batches])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            columns = [
                pa.array(column, field.type) for column, field in zip(zip(*batch), TEXT_RUN, strict=True)
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


class RunFile:
    """A run, memory-mapped; with `drop`, a drop bitmap, only the documents that stay."""

    def __init__(self, path: str | Path, drop: str | Path | None = None) -> None:
        self._drops = Drops(drop) if drop is not None else None
        try:
            self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self.starts: list[tuple[bool, int]] = [
                (bool(val), int(key)) for val, key in json.loads(self._reader.schema.metadata[_INDEX_KEY])
            ]
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise unreadable(path, error) from None

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        return self._reader.schema

    @property
    def schema_index(self) -> dict[bytes, bytes]:
        """The index as schema metadata, for a run with the same batches."""
        metadata: dict[bytes, bytes] = self._reader.schema.metadata
        return metadata

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All batches in order, one for each of `starts`; one may be empty."""
        for number in range(self._reader.num_record_batches):
            yield self.batch(number)

    def batch(self, number: int) -> pa.RecordBatch:
        """One batch."""
        batch = self._reader.get_batch(number)
        return batch if self._drops is None else batch.filter(self._drops.kept(number))

    def between(self, val: bool, low: int, high: int) -> Iterator[pa.RecordBatch]:
        """The batches of one split that may hold keys in [low, high)."""
        begin = bisect.bisect_left(self.starts, (val, low)) - 1  # the one before may end with `low`
        for number in range(max(0, begin), bisect.bisect_left(self.starts, (val, high))):
            if self.starts[number][0] == val:
                yield self.batch(number)


def open_runs(paths: Sequence[str]) -> list[RunFile]:
    """Runs that stay open together, with as many open files allowed to this process as that needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = len(paths) + _OTHER_FILES
    if resource.RLIM_INFINITY != soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return [RunFile(path) for path in paths]


def hash_words(column: pa.Array) -> npt.NDArray[np.uint64]:
    """Content hashes as two big-endian integers a row, so that they compare as the bytes do."""
    if not len(column):
        return np.zeros((0, 2), np.uint64)
    data = np.frombuffer(column.buffers()[1], np.uint8, count=16 * len(column), offset=16 * column.offset)
    return data.view(">u8").reshape(-1, 2).astype(np.uint64)


def text_buffers(column: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """(UTF-8 of all texts, where each begins and the last ends) of a large_string array, with no copy."""
    _, offsets, values = column.buffers()
    data = np.frombuffer(values, np.uint8) if values is not None and values.size else np.zeros(0, np.uint8)
    if not len(column):
        return data, np.zeros(1, np.int64)
    return data, np.frombuffer(offsets, np.int64, count=len(column) + 1, offset=8 * column.offset)


def with_index(schema: pa.Schema, starts: Sequence[tuple[bool, int]]) -> pa.Schema:
    """The schema of a run whose batches begin with these (split, key)."""
    index: list[list[Any]] = [[int(val), str(key)] for val, key in starts]
    return schema.with_metadata({_INDEX_KEY: json.dumps(index).encode()})
