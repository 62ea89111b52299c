"""Tensor files with a digest for each MiB: written in one pass, read by verified ranges.

The files are plain safetensors, so that every tool opens them. The digests stand in the receipt, because no
tensor format notices a flipped bit by itself.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cluster import places
from cluster.errors import RunError

CHUNK = 1 << 20
DIGEST_HEX = 32  # the first 16 bytes of SHA-256

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ChunkedFile:
    """A file's name in its folder, its size, and the digest of every MiB."""

    name: str
    size: int
    chunks: tuple[str, ...]


def write_tensors(
    folder: Path, name: str, tensors: Sequence[tuple[str, Array]]
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
    body = 8 + len(text)
    starts = []
    writer = _Writer(folder / f".{name}.tmp")
    try:
        writer.write(len(text).to_bytes(8, "little") + text)
        for _, values in tensors:
            starts.append(writer.size)
            writer.write(np.ascontiguousarray(values).view(np.uint8).data)
        chunks = writer.close()
    except BaseException:
        writer.abandon()
        raise
    assert writer.size == body + offset
    os.rename(writer.path, folder / name)
    places.sync_folder(folder)
    return ChunkedFile(name, writer.size, chunks), starts


class _Writer:
    """Writes a file and digests it by chunk on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._file = open(path, "wb")  # noqa: SIM115 (closed by close or abandon)
        self._hash = hashlib.sha256()
        self._chunks: list[str] = []

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            room = CHUNK - self.size % CHUNK
            part = view[:room]
            self._file.write(part)
            self._hash.update(part)
            self.size += len(part)
            if self.size % CHUNK == 0:
                self._next_chunk()
            view = view[room:]

    def close(self) -> tuple[str, ...]:
        if self.size % CHUNK:
            self._next_chunk()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return tuple(self._chunks)

    def abandon(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _next_chunk(self) -> None:
        self._chunks.append(self._hash.hexdigest()[:DIGEST_HEX])
        self._hash = hashlib.sha256()


class ChunkReader:
    """Reads byte ranges of one chunked file; every byte that is returned has passed its digest."""

    def __init__(self, folder: Path, file: ChunkedFile) -> None:
        self.path = folder / file.name
        self.file = file
        self._last: tuple[int, bytes] = (-1, b"")  # neighbouring fragments share a chunk

    def read(self, start: int, length: int) -> bytes:
        """Bytes [start, start + length). RunError names file, chunk and both digests where one differs."""
        first, last = start // CHUNK, (start + length - 1) // CHUNK
        parts = [self._chunk(number) for number in range(first, last + 1)]
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        return data[start - first * CHUNK : start - first * CHUNK + length]

    def _chunk(self, number: int) -> bytes:
        if self._last[0] == number:
            return self._last[1]
        expected = min(CHUNK, self.file.size - number * CHUNK)
        data = b""
        for _ in range(2):  # a failed read is tried once again; the data are not
            try:
                with open(self.path, "rb") as file:
                    file.seek(number * CHUNK)
                    data = file.read(expected)
            except OSError as error:
                raise RunError(f"{self.path}: cannot be read: {error}") from None
            found = hashlib.sha256(data).hexdigest()[:DIGEST_HEX]
            if len(data) == expected and found == self.file.chunks[number]:
                self._last = (number, data)
                return data
        raise RunError(
            f"{self.path}: chunk {number} (bytes {number * CHUNK} to {number * CHUNK + expected}) is "
            f"damaged: digest {found}, written as {self.file.chunks[number]}"
        )
