"""Bytes of an input file, plain or compressed, in blocks of bounded size.

A range of a plain file owns the lines that begin in it: [start, stop) is moved to [next line start at
or after start, next line start at or after stop), so that the ranges of a file are its lines, each
once.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import zstandard

from cluster.errors import UserError

BLOCK_BYTES = 1 << 20
# What one step of decompression reads: small, because an error loses the output of the step it stands in.
_STEP_BYTES = 1 << 14
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Piece:
    """A file, or the lines of a plain file that begin in [start, stop)."""

    path: str
    start: int = 0
    stop: int | None = None
    name: str = ""
    """Path relative to the source's folder: metadata of source code."""


@dataclass
class Reading:
    """What was seen of one piece while it was read."""

    bytes_read: int = 0
    """Decompressed bytes."""
    first_byte: int = 0
    """Where the first line that the piece owns begins."""
    lines: int = 0
    damage: str | None = None
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    """Over the piece's bytes as they lie in the file."""


class DamagedFile(Exception):
    """A compressed stream that ends early or is not what its checksum says."""


def compression(path: str | Path) -> str | None:
    """gzip or zstd by the first bytes of the file (names lie), else None."""
    with open(path, "rb") as file:
        return _compression_of(file.read(4))


def read_blocks(piece: Piece, reading: Reading) -> Iterator[bytes]:
    """The piece's bytes, decompressed.

    Raises DamagedFile after the last good block, UserError where the file cannot be read.
    """
    try:
        file = open(piece.path, "rb")  # noqa: SIM115 (closed below; the error must name the file)
    except OSError as error:
        raise UserError(f"{piece.path}: cannot be read: {error.strerror}") from None
    with file:
        kind = _compression_of(file.read(4))
        file.seek(0)
        if kind is None:
            blocks = _read_plain(file, piece, reading)
        else:
            blocks = _read_compressed(file, kind, reading)
        for block in blocks:
            reading.bytes_read += len(block)
            if kind is None:
                reading.digest.update(block)
            yield block


def _compression_of(head: bytes) -> str | None:
    if head.startswith(_GZIP):
        return "gzip"
    return "zstd" if head.startswith(_ZSTD) else None


def _read_plain(file: BinaryIO, piece: Piece, reading: Reading) -> Iterator[bytes]:
    start = reading.first_byte = _next_line_start(file, piece.start)
    stop = None if piece.stop is None else _next_line_start(file, piece.stop)
    file.seek(start)
    while stop is None or start < stop:
        block = file.read(BLOCK_BYTES if stop is None else min(BLOCK_BYTES, stop - start))
        if not block:
            return
        start += len(block)
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
    """All members or frames of the file one after the other; zeros after the last one are padding."""
    waiting = b""
    while True:
        waiting = waiting or _step(file, reading)
        if kind == "gzip" and not waiting.strip(b"\0"):
            if not waiting:
                return
            waiting = b""
            continue
        if not waiting:
            return
        member = _gunzip if kind == "gzip" else _unzstd
        waiting = yield from member(file, waiting, reading)


def _step(file: BinaryIO, reading: Reading) -> bytes:
    data = file.read(_STEP_BYTES)
    reading.digest.update(data)
    return data


def _gunzip(file: BinaryIO, data: bytes, reading: Reading) -> Generator[bytes, None, bytes]:
    """One gzip member; returns what follows it."""
    member = zlib.decompressobj(wbits=31)
    while not member.eof:
        data = data or _step(file, reading)
        try:
            block = member.decompress(data, _STEP_BYTES * 4)  # bounded, so that an error loses little
        except zlib.error as error:
            raise DamagedFile(f"gzip: {error}") from None
        if not data and not block and not member.eof:
            raise DamagedFile("the gzip stream ends before its end")
        data = member.unconsumed_tail
        if block:
            yield block
    return member.unused_data


def _unzstd(file: BinaryIO, data: bytes, reading: Reading) -> Generator[bytes, None, bytes]:
    """One Zstandard frame; returns what follows it."""
    frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
    while not frame.eof:
        if not data and not (data := _step(file, reading)):
            raise DamagedFile("the zstd stream ends before its end")
        try:
            block = frame.decompress(data)
        except zstandard.ZstdError as error:
            raise DamagedFile(f"zstd: {error}") from None
        data = b""
        if block:
            yield block
    return frame.unused_data
