"""Files of examples to rows of named values, each with its place: JSON lines, CSV, Parquet.

The rows come in the order of the files' names, then of their lines. Nothing is judged here but whether a
record can be read at all.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cluster import places
from cluster.errors import UserError
from data_jobs.reading.csv_files import read_csv_objects
from data_jobs.reading.folders import find_files
from data_jobs.reading.json_lines import read_objects
from data_jobs.reading.raw_bytes import BLOCK_BYTES, Piece, Reading, open_input
from data_jobs.reading.records import Reject

FORMATS = {
    ".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv",
    ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
COMPRESSED = (".gz", ".zst", ".xz")
_INCLUDE = [f"*{end}" for end, format in FORMATS.items() if format == "parquet"] + [
    f"*{end}{packed}"
    for end, format in FORMATS.items()
    if format != "parquet"
    for packed in ("", *COMPRESSED)
]
_ROWS = 1024  # of a table, at once
_ARRAY = "; the file is one JSON array: write an object a line, for instance by `jq -c '.[]' IN > OUT.jsonl`"


class Row(NamedTuple):
    """One record: its values, the names of all its fields, and where it stands."""

    values: Mapping[str, Any]
    names: Sequence[str]
    place: str
    is_text: bool = False
    """Of CSV, where every value is text: numbers and lists are written out."""


class Bad(NamedTuple):
    """A record that gives no example, and why."""

    reason: str
    detail: str
    place: str


class DataFile(NamedTuple):
    """A file of examples."""

    path: str
    name: str
    format: str
    delimiter: str = ","


def find_data(path: str, field: str) -> list[DataFile]:
    """The files behind a path, a folder or a glob, by name. UserError, with the setting's name, for none."""
    where = path if places.is_remote(path) else os.path.abspath(os.path.expanduser(path))
    found = find_files(str(where), _INCLUDE, [])
    if found is None:
        raise UserError(f"{field}: {path}: no such file or folder")
    files = [_data_file(each.path, each.name, field) for each in found]
    if not files:
        raise UserError(f"{field}: {path}: no file there (looked for {', '.join(_INCLUDE)})")
    return sorted(files, key=lambda file: (file.name, file.path))


def _data_file(path: str, name: str, field: str) -> DataFile:
    bare = name
    for end in COMPRESSED:
        bare = bare.removesuffix(end)
    end = os.path.splitext(bare)[1].lower()
    format = FORMATS.get(end)
    if format is None:
        raise UserError(f"{field}: {path}: its name must end in one of {', '.join(FORMATS)}")
    if format == "parquet" and bare != name:
        raise UserError(f"{field}: {path}: Parquet is compressed inside: unpack the file")
    return DataFile(path, name, format, "\t" if end == ".tsv" else ",")


def digest_of_files(files: Sequence[DataFile]) -> str:
    """SHA-256 over the bytes of the files in their order, and over nothing of where they lie."""
    whole = hashlib.sha256()
    for file in files:
        one = hashlib.sha256(file.format.encode())
        with open_input(file.path) as opened:
            while block := opened.read(BLOCK_BYTES):
                one.update(block)
        whole.update(one.digest())
    return whole.hexdigest()


def read_rows(files: Sequence[DataFile], wanted: Sequence[str]) -> Iterator[Row | Bad]:
    """The records of files. Of a table only the `wanted` fields are read; all are named."""
    for file in files:
        match file.format:
            case "jsonl":
                yield from _read_lines(file)
            case "csv":
                yield from _read_csv(file)
            case _:
                yield from _read_parquet(file, wanted)


def _read_lines(file: DataFile) -> Iterator[Row | Bad]:
    first = True
    for item in read_objects(Piece(file.path), Reading()):
        if isinstance(item, Reject):
            is_array = first and item.head.lstrip().startswith("[")
            yield Bad(item.reason, item.detail + (_ARRAY if is_array else ""), str(item.place))
        else:
            values, place = item
            yield Row(values, tuple(values), str(place))
        first = False


def _read_csv(file: DataFile) -> Iterator[Row | Bad]:
    for item in read_csv_objects(Piece(file.path), Reading(), file.delimiter):
        if isinstance(item, Reject):
            yield Bad(item.reason, item.detail, str(item.place))
        else:
            values, place = item
            yield Row(values, tuple(values), str(place), is_text=True)


def _read_parquet(file: DataFile, wanted: Sequence[str]) -> Iterator[Row | Bad]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    with open_input(file.path) as opened:
        try:
            table = pq.ParquetFile(opened, page_checksum_verification=True, arrow_extensions_enabled=False)
            names = tuple(table.schema_arrow.names)
            columns = [name for name in dict.fromkeys(wanted) if name in names]
            if not columns:  # no field is read, so that each row is told to lack it
                for row in range(table.metadata.num_rows):
                    yield Row({}, names, f"{file.path}:{row + 1}")
                return
            for batch in table.iter_batches(_ROWS, columns=columns, use_threads=False):
                for values in batch.to_pylist():
                    row += 1
                    yield Row(values, names, f"{file.path}:{row}")
        except (pa.ArrowException, OSError, KeyError, TypeError, UnicodeDecodeError) as error:
            why = " ".join(str(error).split())[:200]
            yield Bad("damaged_file", why, f"{file.path}:{row + 1}")
