"""One piece of a source to records, by what the source says of itself."""

from __future__ import annotations

from collections.abc import Iterator

from data_jobs.pixels import read_image
from data_jobs.raw_bytes import Piece, Reading
from data_jobs.records import Record, Reject, read_records
from data_jobs.source_settings import SourceSettings


def read_source(
    piece: Piece, reading: Reading, source: SourceSettings, max_bytes: int
) -> Iterator[Record | Reject]:
    """Records and counted rejects of a piece; texts above `max_bytes` come in cuts."""
    if source.format == "images":
        return read_image(piece, reading, source, max_bytes)
    return read_records(
        piece,
        reading,
        format=source.format,
        text_field=source.text_field,
        per=source.per,
        metadata=source.metadata,
        max_bytes=max_bytes,
    )
