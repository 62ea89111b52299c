"""Files of tables to records: Parquet by row groups, Arrow IPC by record batches.

A piece owns the groups that begin in its range of bytes, where group i of n is taken to begin at i / n of the
file: what is cut without being opened is read by each piece alone. Files are read, not mapped: a file that
becomes shorter under a map ends the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from data_jobs.reading.columns import Rows, digest_columns, wanted_columns
from data_jobs.reading.missing import FieldRules
from data_jobs.reading.raw_bytes import BLOCK_BYTES, BlockFile, Piece, Reading, open_input, read_blocks
from data_jobs.reading.records import Place, Record, Reject, rejected

_ROWS = 1024
"""Rows that are taken together at most."""
_BATCH_BYTES = 8 << 20
_MOST_ROWS = 1 << 26
"""Of a row group; its number of rows stands in a part of the file that nothing checks."""
# Of a damaged schema pyarrow raises Python's own errors, too.
_DAMAGE = (pa.ArrowException, OSError, KeyError, TypeError, UnicodeDecodeError)
MAGIC = b"ARROW1"
"""An IPC file begins with it, a stream does not."""


def read_parquet(
    piece: Piece, reading: Reading, rules: FieldRules, max_bytes: int
) -> Iterator[Record | Reject]:
    """The rows of a piece's row groups. Of a damaged group each row that did not come is a reject."""
    with open_input(piece.path) as file:
        try:
            parquet = pq.ParquetFile(
                file,
                buffer_size=BLOCK_BYTES,
                pre_buffer=False,
                page_checksum_verification=True,
                arrow_extensions_enabled=False,  # text that is marked as JSON is text
            )
            names = tuple(parquet.schema_arrow.names)
            columns = [names[index] for index in wanted_columns(parquet.schema_arrow, rules, piece.path)]
        except _DAMAGE as error:
            yield from _damaged(error, piece, reading, Place(piece.path, 0, 1, 0), piece.start == 0)
            return
        size, groups, first = file.seek(0, 2), parquet.metadata.num_row_groups, 0
        for number in range(groups):
            group = parquet.metadata.row_group(number)
            if piece.owns(number * size // groups):
                yield from _row_group(
                    parquet, number, first, names, columns, piece, reading, rules, max_bytes
                )
            first += group.num_rows


def _row_group(
    parquet: pq.ParquetFile,
    number: int,
    first: int,
    names: tuple[str, ...],
    columns: list[str],
    piece: Piece,
    reading: Reading,
    rules: FieldRules,
    max_bytes: int,
) -> Iterator[Record | Reject]:
    group = parquet.metadata.row_group(number)
    rows = group.num_rows
    if rows > _MOST_ROWS:
        reading.damage = f"row group {number}: it says that it has {rows:,} rows"
        yield rejected("damaged_file", reading.damage, Place(piece.path, 0, first + 1, first), 0, b"")
        return
    # As many rows at a time as their text takes a few megabytes.
    at_once = max(1, min(_ROWS, _BATCH_BYTES * rows // max(1, group.total_byte_size)))
    done = 0
    try:
        for batch in parquet.iter_batches(at_once, [number], columns, use_threads=False) if columns else ():
            held = _held(batch, rules)
            digest_columns(held, reading)
            part = Rows(held, batch.num_rows, names, _row_places(piece, first + done))
            for item in part.read(rules, reading, max_bytes):
                yield item
                done += 1
    except _DAMAGE as error:
        detail = _named(error, reading)
        for row in range(done, rows):
            place = Place(piece.path, 0, first + row + 1, first + row)
            yield rejected("damaged_file", f"row group {number}: {detail}", place, 0, b"")
        done = rows
    for start in range(0, 0 if columns else rows, _ROWS):
        part = Rows({}, min(_ROWS, rows - start), names, _row_places(piece, first + start))
        yield from part.read(rules, reading, max_bytes)
    reading.lines += rows


def _row_places(piece: Piece, first: int) -> Any:
    return lambda row: Place(piece.path, 0, first + row + 1, first + row)


def read_arrow(
    piece: Piece, reading: Reading, rules: FieldRules, max_bytes: int
) -> Iterator[Record | Reject]:
    """The rows of a piece's record batches; of a stream all."""
    with open_input(piece.path) as file:
        if file.read(len(MAGIC)) == MAGIC:
            file.seek(0)
            yield from _read_file(file, piece, reading, rules, max_bytes)
            return
    yield from _read_stream(piece, reading, rules, max_bytes)


def _read_file(
    file: BinaryIO, piece: Piece, reading: Reading, rules: FieldRules, max_bytes: int
) -> Iterator[Record | Reject]:
    try:
        schema = pa.ipc.open_file(file).schema
        wanted = wanted_columns(schema, rules, piece.path)
        # None would mean all: a table without the text's field is read for its number of rows.
        options = pa.ipc.IpcReadOptions(included_fields=wanted or [0], use_threads=False)
        reader = pa.ipc.open_file(file, options=options)
    except _DAMAGE as error:
        yield from _damaged(error, piece, reading, Place(piece.path, 0, 1, 0), piece.start == 0)
        return
    size, count = file.seek(0, 2), reader.num_record_batches
    for number in range(count):
        at = number * size // count
        if not piece.owns(at):
            continue
        try:
            batch = reader.get_batch(number)
            digest_columns(_held(batch, rules), reading)
            yield from _rows_of(batch, at, tuple(schema.names), piece, reading, rules, max_bytes)
        except _DAMAGE as error:
            place = Place(piece.path, piece.start, reading.lines + 1, at)
            yield from _damaged(error, piece, reading, place)


def _read_stream(
    piece: Piece, reading: Reading, rules: FieldRules, max_bytes: int
) -> Iterator[Record | Reject]:
    """A stream, maybe compressed; a compressed file is one with a word before it and a table behind it."""
    raw = Reading(digest=reading.digest)  # bytes are counted by value, as those of all tables
    file = BlockFile(read_blocks(piece, raw))
    try:
        head = file.read(len(MAGIC) + 2)
        if head:
            reader = pa.ipc.open_stream(file if head.startswith(MAGIC) else BlockFile(_with_head(head, file)))
            names = tuple(reader.schema.names)
            wanted_columns(reader.schema, rules, piece.path)
            for batch in reader:
                yield from _rows_of(batch, 0, names, piece, reading, rules, max_bytes)
    except _DAMAGE as error:
        place = Place(piece.path, 0, reading.lines + 1, raw.bytes_read)
        yield from _damaged(error, piece, reading, place)
    file.drain()
    if file.damage and not reading.damage:
        place = Place(piece.path, 0, reading.lines + 1, raw.bytes_read)
        reading.damage = file.damage
        yield rejected("damaged_file", file.damage, place, 0, b"")


def _with_head(head: bytes, file: BlockFile) -> Iterator[bytes]:
    yield head
    while block := file.read(BLOCK_BYTES):
        yield block


def _held(batch: pa.RecordBatch, rules: FieldRules) -> dict[str, pa.Array]:
    wanted = dict.fromkeys([rules.text_field, *rules.metadata])
    return {
        name: batch.column(found[0]) for name in wanted if (found := batch.schema.get_all_field_indices(name))
    }


def _rows_of(
    batch: pa.RecordBatch,
    at: int,
    names: tuple[str, ...],
    piece: Piece,
    reading: Reading,
    rules: FieldRules,
    max_bytes: int,
) -> Iterator[Record | Reject]:
    for start in range(0, batch.num_rows, _ROWS):
        part = batch.slice(start, _ROWS)
        first = reading.lines

        def place_of(row: int, first: int = first) -> Place:
            return Place(piece.path, piece.start, first + row + 1, at)

        yield from Rows(_held(part, rules), part.num_rows, names, place_of).read(rules, reading, max_bytes)
        reading.lines += part.num_rows


def _named(error: BaseException, reading: Reading) -> str:
    """What is damaged, in a line; errors of the machine go on up."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    detail = " ".join(str(error).split())[:200] or type(error).__name__
    reading.damage = reading.damage or detail
    return detail


def _damaged(
    error: BaseException, piece: Piece, reading: Reading, place: Place, told_here: bool = True
) -> Iterator[Reject]:
    """One reject for what cannot be read; of a whole file that was cut its first piece tells it."""
    detail = _named(error, reading)
    if told_here:
        yield rejected("damaged_file", detail, place, 0, b"")
