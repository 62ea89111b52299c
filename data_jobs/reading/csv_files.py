"""CSV to records: a header, then a record a row, quoted as RFC 4180 has it.

A quote that is never closed must not swallow the rest of a file. What is wrong with quotes costs the line
that it begins in, and reading goes on with the line after that one; a closed record with too many or too few
fields is one reject.
"""

from __future__ import annotations

import csv
import sys
from collections import deque
from collections.abc import Iterator

from data_jobs.reading.lines import Line, read_lines, too_long
from data_jobs.reading.missing import FieldRules
from data_jobs.reading.raw_bytes import Piece, Reading
from data_jobs.reading.records import Place, Record, Reject, rejected

csv.field_size_limit(sys.maxsize)  # of the process: records are bounded here, by bytes


def read_csv(
    piece: Piece, reading: Reading, rules: FieldRules, delimiter: str, max_bytes: int
) -> Iterator[Record | Reject]:
    """The records of a file. Without a header that can be read there are none."""
    lines = _Lines(piece, reading, 4 * max_bytes)
    wanted: dict[str, int] | None = None
    for item in _under_header(lines, delimiter):
        if isinstance(item, Reject):
            yield item
            continue
        names, row = item
        if wanted is None:  # of equal names the first
            wanted = {n: names.index(n) for n in (rules.text_field, *rules.metadata) if n in names}
        values = {name: row[column] for name, column in wanted.items()}
        has_text = rules.text_field in wanted
        yield rules.record(values.get, has_text, lines.place(), lines.size, lines.head(), names, reading)


def read_csv_objects(
    piece: Piece, reading: Reading, delimiter: str, max_record_bytes: int = 1 << 27
) -> Iterator[tuple[dict[str, str], Place] | Reject]:
    """Each record's fields by name, of equal names the first, with its place, or why it has none."""
    lines = _Lines(piece, reading, max_record_bytes)
    for item in _under_header(lines, delimiter):
        if isinstance(item, Reject):
            yield item
        else:
            named: dict[str, str] = {}
            for name, value in zip(*item, strict=True):
                named.setdefault(name, value)
            yield named, lines.place()


def _under_header(lines: _Lines, delimiter: str) -> Iterator[tuple[tuple[str, ...], list[str]] | Reject]:
    """The names of the header with each record that has as many fields."""
    rows = _read_rows(lines, delimiter)
    header = next(rows, [])
    if isinstance(header, Reject):
        if header is not lines.damage:
            header.reason, header.detail = "invalid_header", f"the header cannot be read: {header.detail}"
            lines.drain()
        yield header
        return
    names = tuple(header)
    for row in rows:
        if isinstance(row, Reject):
            yield row
        elif len(row) != len(header):
            detail = f"{len(row):,} fields, and the header has {len(header):,}"
            yield rejected("wrong_field_count", detail, lines.place(), lines.size, lines.head(), names)
        else:
            yield names, row


class _TooLong(Exception):
    """A line or a record above the bound."""


class _Lines:
    """Lines as the csv module takes them; those of the record in hand are kept, to be put back."""

    def __init__(self, piece: Piece, reading: Reading, max_bytes: int) -> None:
        self._piece, self._max_bytes = piece, max_bytes
        self._lines = read_lines(piece, reading, max_bytes)
        self._waiting: deque[Line] = deque()
        self.taken: list[Line] = []
        self.size = 0
        self.is_utf8 = True
        self.damage: Reject | None = None

    def begin(self) -> None:
        """A new record."""
        self.taken, self.size, self.is_utf8 = [], 0, True

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        """The next line; _TooLong where it, or the record with it, is above the bound."""
        line = self._waiting.popleft() if self._waiting else next(self._lines)
        if isinstance(line, Reject):
            self.damage = line
            raise StopIteration
        data, _, _, size, _ = line
        self.taken.append(line)
        self.size += size
        if data is None or self.size > self._max_bytes:
            raise _TooLong
        try:
            text = data.decode()
        except UnicodeDecodeError:
            self.is_utf8 = False  # told of the whole record, whose quotes may be good
            text = data.decode("latin-1")
        return text + "\n" if size > len(data) else text

    def give_up_first(self) -> None:
        """The record's first line is lost; those after it are read anew."""
        self._waiting.extendleft(reversed(self.taken[1:]))
        self.taken = self.taken[:1]
        self.size = self.taken[0][3]

    def place(self) -> Place:
        """Where the record in hand begins."""
        _, number, offset, *_ = self.taken[0]
        return Place(self._piece.path, self._piece.start, number, offset)

    def head(self) -> bytes:
        """The first line of the record in hand."""
        data, _, _, _, head = self.taken[0]
        return head if data is None else data

    def drain(self) -> None:
        """Read what is left, for the digest."""
        for _ in self._lines:
            pass


def _read_rows(lines: _Lines, delimiter: str) -> Iterator[list[str] | Reject]:
    """All rows of a file, each with its lines in hand; damage comes last."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.begin()
        try:
            row = next(reader)
        except StopIteration:
            break
        except (csv.Error, _TooLong) as error:
            yield _broken(lines, error)
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            continue
        if len(row) < 2 and not lines.head().strip():
            continue
        if lines.is_utf8:
            yield row
        else:
            yield rejected("invalid_utf8", "the record is not UTF-8", lines.place(), lines.size, lines.head())
    if lines.damage is not None:
        yield lines.damage


def _broken(lines: _Lines, error: Exception) -> Reject:
    """The reject of a record that is none; unless the file ends in damage, its first line alone."""
    size, several = lines.size, len(lines.taken) > 1
    if lines.damage is None:
        lines.give_up_first()
    if lines.taken[0][0] is None:
        return too_long(lines.place(), lines.size, lines.head())
    if isinstance(error, _TooLong):
        detail = f"a quote that is not closed in {size:,} bytes"
    else:
        detail = f"{error}, in a record that goes over several lines" if several else str(error)
    return rejected("invalid_csv", detail, lines.place(), lines.size, lines.head())
