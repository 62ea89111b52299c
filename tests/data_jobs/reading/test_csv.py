"""CSV: quotes that are never closed, records over several lines, other delimiters."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import UserError
from tests.data_jobs.conftest import read, settings_for, source_of
from tests.data_jobs.input_files import csv_bytes


def write(folder: Path, data: bytes) -> Path:
    path = folder / "in.csv"
    path.write_bytes(data)
    return path


def test_quotes_as_the_standard_has_them(tmp_path: Path) -> None:
    data = b'url,text\r\nu1,"a ""word"", and\r\na line\n\nmore"\r\nu2,plain\r\n"u,3",""\r\nu4,5" disk\r\n'
    records, rejects, reading = read(write(tmp_path, data), format="csv", metadata=["url"])
    assert [(r.text, r.metadata["url"]) for r in records] == [
        ('a "word", and\r\na line\n\nmore', "u1"),
        ("plain", "u2"),
        ("", "u,3"),
        ('5" disk', "u4"),
    ]
    assert not rejects
    assert [r.place.line for r in records] == [2, 6, 7, 8]
    assert reading.bytes_read == len(data) and sum(r.raw_bytes for r in records) == len(data) - len(
        b"url,text\r\n"
    )


@given(
    st.lists(
        st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\r")), st.text("ab,\"\n \t;'é"))
        .filter(lambda row: row[0].strip() or row[1].strip()),
        min_size=1,
        max_size=8,
    )
)  # fmt: skip
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_what_the_csv_module_writes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, delimiter: str, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(csv_bytes([{"text": text, "m": m} for text, m in rows], delimiter))
    records, rejects, _ = read(path, format="csv", delimiter=delimiter, metadata=["m"])
    assert [(record.text, record.metadata["m"]) for record in records] == rows and not rejects


GOOD = [b'%d,"good %d"\n' % (number, number) for number in range(40)]


@pytest.mark.parametrize(
    "bad",
    [b'x,"never closed\n', b'x,"a"b\n', b'"\n', b'x,"a" \n', b'x,"closed after "" a word\n'],
)
@pytest.mark.parametrize("at", [0, 20, 40])
def test_a_broken_quote_costs_its_line(tmp_path: Path, bad: bytes, at: int) -> None:
    lines = [*GOOD[:at], bad, *GOOD[at:]]
    path = write(tmp_path, b"id,text\n" + b"".join(lines))
    records, rejects, _ = read(path, format="csv")
    assert [record.text for record in records] == [f"good {number}" for number in range(40)]
    (reject,) = rejects
    assert (reject.reason, reject.place.line, reject.raw_bytes) == ("invalid_csv", at + 2, len(bad))
    assert path.read_bytes()[reject.place.offset :].startswith(bad)


def test_a_quote_that_is_not_closed_is_looked_for_no_further_than_the_bound(tmp_path: Path) -> None:
    plain = [b"%d,plain %d\n" % (number, number) for number in range(5_000)]
    path = write(tmp_path, b'id,text\nx,"open\n' + b"".join(plain))
    records, rejects, _ = read(path, 1024, format="csv")
    assert len(records) == 5_000 and records[-1].text == "plain 4999"
    (reject,) = rejects
    assert reject.reason == "invalid_csv" and reject.detail.startswith("a quote that is not closed in ")


def test_a_bad_byte_in_a_long_record_costs_that_record(tmp_path: Path) -> None:
    path = write(tmp_path, b'id,text\n1,"a\nb\xff\nc"\n2,good\n')
    records, (reject,), _ = read(path, format="csv")
    assert [record.text for record in records] == ["good"]
    assert (reject.reason, reject.place.line, reject.raw_bytes) == (
        "invalid_utf8",
        2,
        len(b'1,"a\nb\xff\nc"\n'),
    )


def test_header(tmp_path: Path) -> None:
    records, rejects, _ = read(write(tmp_path, b"text,text,\xc3\xbc\na,b,c\n"), format="csv", metadata=["ü"])
    assert [(r.text, r.metadata) for r in records] == [("a", {"ü": "c"})] and not rejects
    _, rejects, _ = read(write(tmp_path, b'"te"xt,id\na,b\n'), format="csv")
    assert [reject.reason for reject in rejects] == ["invalid_header"]
    _, rejects, _ = read(write(tmp_path, b"body,id\na,b\n"), format="csv")
    assert [(reject.reason, reject.fields) for reject in rejects] == [("missing_text", ("body", "id"))]
    assert read(write(tmp_path, b"text,id\n"), format="csv")[:2] == ([], [])


@pytest.mark.parametrize("delimiter", ["", ",,", '"', "\n", "é"])
def test_delimiters_that_are_none(delimiter: str) -> None:
    with pytest.raises(ValueError, match="one ASCII character"):
        source_of("in.csv", format="csv", delimiter=delimiter)


def test_a_wrong_field_name_shows_the_header(tmp_path: Path) -> None:
    from tests.data_jobs.conftest import prepare

    path = write(tmp_path, b"body,id\n" + b"".join(GOOD))
    with pytest.raises(UserError, match=r"missing_text 40.*Fields seen in them: body, id"):
        prepare(settings_for(path, source={"format": "csv"}), tmp_path / "out")
