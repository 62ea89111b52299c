"""Files of examples: every format gives the same records, and what cannot be read is said with its place."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from cluster.errors import UserError
from llm.settings import FinetuneSettings
from llm.tasks.example_fields import Example, read_example
from llm.tasks.task_data import Bad, Row, digest_of_files, find_data, read_rows

RECORDS = [
    {"text": 'one, "two"', "label": "a"},
    {"text": "zwölf\nLinien", "label": "b"},
    {"text": "海", "label": "a"},
]


def json_lines(records: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def csv_bytes(records: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()


def parquet_bytes(records: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), sink)
    return sink.getvalue()


FORMS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "a.jsonl": json_lines,
    "a.jsonl.gz": lambda records: gzip.compress(json_lines(records)),
    "a.jsonl.zst": lambda records: zstandard.compress(json_lines(records)),
    "a.jsonl.xz": lambda records: lzma.compress(json_lines(records)),
    "a.csv": csv_bytes,
    "a.csv.gz": lambda records: gzip.compress(csv_bytes(records)),
    "a.tsv": lambda records: csv_bytes(records, "\t"),
    "a.parquet": parquet_bytes,
}


def rows_of(path: Path, wanted: tuple[str, ...] = ("text", "label")) -> list[Row | Bad]:
    return list(read_rows(find_data(str(path), "finetune.data.train"), wanted))


@pytest.mark.parametrize("name", FORMS)
def test_every_format_gives_the_same_records(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FORMS[name](RECORDS))
    rows = rows_of(path)
    assert [dict(row.values) for row in rows if isinstance(row, Row)] == RECORDS
    places = [row.place for row in rows]
    assert all(place.startswith(f"{path}:") for place in places)
    assert len(set(places)) == len(RECORDS)


NESTED = {
    "multi_label": {"text": "t", "label": ["b", "a"]},
    "token_classification": {"words": ["x", "y"], "label": ["O", "P"]},
    "question_answering": {
        "text": "the sea",
        "question": "what?",
        "answers": {"text": ["sea"], "answer_start": [4]},
    },
    "regression": {"text": "t", "label": 2.5},
    "classification": {"text": "t", "label": 7},
    "instruction": {
        "conversation": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    },
}


@pytest.mark.parametrize("kind", NESTED)
def test_lists_and_numbers_come_from_every_format(tmp_path: Path, kind: str) -> None:
    record = NESTED[kind]
    written = {
        name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in record.items()
    }
    (tmp_path / "a.jsonl").write_bytes(json_lines([record]))
    (tmp_path / "a.parquet").write_bytes(parquet_bytes([record]))
    (tmp_path / "a.csv").write_bytes(csv_bytes([written]))
    messages = "conversation" if kind == "instruction" else None
    settings = FinetuneSettings.model_validate({"data": {"messages": messages}, "task": {"kind": kind}})
    found: list[Example] = []
    for name in ("a.jsonl", "a.parquet", "a.csv"):
        (row,) = rows_of(tmp_path / name, tuple(record))
        assert isinstance(row, Row)
        found.append(read_example(row, settings.data, settings.task.kind))
    assert len({(example.texts, example.label, example.messages) for example in found}) == 1


def test_a_list_of_words_in_csv_may_stand_between_blanks(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("words,label\na ship went,O P O\n")
    settings = FinetuneSettings.model_validate({"task": {"kind": "token_classification"}})
    (row,) = rows_of(tmp_path / "a.csv", ("words", "label"))
    assert isinstance(row, Row)
    example = read_example(row, settings.data, "token_classification")
    assert (example.texts, example.label) == (("a", "ship", "went"), ("O", "P", "O"))


def test_a_glob_and_a_folder_go_by_name(tmp_path: Path) -> None:
    for name, text in (("b.jsonl", "second"), ("a.jsonl", "first"), ("notes.txt", "none")):
        (tmp_path / name).write_bytes(json_lines([{"text": text}]))
    for path in (tmp_path, tmp_path / "*.jsonl"):
        texts = [row.values["text"] for row in rows_of(path) if isinstance(row, Row)]
        assert texts == ["first", "second"]


def test_a_digest_is_of_what_the_files_hold(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines(RECORDS))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "z.jsonl").write_bytes(json_lines(RECORDS))
    first, second = (digest_of_files(find_data(str(tmp_path / name), "f")) for name in ("a.jsonl", "other"))
    assert first == second
    (tmp_path / "a.jsonl").write_bytes(json_lines(RECORDS[:2]))
    assert digest_of_files(find_data(str(tmp_path / "a.jsonl"), "f")) != first


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("none.jsonl", None, "finetune.data.train: .*none.jsonl: no such file"),
        ("a.txt", b"x", "must end in one of .jsonl"),
        ("a.parquet.gz", b"x", "Parquet is compressed inside"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, data: bytes | None, says: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=says):
        find_data(str(tmp_path / name), "finetune.data.train")


@pytest.mark.parametrize(
    ("name", "data", "reason", "line", "detail"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "invalid_json", 2, "Expecting value"),
        ("a.jsonl", b'{"text": "x"}\n[1]\n', "not_an_object", 2, "a list"),
        ("a.json", b'[\n{"text": "x"}\n]\n', "invalid_json", 1, "one JSON array"),
        ("a.csv", b'text,label\nx,a\n"y,b\n', "invalid_csv", 3, ""),
        ("a.csv", b"text,label\nx,a\ny\n", "wrong_field_count", 3, "1 fields, and the header has 2"),
        ("a.parquet", b"PAR1 no table", "damaged_file", 1, ""),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 9, mtime=0)[:-9], "damaged_file", 1, "gzip"),
    ],
)
def test_what_cannot_be_read(
    tmp_path: Path, name: str, data: bytes, reason: str, line: int, detail: str
) -> None:
    (tmp_path / name).write_bytes(data)
    bad = [item for item in rows_of(tmp_path / name) if isinstance(item, Bad)]
    assert bad and bad[0].reason == reason and detail in bad[0].detail
    assert int(bad[0].place.rpartition(":")[2]) >= line
