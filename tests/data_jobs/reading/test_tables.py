"""Parquet and Arrow files: what their columns become, what damage costs, and that cuts change nothing."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import UserError
from data_jobs.reading import tables
from data_jobs.reading.records import Record, Reject
from tests.data_jobs.conftest import make_texts, prepare, read, read_cut, settings_for, source_of
from tests.data_jobs.input_files import arrow, parquet

TEXTS = make_texts(95, 3)
ROWS = [{"id": str(number), "text": text, "url": f"u{number}"} for number, text in enumerate(TEXTS)]
WRITERS = {
    "parquet": parquet,
    "arrow file": arrow,
    "arrow stream": lambda rows: arrow(rows, "stream"),
}


def as_file(kind: str, table: pa.Table) -> bytes:
    out = io.BytesIO()
    if kind == "parquet":
        pq.write_table(table, out, row_group_size=7)
    else:
        with (pa.ipc.new_file if kind == "arrow file" else pa.ipc.new_stream)(out, table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
    return out.getvalue()


def write(folder: Path, kind: str, data: bytes) -> Path:
    path = folder / f"in.{kind.split()[0]}"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", WRITERS)
def test_rows_are_records_and_their_bytes_add_up(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind, WRITERS[kind](ROWS))
    records, rejects, reading = read(path, format=kind.split()[0], metadata=["url"])
    assert [(record.text, record.metadata) for record in records] == [
        (row["text"], {"url": row["url"]}) for row in ROWS
    ]
    assert not rejects and reading.lines == len(ROWS)
    assert [record.place.line for record in records] == list(range(1, len(ROWS) + 1))
    assert reading.bytes_read == sum(len((row["text"] + row["url"]).encode()) for row in ROWS)
    assert reading.bytes_read == sum(record.raw_bytes for record in records)


@pytest.mark.parametrize("kind", ["parquet", "arrow file"])
@pytest.mark.parametrize("parts", [1, 2, 3, 7, 40])
def test_cuts_are_the_rows_each_once(tmp_path: Path, kind: str, parts: int) -> None:
    path = write(tmp_path, kind, WRITERS[kind](ROWS))
    source = source_of(path, format=kind.split()[0])
    items, pieces, size = read_cut(source, path.stat().st_size // parts + 1)
    assert [item.text for item in items if isinstance(item, Record)] == TEXTS
    assert pieces == parts
    assert size == sum(len(text.encode()) for text in TEXTS)


TYPES: dict[str, Any] = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("type", TYPES)
def test_every_type_that_holds_text(tmp_path: Path, kind: str, type: str) -> None:
    texts = ["a", "", "größe", None, "海" * 50, "a"] * 3
    plain = pa.array(texts, pa.string())
    column = plain.dictionary_encode() if type == "dictionary" else plain.cast(TYPES[type])
    path = write(tmp_path, kind, as_file(kind, pa.table({"text": column, "m": column})))
    records, rejects, _ = read(path, format=kind.split()[0], metadata=["m"])
    assert [record.text for record in records] == [text for text in texts if text is not None]
    assert [record.metadata["m"] for record in records] == [text for text in texts if text is not None]
    assert [reject.reason for reject in rejects] == ["null_text"] * 3


@pytest.mark.parametrize("kind", WRITERS)
def test_metadata_of_other_types(tmp_path: Path, kind: str) -> None:
    columns = {
        "text": ["a"],
        "n": [3],
        "x": [0.5],
        "b": [True],
        "l": [[1, 2]],
        "o": [{"k": "v"}],
        "t": pa.array([1_700_000_000_000], pa.timestamp("ms")),
        "none": pa.nulls(1),
    }
    path = write(tmp_path, kind, as_file(kind, pa.table(columns)))
    wanted = ["n", "x", "b", "l", "o", "t", "none", "absent"]
    (record,), rejects, _ = read(path, format=kind.split()[0], metadata=wanted)
    assert not rejects
    assert record.metadata == {
        "n": "3", "x": "0.5", "b": "true", "l": "[1,2]", "o": '{"k":"v"}', "t": "2023-11-14 22:13:20.000",
        "none": "", "absent": "",
    }  # fmt: skip


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("metadata", [[], ["m"]])
def test_a_value_that_is_no_text_costs_its_row(tmp_path: Path, kind: str, metadata: list[str]) -> None:
    values = [b"good", b"bad \xff", b"good", b"\xed\xa0\x80", b"good"]
    text = pa.Array.from_buffers(pa.string(), 5, pa.array(values, pa.binary()).buffers())
    path = write(tmp_path, kind, as_file(kind, pa.table({"text": text, "m": ["x"] * 5})))
    records, rejects, _ = read(path, format=kind.split()[0], metadata=metadata)
    assert [record.text for record in records] == ["good"] * 3
    assert [(reject.reason, reject.place.line) for reject in rejects] == [
        ("invalid_utf8", 2),
        ("invalid_utf8", 4),
    ]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_text_that_is_a_number_or_not_there(tmp_path: Path, kind: str) -> None:
    format = kind.split()[0]
    path = write(tmp_path, kind, as_file(kind, pa.table({"text": [1, 2], "url": ["a", "b"]})))
    _, rejects, _ = read(path, format=format)
    assert [(r.reason, r.detail) for r in rejects] == [("text_not_string", "column 'text' is int64")] * 2
    _, rejects, _ = read(path, format=format, text_field="body")
    assert [(r.reason, r.fields) for r in rejects] == [("missing_text", ("text", "url"))] * 2
    _, rejects, _ = read(path, format=format, text_field="body", metadata=["url"])
    assert [(r.reason, r.raw_bytes) for r in rejects] == [("missing_text", 1)] * 2
    with pytest.raises(UserError, match="missing_text 2.*Fields seen in them: text, url"):
        prepare(settings_for(path, source={"format": format, "text_field": "body"}), tmp_path / "out")


@pytest.mark.parametrize("kind", WRITERS)
def test_long_and_empty_ones(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind, as_file(kind, pa.table({"text": ["x" * 5000, "y"]})))
    records, rejects, _ = read(path, 1024, format=kind.split()[0])
    assert [record.text for record in records] == ["y"]
    assert [(reject.reason, reject.raw_bytes) for reject in rejects] == [("too_long", 5000)]
    empty = as_file(kind, pa.table({"text": pa.array([], pa.string())}))
    assert read(write(tmp_path, kind, empty), format=kind.split()[0])[:2] == ([], [])


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("data", [b"PAR1 but no more", b"no table at all\n" * 9, b"ARROW1\0\0", b"\0" * 100])
def test_what_is_no_table_is_one_reject(tmp_path: Path, kind: str, data: bytes) -> None:
    path = write(tmp_path, kind, data)
    records, rejects, reading = read(path, format=kind.split()[0])
    assert records == [] and [reject.reason for reject in rejects] == ["damaged_file"]
    assert reading.damage
    items, *_ = read_cut(source_of(path, format=kind.split()[0]), 5)
    assert len(items) == 1 and isinstance(items[0], Reject)


@pytest.mark.parametrize("kind", WRITERS)
def test_flipped_and_truncated_tables(tmp_path: Path, kind: str) -> None:
    """Nothing is raised; and no text is invented where the format has checksums, as Parquet."""
    good, draw = WRITERS[kind](ROWS), random.Random(5)
    path = tmp_path / "in"
    found = 0
    for _ in range(60):
        data = bytearray(good)
        at = draw.randrange(len(data))
        if draw.random() < 0.3:
            del data[at:]
        else:
            data[at] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        records, rejects, _ = read(path, format=kind.split()[0])
        found += bool(rejects)
        if kind == "parquet":
            assert {record.text for record in records} <= set(TEXTS)
            if len(data) == len(good):
                assert len(records) + len(rejects) in (len(ROWS), 1)
    assert found > 10


def test_a_number_of_rows_that_cannot_be_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be told of row by row."""
    monkeypatch.setattr(tables, "_MOST_ROWS", 9)
    records, rejects, reading = read(write(tmp_path, "parquet", parquet(ROWS, 10)), format="parquet")
    assert [record.text for record in records] == TEXTS[90:]
    assert [reject.reason for reject in rejects] == ["damaged_file"] * 9 and "10 rows" in str(reading.damage)


