"""Files to records, or counted rejects.

One bad byte costs one line: a line that cannot be read is a `Reject` with its place, never an
exception, and the lines after it are read. Imports no Ray, because trainers read task files and texts
by it too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_jobs.cleaning import cut_bytes
from data_jobs.raw_bytes import DamagedFile, Piece, Reading, read_blocks

HEAD_BYTES = 80
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Place:
    """Where a record stands: `line` from 1 at the start of the piece, `offset` from the file's start."""

    file: str
    start: int
    line: int
    offset: int

    def __str__(self) -> str:
        """`file:line` where the piece is the file's beginning, else by byte."""
        return f"{self.file}:{self.line}" if self.start == 0 else f"{self.file} at byte {self.offset}"


@dataclass(frozen=True)
class Record:
    """One document as it was read. `raw_bytes`: what it took in the file; 0 for the further cuts of a long
    one.
    """

    text: str
    place: Place
    raw_bytes: int
    metadata: dict[str, str] = field(default_factory=dict)
    is_cut: bool = False


@dataclass(frozen=True)
class Reject:
    """A record that cannot be read."""

    reason: str
    detail: str
    place: Place
    raw_bytes: int
    head: str
    """The first bytes, escaped."""
    fields: Sequence[str] = ()
    """The keys of the JSON object, where it was one."""


@dataclass(frozen=True)
class Line:
    """One line without its end; `data` is None where it is longer than the bound."""

    data: bytes | None
    place: Place
    raw_bytes: int
    head: bytes


def read_records(
    piece: Piece,
    reading: Reading,
    *,
    format: str = "jsonl",
    text_field: str = "text",
    per: str = "file",
    metadata: Sequence[str] = (),
    max_bytes: int = 1 << 25,
) -> Iterator[Record | Reject]:
    """The records of a piece in file order, each as a Record or as a Reject."""
    if format == "jsonl":
        for item in read_objects(piece, reading, max_line_bytes=4 * max_bytes):
            yield item if isinstance(item, Reject) else _text_of(*item, text_field, metadata)
    elif format == "text" and per == "line":
        for line in read_lines(piece, reading, 4 * max_bytes):
            yield line if isinstance(line, Reject) else _decode(line, {})
    else:
        named = {"path": piece.name} if format == "code" else {}
        yield from _read_whole(piece, reading, max_bytes, named)


def read_objects(
    piece: Piece, reading: Reading, max_line_bytes: int = 1 << 27
) -> Iterator[tuple[dict[str, Any], Line] | Reject]:
    """JSON lines: each line's object, or why it has none."""
    for line in read_lines(piece, reading, max_line_bytes):
        if isinstance(line, Reject):
            yield line
            continue
        record = _decode(line, {})
        if isinstance(record, Reject):
            yield record
            continue
        try:
            # strict=False: raw control characters inside strings are common, and cleaning takes them out.
            value = json.loads(record.text, strict=False)
        except (ValueError, RecursionError) as error:
            yield _reject(line, "invalid_json", str(error))
            continue
        if isinstance(value, dict):
            yield value, line
        else:
            yield _reject(line, "not_an_object", f"the line is a {_kind(value)}, not an object")


def read_lines(piece: Piece, reading: Reading, max_bytes: int) -> Iterator[Line | Reject]:
    """The lines of a piece that hold more than blanks. A damaged file ends in one Reject that says so."""
    held: list[bytes] = []
    held_bytes = 0
    offset: int | None = None
    number = 0

    def finish(last: bytes, ended: bool) -> Line:
        raw = held_bytes + len(last) + ended
        assert offset is not None
        place = Place(piece.path, piece.start, number, offset)
        head = b"".join([*held, last])[:HEAD_BYTES] if held else last[:HEAD_BYTES]
        if raw > max_bytes:
            return Line(None, place, raw, head)
        return Line(b"".join([*held, last]) if held else last, place, raw, head)

    try:
        for block in read_blocks(piece, reading):
            if offset is None:
                offset = reading.first_byte
                if offset == 0 and block.startswith(_BOM):
                    block = block[len(_BOM) :]
                    offset = len(_BOM)
            *ends, rest = block.split(b"\n")
            for part in ends:
                number += 1
                line = finish(part, ended=True)
                held, held_bytes = [], 0
                if line.data is None or line.data.strip():
                    yield _checked(line)
                offset += line.raw_bytes
            if rest:
                # Beyond the bound only the length is kept, so that one endless line takes no memory.
                if held_bytes <= max_bytes:
                    held.append(rest)
                held_bytes += len(rest)
    except DamagedFile as error:
        reading.damage = str(error)
    reading.lines = number
    if reading.damage is not None:
        place = Place(piece.path, piece.start, number + 1, offset or 0)
        yield Reject("damaged_file", reading.damage, place, held_bytes, _escaped(b"".join(held)[:HEAD_BYTES]))
    elif held_bytes:
        number += 1
        reading.lines = number
        line = finish(b"", ended=False)
        if line.data is None or line.data.strip():
            yield _checked(line)


