"""JSON lines to records: an object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson

from data_jobs.reading.lines import placed_lines, read_lines, too_long, without_return
from data_jobs.reading.missing import FieldRules, Unusable, as_text, kind_of_json
from data_jobs.reading.raw_bytes import Piece, Reading
from data_jobs.reading.records import Place, Record, Reject, rejected


def read_json_lines(
    piece: Piece, reading: Reading, rules: FieldRules, max_bytes: int
) -> Iterator[Record | Reject]:
    """The records of a piece.

    What orjson takes is what json takes, but for numbers above 64 bits and floats, of which it makes others.
    So a line goes the fast way where what is wanted of it is text, whole numbers and truth.
    """
    path, start, text_field, metadata = piece.path, piece.start, rules.text_field, rules.metadata
    loads = orjson.loads
    has_rules = bool(rules.defaults or rules.missing)
    for line in read_lines(piece, reading, 4 * max_bytes):
        if isinstance(line, Reject):
            yield line
            continue
        data, number, offset, size, head = line
        if data is None:
            yield too_long(Place(path, start, number, offset), size, head)
            continue
        try:
            value = loads(data)
        except ValueError:
            value = None
        if type(value) is dict and type(text := value.get(text_field)) is str:
            kept = _plain_values(value, metadata, has_rules) if metadata else {}
            if kept is not None:
                yield Record(text, Place(path, start, number, offset), size, kept)
                continue
        if data.strip():
            place = Place(path, start, number, offset)
            try:
                row = parse_object(data)
            except Unusable as problem:
                yield rejected(problem.reason, problem.detail, place, size, data)
                continue
            yield rules.record(row.get, text_field in row, place, size, data, tuple(row), reading)


def _plain_values(value: dict[str, Any], metadata: tuple[str, ...], has_rules: bool) -> dict[str, str] | None:
    """The metadata of an object; None where one of it is not as simple as that."""
    kept: dict[str, str] = {}
    for name in metadata:
        part: Any = value.get(name)
        kind = type(part)
        if kind is str:
            kept[name] = part
        elif kind is int or kind is bool:
            kept[name] = as_text(part)
        elif part is None and not has_rules:
            kept[name] = ""
        else:
            return None
    return kept


def read_objects(
    piece: Piece, reading: Reading, max_line_bytes: int = 1 << 27
) -> Iterator[tuple[dict[str, Any], Place] | Reject]:
    """Each line's object with its place, or why it has none."""
    for line in placed_lines(piece, reading, max_line_bytes):
        if isinstance(line, Reject):
            yield line
            continue
        data, place, size = line
        try:
            yield parse_object(data), place
        except Unusable as problem:
            yield rejected(problem.reason, problem.detail, place, size, data)


def parse_object(data: bytes) -> dict[str, Any]:
    """The object of a line; raises Unusable."""
    try:
        # strict=False: raw control characters inside strings are common, and cleaning takes them out.
        value = json.loads(without_return(data).decode(), strict=False)
    except UnicodeDecodeError as error:
        raise Unusable("invalid_utf8", f"byte {error.start} of the line is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise Unusable("invalid_json", str(error)) from None
    if not isinstance(value, dict):
        raise Unusable("not_an_object", f"the line is a {kind_of_json(value)}, not an object")
    return value
