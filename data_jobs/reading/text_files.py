"""Files of text and source code to records: a file or a line a document."""

from __future__ import annotations

from collections.abc import Iterator

from data_jobs.cleaning.cleaner import cut_bytes
from data_jobs.reading.lines import placed_lines, without_return
from data_jobs.reading.raw_bytes import DamagedFile, Piece, Reading, text_blocks
from data_jobs.reading.records import Place, Record, Reject, rejected


def read_text_lines(piece: Piece, reading: Reading, max_bytes: int) -> Iterator[Record | Reject]:
    """The lines that hold more than blanks."""
    for line in placed_lines(piece, reading, 4 * max_bytes):
        if isinstance(line, Reject):
            yield line
            continue
        data, place, size = line
        try:
            yield Record(without_return(data).decode(), place, size)
        except UnicodeDecodeError as error:
            detail = f"byte {error.start} of the line is not UTF-8"
            yield rejected("invalid_utf8", detail, place, size, data)


def read_whole(
    piece: Piece, reading: Reading, max_bytes: int, metadata: dict[str, str]
) -> Iterator[Record | Reject]:
    """A file as one document; one above the bound as several, cut at line ends, never all in memory."""
    waiting = b""
    offset = None
    is_cut = False
    try:
        for block in text_blocks(piece, reading):
            offset = reading.first_byte if offset is None else offset
            waiting += block
            if len(waiting) > max_bytes:
                *whole, waiting = cut_bytes(waiting, max_bytes)
                for data in whole:
                    yield _document(piece, data, offset, metadata, is_cut)
                    offset += len(data)
                    is_cut = True
    except DamagedFile as error:
        reading.damage = str(error)
        good = waiting.rfind(b"\n") + 1
        if good:
            yield _document(piece, waiting[:good], offset or 0, metadata, is_cut)
        place = Place(piece.path, 0, 1, (offset or 0) + good)
        yield rejected("damaged_file", reading.damage, place, len(waiting) - good, waiting[good:])
        return
    yield _document(piece, waiting, offset or 0, metadata, is_cut)


def _document(
    piece: Piece, data: bytes, offset: int, metadata: dict[str, str], is_cut: bool
) -> Record | Reject:
    place = Place(piece.path, 0, 1, offset)
    try:
        return Record(data.decode(), place, len(data), metadata, is_cut)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        place = Place(piece.path, 0, line, offset + error.start)
        detail = f"byte {offset + error.start} of the file is not UTF-8"
        return rejected("invalid_utf8", detail, place, len(data), data[error.start :])
