"""The lines of a piece, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

from data_jobs.reading.raw_bytes import DamagedFile, Piece, Reading, text_blocks
from data_jobs.reading.records import Place, Reject, rejected

Line = tuple[bytes | None, int, int, int, bytes]
"""(its bytes without the newline, number from 1, offset, bytes with the newline, b""). A line above the bound
is (None, number, offset, bytes, its first ones). A tuple, because there are as many as documents."""


def read_lines(piece: Piece, reading: Reading, max_bytes: int) -> Iterator[Line | Reject]:
    """Every line of a piece, blank ones too. A damaged file ends in one Reject that says so."""
    held: list[bytes] = []  # the beginning of a line that goes on in the next block
    held_bytes = offset = number = 0
    begun = False
    try:
        for block in text_blocks(piece, reading):
            if not begun:
                begun, offset = True, reading.first_byte
            *ends, rest = block.split(b"\n")
            for data in ends:
                number += 1
                size = held_bytes + len(data) + 1
                if held:
                    held.append(data)
                    yield _line(held, number, offset, size, max_bytes)
                    held, held_bytes = [], 0
                elif size <= max_bytes:
                    yield data, number, offset, size, b""
                else:
                    yield None, number, offset, size, data
                offset += size
            if rest:
                # Beyond the bound only the length is kept, so that one endless line takes no memory.
                if held_bytes <= max_bytes:
                    held.append(rest)
                held_bytes += len(rest)
    except DamagedFile as error:
        reading.damage = str(error)
    reading.lines = number
    if reading.damage is not None:
        place = Place(piece.path, piece.start, number + 1, offset)
        yield rejected("damaged_file", reading.damage, place, held_bytes, b"".join(held[:2]))
    elif held_bytes:
        reading.lines = number + 1
        yield _line(held, number + 1, offset, held_bytes, max_bytes)


def placed_lines(
    piece: Piece, reading: Reading, max_bytes: int
) -> Iterator[tuple[bytes, Place, int] | Reject]:
    """(line, its place, its bytes in the file) of those that hold more than blanks."""
    for line in read_lines(piece, reading, max_bytes):
        if isinstance(line, Reject):
            yield line
            continue
        data, number, offset, size, head = line
        place = Place(piece.path, piece.start, number, offset)
        if data is None:
            yield too_long(place, size, head)
        elif data.strip():
            yield data, place, size


def _line(parts: list[bytes], number: int, offset: int, size: int, max_bytes: int) -> Line:
    if size > max_bytes:
        return None, number, offset, size, b"".join(parts[:2])
    return b"".join(parts), number, offset, size, b""


def too_long(place: Place, size: int, head: bytes) -> Reject:
    """The reject of a line above the bound."""
    return rejected("too_long", f"the line has {size:,} bytes", place, size, head)


def without_return(data: bytes) -> bytes:
    """A line of a Windows file as one of ours."""
    return data[:-1] if data.endswith(b"\r") else data
