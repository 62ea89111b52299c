"""Tensor files with a digest for each MiB: written in one pass, read by verified ranges.

The files are plain safetensors, so that every tool opens them. The digests stand in the receipt, because no
tensor format notices a flipped bit by itself.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cluster import places
from cluster.errors import RunError
from cluster.places import Place, PlaceError, Sink

CHUNK = 1 << 20
DIGEST_HEX = 32  # the first 16 bytes of SHA-256
RUN_CHUNKS = 16  # of an object store: what a request costs is mostly waiting
LOCAL_RUN_CHUNKS = 4

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ChunkedFile:
    """A file's name in its folder, its size, and the digest of every MiB."""

    name: str
    size: int
    chunks: tuple[str, ...]


def unreadable(path: Place, error: OSError) -> RunError:
    """PlaceError unless the file is gone: storage that is away says nothing of what is on it."""
    if isinstance(error, PlaceError):
        return error
    if error.errno in (errno.ENOENT, errno.ESTALE):  # the second: removed on NFS while it was open
        return RunError(f"{path}: cannot be read: {error.strerror}")
    return PlaceError(
        str(path),
        f"cannot be read: {error.strerror or error}; see to the storage, then type the same command again, "
        "or remove the checkpoint if it is this file alone",
    )


def write_tensors(
    folder: Place, name: str, tensors: Sequence[tuple[str, Array]]
) -> tuple[ChunkedFile, list[int]]:
    """Write flat fp32 tensors in the given order; returns the file and the byte where each begins."""
    header: dict[str, object] = {}
    offset = 0
    for key, values in tensors:
        header[key] = {
            "dtype": "F32",
            "shape": [values.size],
            "data_offsets": [offset, offset + values.nbytes],
        }
        offset += values.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    starts: list[int] = []

    def write(sink: Sink) -> _Writer:
        starts.clear()  # this may be another try
        writer = _Writer(sink)
        writer.write(len(text).to_bytes(8, "little") + text)
        for _, values in tensors:
            starts.append(writer.size)
            writer.write(np.ascontiguousarray(values).view(np.uint8).data)
        writer.finish()
        return writer

    writer = places.write_with(folder / name, write, 8 + len(text) + offset)
    assert writer.size == 8 + len(text) + offset
    return ChunkedFile(name, writer.size, tuple(writer.chunks)), starts


class _Writer:
    """Writes a file and digests it by chunk on the way."""

    def __init__(self, sink: Sink) -> None:
        self.size = 0
        self.chunks: list[str] = []
        self._sink = sink
        self._hash = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            room = CHUNK - self.size % CHUNK
            part = view[:room]
            self._sink.write(part)
            self._hash.update(part)
            self.size += len(part)
            if self.size % CHUNK == 0:
                self._next_chunk()
            view = view[room:]

    def finish(self) -> None:
        """The last chunk may be a shorter one."""
        if self.size % CHUNK:
            self._next_chunk()

    def _next_chunk(self) -> None:
        self.chunks.append(self._hash.hexdigest()[:DIGEST_HEX])
        self._hash = hashlib.sha256()


class ChunkReader:
    """Reads byte ranges of one chunked file; every byte that is returned has passed its digest."""

    def __init__(self, folder: Place, file: ChunkedFile, run_chunks: int = RUN_CHUNKS) -> None:
        """`run_chunks`: most that are read at once where they stand side by side, and kept."""
        self.path = folder / file.name
        self.file, self.run_chunks = file, run_chunks
        self._wanted = np.zeros(len(file.chunks) + 1, bool)
        self._first, self._run = 0, b""  # neighbouring fragments share a chunk

    def expect(self, start: int, length: int) -> None:
        """Say what will be read: neighbouring chunks then come in one request, each of them only once."""
        self._wanted[start // CHUNK : -(-(start + length) // CHUNK)] = True

    def read(self, start: int, length: int) -> bytes:
        """Bytes [start, start + length). RunError names file, chunk and both digests where one differs."""
        parts = []
        at, stop = start, start + length
        while at < stop:
            first = at // CHUNK
            if not 0 <= at - self._first * CHUNK < len(self._run):
                self._first, self._run = first, self._fetch(first, -(-stop // CHUNK))
            skip = at - self._first * CHUNK
            parts.append(self._run[skip : skip + stop - at])
            at += len(parts[-1])
        self._forget(at)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _forget(self, end: int) -> None:
        """Of a run that was read to its end keep the last chunk alone: the next fragment may begin in it."""
        if end == self._first * CHUNK + len(self._run) and len(self._run) > CHUNK:
            last = (end - 1) // CHUNK
            self._run, self._first = self._run[last * CHUNK - self._first * CHUNK :], last

    def _fetch(self, first: int, needed: int) -> bytes:
        """Chunks from `first` on, at least one: up to `needed`, and further while they are expected."""
        stop = first + 1
        while stop - first < self.run_chunks and (stop < needed or self._wanted[stop]):
            stop += 1
        start, end = first * CHUNK, min(stop * CHUNK, self.file.size)
        for _ in range(2):  # a failed read is tried once again; the data are not
            try:
                data = places.read_range(self.path, start, end - start)
            except OSError as error:
                raise unreadable(self.path, error) from None
            bad = self._first_bad(first, stop, data)
            if bad is None:
                return data
            number, found = bad
        raise RunError(
            f"{self.path}: chunk {number} (bytes {number * CHUNK} to "
            f"{min((number + 1) * CHUNK, self.file.size)}) is damaged: digest {found}, written as "
            f"{self.file.chunks[number]}"
        )

    def _first_bad(self, first: int, stop: int, data: bytes) -> tuple[int, str] | None:
        """The first chunk that is not what was written, with the digest of what is there."""
        view = memoryview(data)
        for number in range(first, stop):
            part = view[(number - first) * CHUNK : (number - first + 1) * CHUNK]
            found = hashlib.sha256(part).hexdigest()[:DIGEST_HEX]
            if found != self.file.chunks[number] or len(part) != self._length(number):
                return number, found
        return None

    def _length(self, number: int) -> int:
        return min(CHUNK, self.file.size - number * CHUNK)
