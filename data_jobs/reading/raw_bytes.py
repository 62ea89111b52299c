"""Bytes of an input file, plain or compressed, here or in an object store, in blocks of bounded size.

A range of a plain file owns the lines that begin in it: [start, stop) is moved to [next line start at
or after start, next line start at or after stop), so that the ranges of a file are its lines, each
once.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from cluster import places
from cluster.errors import UserError
from cluster.places import ObjectPath, PlaceError
from data_jobs.reading.compressed import HEAD_BYTES, DamagedFile, decompress, kind_of

__all__ = ["DamagedFile"]
BLOCK_BYTES = 1 << 20
# What one step of decompression reads.
_STEP_BYTES = 1 << 14
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Piece:
    """A file, or what of it begins in [start, stop): lines of a plain file, groups of rows of a table."""

    path: str
    start: int = 0
    stop: int | None = None
    name: str = ""
    """Path relative to the source's folder: metadata of source code."""
    stamp: str = ""
    """What `stamp_of` said when the files were listed; empty: nobody looked."""

    def owns(self, position: int) -> bool:
        """Whether what begins at this byte is of this piece."""
        return self.start <= position and (self.stop is None or position < self.stop)


@dataclass
class Reading:
    """What was seen of one piece while it was read."""

    bytes_read: int = 0
    """Decompressed bytes; of tables those of the values that were read."""
    bytes_added: int = 0
    """By which texts are longer than what they took in the file: text of another encoding, defaults."""
    first_byte: int = 0
    """Where the first line that the piece owns begins."""
    lines: int = 0
    damage: str | None = None
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    """Over the piece's bytes as they lie in the file; of tables over the values that were read."""


def stamp_of(path: str) -> str:
    """What tells a file from another version of it, without reading it. OSError where there is none."""
    place = places.at(path)
    if isinstance(place, ObjectPath):
        stat = place.stat()
        return make_stamp(stat.st_size, stat.st_mtime_ns, stat.etag)
    local = place.stat()
    return make_stamp(local.st_size, local.st_mtime_ns)


def make_stamp(size: int, mtime_ns: int, etag: str = "") -> str:
    """Size, with the store's tag or else the time."""
    return f"{size} bytes, {etag or mtime_ns}"


def open_input(path: str) -> BinaryIO:
    """The file, to be read and sought in. UserError where it cannot be read."""
    try:
        return places.open_seekable(places.at(path))
    except PlaceError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def compression(path: str | Path) -> str | None:
    """gzip, zstd or xz by the first bytes of the file (names lie), else None."""
    with open_input(str(path)) as file:
        return kind_of(file.read(HEAD_BYTES))


def read_blocks(piece: Piece, reading: Reading) -> Iterator[bytes]:
    """The piece's bytes, decompressed.

    Raises DamagedFile after the last good block, UserError where the file cannot be read.
    """
    with open_input(piece.path) as file:
        kind = kind_of(file.read(HEAD_BYTES))
        file.seek(0)
        blocks = _read_plain(file, piece, reading) if kind is None else _read_compressed(file, kind, reading)
        for block in blocks:
            reading.bytes_read += len(block)
            yield block


def text_blocks(piece: Piece, reading: Reading) -> Iterator[bytes]:
    """`read_blocks` without the byte order mark that a file may begin with."""
    blocks = read_blocks(piece, reading)
    head = b""
    for block in blocks:
        head += block
        if len(head) >= len(_BOM):
            break
    if reading.first_byte == 0 and head.startswith(_BOM):
        head, reading.first_byte = head[len(_BOM) :], len(_BOM)
    if head:
        yield head
    yield from blocks


class BlockFile(io.RawIOBase):
    """Blocks as a file that is read from front to back. Damage is its end, and is kept in `damage`."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._held, self._at = b"", 0
        self.damage: str | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """`size` bytes, fewer at the end alone."""
        parts, wanted = [], -1 if size is None else size
        while wanted:
            if self._at >= len(self._held):
                try:
                    self._held, self._at = next(self._blocks, b""), 0
                except DamagedFile as error:
                    self.damage, self._held, self._at = str(error), b"", 0
                if not self._held:
                    break
            part = self._held[self._at :] if wanted < 0 else self._held[self._at : self._at + wanted]
            parts.append(part)
            self._at += len(part)
            wanted -= len(part) if wanted > 0 else 0
        return b"".join(parts)

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def drain(self) -> None:
        """Read what is left, for the digest."""
        while self.read(BLOCK_BYTES):
            pass


def _read_plain(file: BinaryIO, piece: Piece, reading: Reading) -> Iterator[bytes]:
    start = reading.first_byte = _next_line_start(file, piece.start)
    stop = None if piece.stop is None else _next_line_start(file, piece.stop)
    file.seek(start)
    while stop is None or start < stop:
        block = file.read(BLOCK_BYTES if stop is None else min(BLOCK_BYTES, stop - start))
        if not block:
            return
        start += len(block)
        reading.digest.update(block)
        yield block


def _next_line_start(file: BinaryIO, position: int) -> int:
    """The first line start at or after `position`, or the end of the file."""
    if position == 0:
        return 0
    file.seek(position - 1)
    position -= 1
    while block := file.read(BLOCK_BYTES):
        found = block.find(b"\n")
        if found >= 0:
            return position + found + 1
        position += len(block)
    return position


def _read_compressed(file: BinaryIO, kind: str, reading: Reading) -> Iterator[bytes]:
    def step() -> bytes:
        data = file.read(_STEP_BYTES)
        reading.digest.update(data)
        return data

    return decompress(step, kind)
