"""Bad input, line by line: what is wrong costs one record, and is counted with its place."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_jobs.reading.raw_bytes import Piece, Reading
from data_jobs.reading.records import Record
from data_jobs.reading.sources import read_source
from tests.data_jobs.conftest import read, source_of

GOOD = [b'{"text": "good %d"}' % i for i in range(10)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "bad \xff"}', "invalid_utf8"),
        (b'{"text": "cut', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"text": 1' + b"0" * 5000 + b"}", "invalid_json"),
        (b'{"text": null}', "null_text"),
        (b'{"body": "x"}', "missing_text"),
        (b'{"text": 12}', "text_not_string"),
        (b'{"text": ["a"]}', "text_not_string"),
        (b'["text"]', "not_an_object"),
        (b'"text"', "not_an_object"),
        (b'{"text": "\\ud800"}', "lone_surrogate"),
        (b'{"text": "' + b"x" * 5000 + b'"}', "too_long"),
    ],
)
def test_one_bad_line_costs_one_line(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join([*GOOD[:4], line, *GOOD[4:]]) + b"\n")
    records, rejects, reading = read(path, max_bytes=1024 if reason == "too_long" else 1 << 20)
    assert [record.text for record in records] == [f"good {i}" for i in range(10)]
    (reject,) = rejects
    assert reject.reason == reason
    assert (reject.place.file, reject.place.line) == (str(path), 5)
    assert path.read_bytes()[reject.place.offset :].startswith(line)
    assert reject.raw_bytes == len(line) + 1
    assert len(reject.head) <= 80 * 4 and reject.head
    assert reading.bytes_read == path.stat().st_size


@pytest.mark.parametrize(
    "line",
    [
        b'{"text": "nul \\u0000"}',
        b'{"text": "raw tab \t and nul \x00"}',
        b'{"text": "first", "text": "last"}',
        b'{"text": "crlf"}\r',
        b'{"text": "nan", "x": NaN}',
    ],
)
def test_odd_lines_that_are_kept(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join([*GOOD, line]))  # and no newline at the end
    records, rejects, _ = read(path)
    assert len(records) == 11 and not rejects


def test_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD[0] + b"\n\n  \r\n" + GOOD[1] + b"\n")
    records, rejects, _ = read(path)
    assert [(r.text, r.place.line) for r in records] == [("good 0", 1), ("good 1", 4)]
    assert path.read_bytes()[records[1].place.offset :].startswith(GOOD[1])
    assert not rejects


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").touch()
    assert read(tmp_path / "in.jsonl")[:2] == ([], [])


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 50])
def test_ranges_are_the_lines_each_once(tmp_path: Path, parts: int) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(b'{"text": "%s"}' % (b"x" * (i % 90)) for i in range(200)))
    size = path.stat().st_size
    texts, digests, offsets = [], 0, []
    for n in range(parts):
        reading = Reading()
        piece = Piece(str(path), size * n // parts, None if n == parts - 1 else size * (n + 1) // parts)
        for item in read_source(piece, reading, source_of(path), 1 << 20):
            assert isinstance(item, Record)
            texts.append(item.text)
            offsets.append(item.place.offset)
        digests += reading.bytes_read
    assert texts == ["x" * (i % 90) for i in range(200)]
    assert digests == size
    assert all(path.read_bytes()[at:].startswith(b'{"text"') for at in offsets)


def test_text_by_file_and_by_line(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes("Erste Zeile\n\nZweite größere Zeile".encode())
    assert [r.text for r in read(path, format="text")[0]] == ["Erste Zeile\n\nZweite größere Zeile"]
    assert [r.text for r in read(path, format="text", per="line")[0]] == [
        "Erste Zeile",
        "Zweite größere Zeile",
    ]


def test_lines_of_a_windows_file(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"one\r\n\r\ntwo\r\n")
    assert [r.text for r in read(path, format="text", per="line")[0]] == ["one", "two"]


def test_long_text_file_is_cut_at_lines_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    text = "".join(f"line {i} é\n" for i in range(1000))
    path.write_text(text, encoding="utf-8")
    records, rejects, _ = read(path, format="text", max_bytes=1024)
    assert "".join(record.text for record in records) == text and not rejects
    assert [record.is_cut for record in records] == [False] + [True] * (len(records) - 1)
    assert max(len(record.text.encode()) for record in records) <= 1024


def test_source_file_that_is_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_bytes(b"x = 1\ny = '\xe9'\n")
    _, (reject,), _ = read(path, format="code")
    assert (reject.reason, reject.place.line, reject.place.offset) == ("invalid_utf8", 2, 11)


def test_metadata_is_text(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"text": "a", "u": "x", "n": 3, "o": {"b": 1, "a": [true]}}\n')
    (record,), _, _ = read(path, metadata=["u", "n", "o", "none"])
    assert record.metadata == {"u": "x", "n": "3", "o": '{"a":[true],"b":1}', "none": ""}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
NUMBERS = [b"-0", b"1" * 30, b"1" * 400, b"1" * 5000, b"1e5", b"0.1", b"NaN", b"01", b"+1", b"1."]


def _line(value: object, ascii: bool) -> bytes:
    return json.dumps(value, ensure_ascii=ascii).encode("utf-8", "surrogatepass")


OBJECTS = st.fixed_dictionaries({}, optional={"text": JSON, "m": JSON, "n": JSON, "other": JSON})
LINES = st.lists(
    st.one_of(
        st.builds(_line, OBJECTS | JSON, st.booleans()),
        st.sampled_from(NUMBERS).map(lambda number: b'{"text": "a", "m": %s}' % number),
        st.binary(max_size=20),
    ),
    max_size=5,
)


RULES = [{}, {"missing": {"m": "drop"}, "defaults": {"n": "-"}}, {"defaults": {"text": "-"}}]


@given(LINES, st.sampled_from(RULES))
def test_the_fast_parser_gives_what_the_other_gives(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], rules: dict[str, object]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(b"\n".join(lines))
    fast = read(path, metadata=["m", "n"], **rules)[:2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orjson, "loads", _refuses)
        assert read(path, metadata=["m", "n"], **rules)[:2] == fast


def _refuses(data: bytes) -> None:
    raise ValueError
