"""What reading gives: records, or rejects with their place.

What cannot be read is a `Reject`, never an exception, and what stands after it is read. Imports no Ray,
because trainers read task files and texts too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

HEAD_BYTES = 80

# None of these is frozen: each document has one, and to make a frozen one takes several times as long.


@dataclass
class Place:
    """Where a record stands: `line` from 1 at the start of the piece, `offset` from the file's start.

    Of tables `line` is the row; of a row of Parquet both are counted from the file's start, of one of Arrow
    `offset` is about where its batch stands. Offsets of compressed files are those of what they hold.
    """

    file: str
    start: int
    line: int
    offset: int

    def __str__(self) -> str:
        """`file:line` where the piece is the file's beginning, else by byte."""
        return f"{self.file}:{self.line}" if self.start == 0 else f"{self.file} at byte {self.offset}"


@dataclass
class Record:
    """One document as it was read. `raw_bytes`: what it took in the file; 0 for the further cuts of a long
    one.
    """

    text: str
    place: Place
    raw_bytes: int
    metadata: dict[str, str] = field(default_factory=dict)
    is_cut: bool = False


@dataclass
class Reject:
    """A record that cannot be read, or is left out (`missing.is_left_out` tells which)."""

    reason: str
    detail: str
    place: Place
    raw_bytes: int
    head: str
    """The first bytes, escaped."""
    fields: Sequence[str] = ()
    """The names of its fields, where it has any."""


def rejected(
    reason: str, detail: str, place: Place, raw_bytes: int, head: bytes, fields: Sequence[str] = ()
) -> Reject:
    """A reject that shows the first bytes of `head`."""
    return Reject(reason, detail, place, raw_bytes, escaped(head[:HEAD_BYTES]), fields)


def escaped(data: bytes) -> str:
    """Bytes as text that can be printed."""
    return repr(data)[2:-1]
