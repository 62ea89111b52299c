"""A shard file: one Arrow IPC record batch, whose schema metadata carries the digests of its buffers.

Columns: `id` uint64; `tokens` large_list of uint16 or uint32, each document ended by eos; `sentence_ends`
large_list of uint32; metadata as
`meta.<field>` large_string. Token j stands at byte `values_at + width * j` of the file.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cluster.errors import RunError
from data_jobs.shards.digests import CHUNK_BYTES, chunk_digest, chunk_digests, shard_digest

HEADER_KEY = b"manta.shard"


@dataclass(frozen=True)
class Lists:
    """A column of lists: all values one after the other, and how many each document has."""

    values: npt.NDArray[Any]
    lengths: npt.NDArray[np.int64]

    def to_arrow(self) -> pa.LargeListArray:
        """The Arrow array over these values, offsets from zero, no validity buffer."""
        offsets = np.zeros(len(self.lengths) + 1, np.int64)
        np.cumsum(self.lengths, out=offsets[1:])
        kind = pa.large_list(pa.field("item", pa.from_numpy_dtype(self.values.dtype), nullable=False))
        return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(self.values), type=kind)


@dataclass(frozen=True)
class WrittenShard:
    """What the index says of a shard file."""

    documents: int
    tokens: int
    values_at: int
    digest: str


def write_shard(
    path: str | Path,
    ids: npt.NDArray[np.uint64],
    tokens: Lists,
    sentence_ends: Lists,
    metadata: Mapping[str, Sequence[str]],
) -> WrittenShard:
    """Write a shard file (no commit: give it a temporary name)."""
    columns: dict[str, pa.Array] = {
        "id": pa.array(ids, pa.uint64()),
        "tokens": tokens.to_arrow(),
        "sentence_ends": sentence_ends.to_arrow(),
    }
    for name, values in metadata.items():
        columns[name] = pa.array(values, pa.large_string())
    schema = pa.schema([pa.field(name, column.type, nullable=False) for name, column in columns.items()])
    header = {
        "schema": _schema_words(schema),
        "rows": len(ids),
        "buffers": [
            {
                "name": name,
                "bytes": (size := _used_bytes(name, columns)),
                "chunks": chunk_digests(data[:size]),
            }
            for name, data in _buffers(columns)
        ],
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    batch = pa.RecordBatch.from_arrays(
        list(columns.values()), schema=schema.with_metadata({HEADER_KEY: text})
    )
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    values_at = ShardFile(path).buffers["tokens.values"][0]
    return WrittenShard(len(ids), len(tokens.values), values_at, shard_digest(header))


class ShardFile:
    """A shard file, memory-mapped. Raises RunError where it is not a whole shard."""

    def __init__(self, path: str | Path, digest: str | None = None, name: str | None = None) -> None:
        """`digest`: what the index says; a header that differs is refused before anything is read by it.

        `name`: how it is called where something is wrong with it, if it is the copy of a remote file.
        """
        self.path = Path(path)
        self.name = name or str(path)
        try:
            with open(path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise RunError(f"{self.name}: the shard cannot be opened: {error}") from None
        whole = pa.py_buffer(self._map)
        try:
            reader = pa.ipc.open_file(pa.BufferReader(whole))
            self.header: dict[str, Any] = json.loads((reader.schema.metadata or {})[HEADER_KEY])
            self.digest = shard_digest(self.header)
            if digest is None or digest == self.digest:
                self.batch: pa.RecordBatch = reader.get_batch(0)
                self.buffers = self._find_buffers(whole.address)
            batches = reader.num_record_batches
        except (pa.ArrowException, KeyError, ValueError, TypeError, OSError) as error:
            raise RunError(f"{self.name}: damaged shard, its header cannot be read ({error})") from None
        if digest is not None and digest != self.digest:
            raise RunError(
                f"{self.name}: damaged shard, header digest {self.digest}, the index says {digest}"
            )
        rows, schema = self.header["rows"], self.header["schema"]
        if batches != 1 or self.batch.num_rows != rows or _schema_words(self.batch.schema) != schema:
            raise RunError(f"{self.name}: damaged shard, its columns are not those of its header")

    @property
    def data(self) -> mmap.mmap:
        """The whole file."""
        return self._map

    def _find_buffers(self, base: int) -> dict[str, tuple[int, list[str], int]]:
        """Buffer name to (byte offset in the file, chunk digests, bytes)."""
        found = {}
        columns = {name: self.batch.column(i) for i, name in enumerate(self.batch.schema.names)}
        for (name, data), said in zip(_buffers(columns), self.header["buffers"], strict=True):
            size = said["bytes"]
            if name != said["name"] or len(data) < size:
                raise ValueError(
                    f"buffer {name} has {len(data)} bytes, {said['name']} was written with {size}"
                )
            at = (np.frombuffer(data, np.uint8).ctypes.data - base) if size else 0
            found[name] = (at, said["chunks"], size)
        return found

    def check_chunk(self, buffer: str, number: int) -> None:
        """Raise RunError where a chunk is not what its digest says. Read twice before that is said."""
        at, chunks, size = self.buffers[buffer]
        start = at + number * CHUNK_BYTES
        stop = min(start + CHUNK_BYTES, at + size)
        found = chunk_digest(memoryview(self._map)[start:stop])
        if found == chunks[number]:
            return
        found = chunk_digest(self._map[start:stop])
        if found != chunks[number]:
            raise RunError(
                f"{self.name}: {buffer} chunk {number} (bytes {start:,} to {stop:,}) is damaged: "
                f"digest {found}, written as {chunks[number]}"
            )

    def problems(self) -> Iterator[str]:
        """Every damaged chunk, in words."""
        for buffer, (_, chunks, _) in self.buffers.items():
            for number in range(len(chunks)):
                try:
                    self.check_chunk(buffer, number)
                except RunError as error:
                    yield str(error)

    def check(self) -> None:
        """Raise RunError at the first damaged chunk."""
        for problem in self.problems():
            raise RunError(problem)


def _schema_words(schema: pa.Schema) -> list[list[str]]:
    return [[field.name, str(field.type)] for field in schema]


def _buffers(columns: dict[str, pa.Array]) -> Iterator[tuple[str, memoryview]]:
    """The buffers of the columns by name, as long as Arrow keeps them: it pads."""
    for name, column in columns.items():
        if column.null_count or (pa.types.is_large_list(column.type) and column.values.null_count):
            raise ValueError(f"column {name} holds nulls")
        buffers = [_plain(buffer) for buffer in column.buffers()]
        if pa.types.is_large_list(column.type):
            yield f"{name}.offsets", buffers[1]
            yield f"{name}.values", buffers[3]
        elif pa.types.is_large_string(column.type):
            yield f"{name}.offsets", buffers[1]
            yield f"{name}.values", buffers[2]
        else:
            yield name, buffers[1]


def _used_bytes(name: str, columns: dict[str, pa.Array]) -> int:
    """How much of a buffer the column uses."""
    column_name, _, part = name.rpartition(".")
    if name in columns:
        return len(columns[name]) * int(columns[name].type.bit_width) // 8
    column = columns[column_name]
    if part == "offsets":
        return 8 * (len(column) + 1)
    if pa.types.is_large_list(column.type):
        return len(column.values) * int(column.type.value_type.bit_width) // 8
    return int(np.frombuffer(column.buffers()[1], np.int64)[len(column)]) if len(column) else 0


def _plain(buffer: pa.Buffer | None) -> memoryview:
    return memoryview(buffer).cast("B") if buffer is not None else memoryview(b"")
