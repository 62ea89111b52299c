"""Compressed files to their bytes, in blocks of bounded size, all members one after the other.

What is known of a file is what its first bytes say: names lie. A step reads little and gives little,
because an error loses what the step that it stands in would have given, and because a few bytes can stand
for gigabytes.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable, Generator, Iterator

import zstandard

HEAD_BYTES = 6
"""What `kind_of` must see of a file."""
_GIVES = 1 << 16
_LZMA_MEMORY = 1 << 30  # xz -9 takes 65 MB; a header may ask for 4 GB
# A block of zstd may be 4 bytes that stand for 128 KiB, so this much gives at most 16 MiB.
_ZSTD_STEP = 512

Step = Callable[[], bytes]
"""The next few bytes of the file, b"" at its end."""


class DamagedFile(Exception):
    """A compressed stream that ends early or is not what its checksum says."""


def kind_of(head: bytes) -> str | None:
    """gzip, zstd or xz by a file's first bytes, else None."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"\xfd7zXZ\0"):
        return "xz"
    # The second: a frame to be skipped, with which zstd's parallel and seekable files begin.
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
        return "zstd"
    return None


def decompress(step: Step, kind: str) -> Iterator[bytes]:
    """All that a file of this kind holds. Raises DamagedFile after the last good block."""
    member = {"gzip": _gunzip, "zstd": _unzstd, "xz": _unxz}[kind]
    waiting = b""
    while True:
        waiting = waiting or step()
        if not waiting:
            return
        if kind != "zstd" and not waiting.strip(b"\0"):  # zeros behind the last member are padding
            waiting = b""
            continue
        waiting = yield from member(waiting if kind == "zstd" else waiting.lstrip(b"\0"), step)


def _gunzip(data: bytes, step: Step) -> Generator[bytes, None, bytes]:
    """One gzip member; returns what follows it."""
    member = zlib.decompressobj(wbits=31)
    while not member.eof:
        data = data or step()
        try:
            block = member.decompress(data, _GIVES)
        except zlib.error as error:
            raise DamagedFile(f"gzip: {error}") from None
        if not data and not block and not member.eof:
            raise DamagedFile("the gzip stream ends before its end")
        data = member.unconsumed_tail
        if block:
            yield block
    return member.unused_data


def _unxz(data: bytes, step: Step) -> Generator[bytes, None, bytes]:
    """One xz stream; returns what follows it."""
    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY)
    while not stream.eof:
        if stream.needs_input and not data and not (data := step()):
            raise DamagedFile("the xz stream ends before its end")
        try:
            block = stream.decompress(data, _GIVES)
        except lzma.LZMAError as error:
            raise DamagedFile(f"xz: {error}") from None
        data = b""
        if block:
            yield block
    return stream.unused_data


def _unzstd(data: bytes, step: Step) -> Generator[bytes, None, bytes]:
    """One Zstandard frame; returns what follows it."""
    frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
    at, held, held_bytes = 0, list[bytes](), 0
    damage = None
    while not frame.eof:
        if at >= len(data):
            data, at = step(), 0
        if not data:
            damage = "the zstd stream ends before its end"
            break
        part = data[at : at + _ZSTD_STEP]
        at += len(part)
        try:
            block = frame.decompress(part)
        except zstandard.ZstdError as error:
            damage = f"zstd: {error}"
            break
        held.append(block)
        held_bytes += len(block)
        if held_bytes >= _GIVES:
            yield b"".join(held)
            held, held_bytes = [], 0
    if held_bytes:
        yield b"".join(held)
    if damage:
        raise DamagedFile(damage)
    return frame.unused_data + data[at:]