def _checked(line: Line) -> Line | Reject:
    if line.data is None:
        return _reject(line, "too_long", f"the line has {line.raw_bytes:,} bytes")
    return line


def _decode(line: Line, metadata: dict[str, str]) -> Record | Reject:
    assert line.data is not None
    data = line.data[:-1] if line.data.endswith(b"\r") else line.data
    try:
        return Record(data.decode(), line.place, line.raw_bytes, metadata)
    except UnicodeDecodeError as error:
        return _reject(line, "invalid_utf8", f"byte {error.start} of the line is not UTF-8")


def _text_of(value: dict[str, Any], line: Line, text_field: str, metadata: Sequence[str]) -> Record | Reject:
    keys = tuple(value)
    if text_field not in value:
        return _reject(line, "missing_text", f"no field '{text_field}'", keys)
    text = value[text_field]
    if text is None:
        return _reject(line, "null_text", f"field '{text_field}' is null", keys)
    if not isinstance(text, str):
        return _reject(line, "text_not_string", f"field '{text_field}' is a {_kind(text)}", keys)
    kept = {name: _as_text(value.get(name)) for name in metadata}
    try:
        for part in (text, *kept.values()):
            part.encode()
    except UnicodeEncodeError:
        return _reject(line, "lone_surrogate", "half of a surrogate pair, which no UTF-8 text can hold", keys)
    return Record(text, line.place, line.raw_bytes, kept)


def _read_whole(
    piece: Piece, reading: Reading, max_bytes: int, metadata: dict[str, str]
) -> Iterator[Record | Reject]:
    """A file as one document; one above the bound as several, cut at line ends, never all in memory."""
    waiting = b""
    offset = 0
    is_cut = False
    try:
        for block in read_blocks(piece, reading):
            if offset == 0 and not waiting and block.startswith(_BOM):
                block, offset = block[len(_BOM) :], len(_BOM)
            waiting += block
            if len(waiting) > max_bytes:
                *whole, waiting = cut_bytes(waiting, max_bytes)
                for data in whole:
                    yield _document(piece, data, offset, metadata, is_cut)
                    offset += len(data)
                    is_cut = True
    except DamagedFile as error:
        reading.damage = str(error)
        good = waiting.rfind(b"\n") + 1
        lost = waiting[good:]
        if good:
            yield _document(piece, waiting[:good], offset, metadata, is_cut)
        place = Place(piece.path, 0, 1, offset + good)
        yield Reject("damaged_file", reading.damage, place, len(lost), _escaped(lost[:HEAD_BYTES]))
        return
    yield _document(piece, waiting, offset, metadata, is_cut)


def _document(
    piece: Piece, data: bytes, offset: int, metadata: dict[str, str], is_cut: bool
) -> Record | Reject:
    place = Place(piece.path, 0, 1, offset)
    try:
        return Record(data.decode(), place, len(data), metadata, is_cut)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        place = Place(piece.path, 0, line, offset + error.start)
        detail = f"byte {offset + error.start} of the file is not UTF-8"
        return Reject("invalid_utf8", detail, place, len(data), _escaped(data[error.start :][:HEAD_BYTES]))


def _reject(line: Line, reason: str, detail: str, fields: Sequence[str] = ()) -> Reject:
    return Reject(reason, detail, line.place, line.raw_bytes, _escaped(line.head), fields)


def _escaped(data: bytes) -> str:
    return repr(data)[2:-1]


def _kind(value: Any) -> str:
    kinds = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return kinds.get(type(value), "null")


def _as_text(value: Any) -> str:
    """A metadata value as text: strings as they are, a missing one empty, the rest as canonical JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
