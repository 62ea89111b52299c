"""One piece of a source to records, by what the source says of itself.

Each format's reader is a file of its own and is imported where it is first used.
"""

from __future__ import annotations

from collections.abc import Iterator

from cluster.errors import RunError, UserError
from cluster.places import PlaceError
from data_jobs.reading.missing import FieldRules
from data_jobs.reading.raw_bytes import DamagedFile, Piece, Reading, read_blocks, stamp_of
from data_jobs.reading.records import Record, Reject
from data_jobs.reading.source_settings import SourceSettings

TABLES = ("parquet", "arrow")
"""Formats whose digest is over the values that are read, not over the file's bytes."""


def read_source(
    piece: Piece, reading: Reading, source: SourceSettings, max_bytes: int
) -> Iterator[Record | Reject]:
    """Records and counted rejects of a piece; texts above `max_bytes` come in cuts.

    UserError where the file changed or vanished since it was listed, RunError where the machine fails.
    """
    try:
        yield from _read(piece, reading, source, max_bytes)
        if piece.stamp and (now := stamp_of(piece.path)) != piece.stamp:
            raise UserError(
                f"{piece.path}: changed while it was read: it was {piece.stamp}, and is {now}; type the same "
                "command again when nothing writes to it"
            )
    except PlaceError:
        raise
    except FileNotFoundError:
        raise UserError(f"{piece.path}: vanished while it was read; type the same command again") from None
    except OSError as error:
        why = error.strerror or str(error)
        raise RunError(f"{piece.path}: cannot be read: {why}; the same command continues") from error


def read_through(piece: Piece, reading: Reading, source: SourceSettings, max_bytes: int) -> None:
    """Read a piece for its digest alone."""
    if source.format in TABLES:
        for _ in _read(piece, reading, source, max_bytes):
            pass
        return
    try:
        for _ in read_blocks(piece, reading):
            pass
    except DamagedFile:
        pass


def _read(
    piece: Piece, reading: Reading, source: SourceSettings, max_bytes: int
) -> Iterator[Record | Reject]:
    rules = FieldRules.of(source)
    match source.format:
        case "jsonl":
            from data_jobs.reading.json_lines import read_json_lines

            return read_json_lines(piece, reading, rules, max_bytes)
        case "parquet":
            from data_jobs.reading.tables import read_parquet

            return read_parquet(piece, reading, rules, max_bytes)
        case "arrow":
            from data_jobs.reading.tables import read_arrow

            return read_arrow(piece, reading, rules, max_bytes)
        case "csv":
            from data_jobs.reading.csv_files import read_csv

            return read_csv(piece, reading, rules, source.delimiter, max_bytes)
        case "warc" | "wet":
            from data_jobs.reading.warc_files import read_warc

            return read_warc(piece, reading, rules, source.format, source.extractor, max_bytes)
        case "html":
            from data_jobs.reading.html_text import read_page

            return read_page(piece, reading, source, max_bytes)
        case "images":
            from data_jobs.reading.pixels import read_image

            return read_image(piece, reading, source, max_bytes)
    from data_jobs.reading.text_files import read_text_lines, read_whole

    if source.format == "text" and source.per == "line":
        return read_text_lines(piece, reading, max_bytes)
    return read_whole(piece, reading, max_bytes, {"path": piece.name} if source.format == "code" else {})
