"""Fields that a record lacks: dropped and counted, filled, or the end of the job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.errors import UserError
from data_jobs.reading.missing import is_left_out
from tests.data_jobs.conftest import make_texts, prepare, read, settings_for, source_of
from tests.data_jobs.input_files import arrow, csv_bytes, jsonl, parquet

ROWS: list[dict[str, Any]] = [
    {"text": "both", "lang": "en"},
    {"text": "no language", "lang": None},
    {"text": None, "lang": "de"},
    {"text": "both again", "lang": "fr"},
]


def write(folder: Path, format: str, rows: list[dict[str, Any]] = ROWS) -> Path:
    blank = [{name: value or "" for name, value in row.items()} for row in rows]
    data = {
        "jsonl": lambda: jsonl(rows),
        "parquet": lambda: parquet(rows, 3),
        "arrow": lambda: arrow(rows, batch=3),
        "csv": lambda: csv_bytes(blank),
    }[format]()
    path = folder / f"in.{format}"
    path.write_bytes(data)
    return path


FORMATS = ["jsonl", "parquet", "arrow", "csv"]


@pytest.mark.parametrize("format", FORMATS)
def test_as_it_is_without_a_rule(tmp_path: Path, format: str) -> None:
    records, rejects, _ = read(write(tmp_path, format), format=format, metadata=["lang"])
    texts = ["both", "no language", "both again"]
    if format == "csv":  # which has no null: cleaning counts it as empty
        texts.insert(2, "")
    assert [record.text for record in records] == texts
    assert records[1].metadata == {"lang": ""}
    assert [reject.reason for reject in rejects] == ([] if format == "csv" else ["null_text"])


@pytest.mark.parametrize("format", FORMATS)
def test_dropped(tmp_path: Path, format: str) -> None:
    rules = {"metadata": ["lang"], "missing": {"text": "drop", "lang": "drop"}}
    records, rejects, _ = read(write(tmp_path, format), format=format, **rules)
    assert [record.text for record in records] == ["both", "both again"]
    assert [reject.reason for reject in rejects] == ["missing_meta.lang", "missing_text"]
    source = source_of("x", format=format, **rules)
    assert all(is_left_out(source, reject.reason) for reject in rejects)
    assert not is_left_out(source_of("x", format=format), "missing_text")


@pytest.mark.parametrize("format", FORMATS)
def test_filled(tmp_path: Path, format: str) -> None:
    rules = {
        "metadata": ["lang"],
        "defaults": {"text": "none at all, and longer than the line " * 3, "lang": "?"},
    }
    records, rejects, reading = read(write(tmp_path, format), format=format, **rules)
    assert [(record.text[:8], record.metadata["lang"]) for record in records] == [
        ("both", "en"),
        ("no langu", "?"),
        ("none at ", "de"),
        ("both aga", "fr"),
    ]
    assert not rejects
    size = len(records[2].text)
    assert reading.bytes_added == size - records[2].raw_bytes > 0


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("field", ["text", "lang"])
def test_failed(tmp_path: Path, format: str, field: str) -> None:
    path = write(tmp_path, format)
    with pytest.raises(UserError, match=f"in.{format}:[0-9]: field '{field}' is missing.*{{{field}: fail}}"):
        read(path, format=format, metadata=["lang"], missing={field: "fail"})


@pytest.mark.parametrize("format", FORMATS)
def test_a_field_that_no_record_has(tmp_path: Path, format: str) -> None:
    rows = [{"body": row["text"] or "x", "lang": row["lang"]} for row in ROWS]
    path = write(tmp_path, format, rows)
    _, rejects, _ = read(path, format=format, missing={"text": "drop"})
    assert [reject.reason for reject in rejects] == ["missing_text"] * 4
    records, _, _ = read(path, format=format, text_field="body", metadata=["who"], defaults={"who": "-"})
    assert [record.metadata for record in records] == [{"who": "-"}] * 4
    # Asked for or not: a source of which nothing is left must be told of.
    settings = settings_for(path, source={"format": format, "missing": {"text": "drop"}})
    with pytest.raises(UserError, match="none of 4 records has a text in its field 'text'.*body, lang"):
        prepare(settings, tmp_path / "out")


def test_what_is_dropped_on_demand_is_no_failure(tmp_path: Path) -> None:
    rows = [
        {"text": text, "lang": "en" if number % 2 else None} for number, text in enumerate(make_texts(60))
    ]
    path = write(tmp_path, "jsonl", rows)
    source = {"metadata": ["lang"], "missing": {"lang": "drop"}}
    settings = settings_for(path, source=source, max_bad_fraction=0.0, on_bad="fail", val_fraction=0.0)
    manifest = prepare(settings, tmp_path / "out")
    assert manifest["counts"]["documents"] == {
        "in": 60, "added": 0, "out": 30, "dropped": {"missing_meta.lang": 30},
    }  # fmt: skip
    # A bad record beside them is measured against those that were to be kept.
    with open(path, "ab") as file:
        file.write(b"{\n")
    loose = settings_for(path, source=source, max_bad_fraction=1 / 31, val_fraction=0.0)
    assert prepare(loose, tmp_path / "out2")["counts"]["documents"]["dropped"]["invalid_json"] == 1
    with pytest.raises(UserError, match="1 of 31 records cannot be read .invalid_json 1."):
        prepare(settings_for(path, source=source, max_bad_fraction=1 / 32), tmp_path / "out3")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"missing": {"who": "drop"}}, "'who' is neither the text's field nor in metadata"),
        ({"missing": {"text": "drop"}, "defaults": {"text": "x"}}, "stands in missing and in defaults"),
        ({"format": "text", "missing": {"text": "drop"}}, "missing has no effect on format text"),
        ({"format": "parquet", "per": "line"}, "per has no effect on format parquet"),
        ({"format": "code", "text_field": "body"}, "text_field has no effect"),
        ({"format": "jsonl", "extractor": "trafilatura"}, "extractor has no effect"),
        ({"missing": {"text": "reject"}}, "Input should be 'drop' or 'fail'"),
    ],
)
def test_rules_that_fit_nothing_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        source_of("in.jsonl", **fields)