@pytest.mark.parametrize("end", [".gz", ".zst", ".xz"])
@pytest.mark.parametrize("kind", ["arrow file", "arrow stream"])
def test_a_compressed_arrow_file(tmp_path: Path, kind: str, end: str) -> None:
    from tests.data_jobs.input_files import PACK

    data = PACK[end](WRITERS[kind](ROWS))
    path = write(tmp_path, kind, data)
    records, rejects, _ = read(path, format="arrow")
    assert [record.text for record in records] == TEXTS and not rejects
    path.write_bytes(data[: len(data) * 2 // 3])
    records, rejects, reading = read(path, format="arrow")
    assert [record.text for record in records] == TEXTS[: len(records)]
    assert [reject.reason for reject in rejects] == ["damaged_file"] and reading.damage


def test_extension_types_are_refused(tmp_path: Path) -> None:
    class Marked(pa.ExtensionType):
        def __init__(self) -> None:
            super().__init__(pa.string(), "tests.marked")

        def __arrow_ext_serialize__(self) -> bytes:
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage: Any, data: bytes) -> Any:
            return cls()

    pa.register_extension_type(Marked())
    try:
        column = pa.ExtensionArray.from_storage(Marked(), pa.array(["a"]))
        for kind in WRITERS:
            path = write(tmp_path, kind, as_file(kind, pa.table({"text": column})))
            with pytest.raises(UserError, match="extension type"):
                read(path, format=kind.split()[0])
    finally:
        pa.unregister_extension_type("tests.marked")
