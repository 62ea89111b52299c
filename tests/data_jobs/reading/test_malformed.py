"""The malformed lines and files that other readers die of or lose in silence, in every format that has them.

Each file has ten good records and one bad thing. The ten are always kept, the bad thing is kept or counted.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import NamedTuple

import pytest

from data_jobs.reading.raw_bytes import Piece, Reading
from data_jobs.reading.records import Reject
from data_jobs.reading.sources import read_source
from tests.data_jobs.conftest import read, source_of

GOOD = [f"good {number} ü" for number in range(10)]
BOUND = 1 << 12


def as_line(format: str, text: bytes) -> bytes:
    """One record of a text without quotes and newlines."""
    return {"jsonl": b'{"text": "%s"}', "text": b"%s", "csv": b'7,"%s"'}[format] % text


class Kind(NamedTuple):
    """A bad line of each format: its bytes, and the reason or the text that it gives."""

    name: str
    jsonl: tuple[bytes, str] | None
    text: tuple[bytes, str] | None
    csv: tuple[bytes, str] | None


LONG = b"x" * (4 * BOUND + 1)
BIG = "y" * 9_000
LINES = [
    Kind(
        "invalid UTF-8",
        (b'{"text": "a\xffb"}', "!invalid_utf8"),
        (b"a\xffb", "!invalid_utf8"),
        (b"7,a\xffb", "!invalid_utf8"),
    ),
    Kind("cut line", (b'{"text": "cut', "!invalid_json"), None, (b'7,"cut', "!invalid_csv")),
    Kind("null", (b'{"text": null}', "!null_text"), None, (b"7,", "")),
    Kind("missing", (b'{"body": "x"}', "!missing_text"), None, (b"7", "!wrong_field_count")),
    Kind("a number", (b'{"text": 7}', "!text_not_string"), (b"7", "7"), (b"7,7", "7")),
    Kind("a list", (b'["text"]', "!not_an_object"), (b'["text"]', '["text"]'), (b'7,"a"b', "!invalid_csv")),
    Kind("too many fields", (b'{"text": "a", "b": 1}', "a"), None, (b"7,a,b", "!wrong_field_count")),
    Kind("escaped NUL", (b'{"text": "a\\u0000b"}', "a\0b"), (b"a\\0b", "a\\0b"), (b"7,a\\0b", "a\\0b")),
    Kind("raw NUL", (b'{"text": "a\0b"}', "a\0b"), (b"a\0b", "a\0b"), (b"7,a\0b", "a\0b")),
    Kind("raw tab", (b'{"text": "a\tb"}', "a\tb"), (b"a\tb", "a\tb"), (b"7,a\tb", "a\tb")),
    Kind(
        "lone surrogate",
        (b'{"text": "\\ud800"}', "!lone_surrogate"),
        (b"\xed\xa0\x80", "!invalid_utf8"),
        (b"7,\xed\xa0\x80", "!invalid_utf8"),
    ),
    Kind(
        "long document",
        (b'{"text": "%s"}' % BIG.encode(), BIG),
        (BIG.encode(), BIG),
        (b"7," + BIG.encode(), BIG),
    ),
    Kind(
        "endless line",
        (b'{"text": "%s"}' % LONG, "!too_long"),
        (LONG, "!too_long"),
        (b"7," + LONG, "!too_long"),
    ),
    Kind("duplicate key", (b'{"text": "a", "text": "b"}', "b"), None, None),
    Kind(
        "NaN and huge numbers",
        (b'{"text": "a", "n": [NaN, -Infinity, 1e999, 123456789012345678901234567890]}', "a"),
        None,
        None,
    ),
    Kind("deep nesting", (b'{"a": ' + b"[" * 5_000, "!invalid_json"), None, None),
]


@pytest.mark.parametrize("format", ["jsonl", "text", "csv"])
@pytest.mark.parametrize("kind", LINES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("at", [0, 5, 10])
def test_a_bad_line_costs_itself(tmp_path: Path, format: str, kind: Kind, at: int) -> None:
    bad: tuple[bytes, str] | None = getattr(kind, format)
    if bad is None:
        return  # the format has no such thing
    line, gives = bad
    lines = [as_line(format, text.encode()) for text in GOOD]
    lines.insert(at, line)
    head = b"id,text\n" if format == "csv" else b""
    path = tmp_path / "in"
    path.write_bytes(head + b"".join(line + b"\n" for line in lines))
    fields = {"per": "line"} if format == "text" else {}
    records, rejects, reading = read(path, BOUND, format=format, **fields)
    found = [record.text for record in records]
    assert [text for text in found if text.startswith("good")] == GOOD
    if not gives.startswith("!"):
        assert (found[at], rejects) == (gives, [])
        return
    (reject,) = rejects
    assert (reject.reason, len(found)) == (gives[1:], 10)
    assert (reject.place.file, reject.place.line) == (str(path), at + 1 + bool(head))
    assert reject.place.offset == len(head) + sum(len(line) + 1 for line in lines[:at])
    assert reject.raw_bytes == len(line) + 1 and reject.head
    assert reading.bytes_read == path.stat().st_size


FILES = {
    "byte order mark": (lambda data: b"\xef\xbb\xbf" + data, 10),
    "Windows line ends": (lambda data: data.replace(b"\n", b"\r\n"), 10),
    "no last newline": (lambda data: data[:-1], 10),
    "blank lines": (lambda data: data.replace(b"\n", b"\n\n \r\n") + b"\n\n", 10),
    "empty": (lambda data: b"", 0),
    "a byte order mark alone": (lambda data: b"\xef\xbb\xbf", 0),
    "compressed under a plain name": (gzip.compress, 10),
}


@pytest.mark.parametrize("format", ["jsonl", "text", "csv"])
@pytest.mark.parametrize("name", FILES)
def test_odd_files(tmp_path: Path, format: str, name: str) -> None:
    change, count = FILES[name]
    head = b"id,text\n" if format == "csv" else b""
    path = tmp_path / f"in.{format}"
    path.write_bytes(change(head + b"".join(as_line(format, text.encode()) + b"\n" for text in GOOD)))
    records, rejects, _ = read(path, format=format, **({"per": "line"} if format == "text" else {}))
    assert ([record.text for record in records], rejects) == (GOOD[:count], [])


@pytest.mark.parametrize("format", ["jsonl", "text", "csv"])
def test_any_bytes_are_records_or_rejects(tmp_path: Path, format: str) -> None:
    """Each byte of a small file becomes each of some others: nothing is raised, and the bytes add up."""
    head = b"id,text\n" if format == "csv" else b""
    good = head + b"".join(as_line(format, text.encode()) + b"\n" for text in GOOD[:3])
    path = tmp_path / "in"
    source = source_of(path, format=format, **({"per": "line"} if format == "text" else {}))
    for at in range(len(good)):
        for byte in b'"\n\r,\\{\0\xff':
            path.write_bytes(good[:at] + bytes([byte]) + good[at + 1 :])
            reading = Reading()
            items = list(read_source(Piece(str(path)), reading, source, BOUND))
            assert reading.bytes_read == len(good)
            taken = sum(item.raw_bytes for item in items)
            assert taken <= len(good)
            rejected = sum(isinstance(item, Reject) for item in items)
            # One byte can spoil one line, join it to its neighbour, or cut it in two.
            assert len(items) - rejected >= 1 or format == "csv"
