"""WARC and WET files of web crawls to records.

Of a WARC file the HTML pages with status 200 are documents, of a WET file the `conversion` records. All
other records are counted and left out, with the reason: `other_record` (requests, metadata and the like),
`not_html`, `http_status`. What is no record, or says a wrong length, is a reject, and reading goes on at the
next record. A compressed file is one task: where its members begin is known only to who reads it from the
front.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from data_jobs.reading.html_text import MAX_BYTES, page_text
from data_jobs.reading.missing import HTTP_STATUS, NOT_HTML, OTHER_RECORD, FieldRules, Unusable
from data_jobs.reading.raw_bytes import BLOCK_BYTES, BlockFile, Piece, Reading, read_blocks
from data_jobs.reading.records import Place, Record, Reject, rejected

_BEGIN = b"WARC/1."
_NEXT = b"\nWARC/1."
_HEADER_BYTES = 64 << 10
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_PLAIN = re.compile(rb"(?:\xef\xbb\xbf)?\s*<[!?a-zA-Z]")
"""How a page begins that is in no encoding."""
_NAMES = {"url": "warc-target-uri", "date": "warc-date"}
_HTML = ("text/html", "application/xhtml+xml")


@dataclass
class WarcRecord:
    """One record as it stands in the file."""

    headers: dict[str, str]
    """By name in small letters."""
    data: bytes
    """All of it, headers included."""
    body_at: int
    size: int
    """Bytes up to the next record."""

    @property
    def body(self) -> bytes:
        return self.data[self.body_at :]


def read_warc(
    piece: Piece, reading: Reading, rules: FieldRules, format: str, extractor: str, max_bytes: int
) -> Iterator[Record | Reject]:
    """The documents of a file, and a reject for each other record."""
    for item in _split(piece, reading, 4 * max_bytes):
        if isinstance(item, Reject):
            yield item
            continue
        record, place = item
        try:
            text = _page(record, extractor) if format == "warc" else _conversion(record)
        except Unusable as problem:
            yield rejected(problem.reason, problem.detail, place, record.size, record.data)
            continue
        values = {name: record.headers.get(_NAMES.get(name, name.lower())) for name in rules.metadata}
        values["url"] = (values["url"] or "").strip("<>") or None
        values[rules.text_field] = text
        document = rules.record(values.get, True, place, record.size, record.data, (), reading)
        if isinstance(document, Record):
            reading.bytes_added += max(0, len(text.encode()) - record.size)
        yield document


def _page(record: WarcRecord, extractor: str) -> str:
    """The text of a response's page; raises Unusable where it is none."""
    kind = record.headers.get("warc-type", "").lower()
    if kind != "response":
        raise Unusable(OTHER_RECORD, f"a record of type '{kind}'")
    if not record.headers.get("content-type", "").lower().startswith("application/http"):
        raise Unusable(NOT_HTML, f"a response of type '{record.headers.get('content-type', '')}'")
    parsed = _parsed(record, "none")
    status = parsed.http_headers.status_code if parsed is not None and parsed.http_headers else None
    if parsed is None or status is None:
        raise Unusable("invalid_warc", "its HTTP header cannot be read")
    if status != 200:
        raise Unusable(HTTP_STATUS, f"status {status}")
    content_type = (parsed.http_content_type or "").lower()
    if content_type not in _HTML:
        raise Unusable(NOT_HTML, f"content of type '{content_type}'")
    return page_text(_body(record, parsed), parsed.http_charset, extractor)


def _parsed(record: WarcRecord, decode: Literal["none", "all"]) -> Any:
    """The record as FastWARC sees it, None where it sees none."""
    from fastwarc.warc import ArchiveIterator

    # One record alone: where it ends has been found, so a damaged one can spoil nothing after it.
    return next(iter(ArchiveIterator(io.BytesIO(record.data + b"\r\n\r\n"), auto_decode=decode)), None)


def _body(record: WarcRecord, parsed: Any) -> bytes:
    """The body of a response without the encodings that its header names; raises Unusable.

    No more of it than makes it too long: a few bytes can stand for gigabytes.
    """
    stored: bytes = parsed.reader.read(MAX_BYTES + 1)
    if not any(parsed.http_headers.get(name) for name in ("Content-Encoding", "Transfer-Encoding")):
        return stored
    try:
        decoded: bytes = _parsed(record, "all").reader.read(MAX_BYTES + 1)
        return decoded
    except OSError as error:  # FastWARC's only one, also for an encoding that it does not know
        # Many crawls store bodies decoded, and keep the headers of what was sent.
        if _PLAIN.match(stored):
            return stored
        reason = " ".join(str(error).split())[:100]
        raise Unusable("invalid_warc", f"its body is not what its HTTP header says: {reason}") from None


def _conversion(record: WarcRecord) -> str:
    kind = record.headers.get("warc-type", "").lower()
    if kind != "conversion":
        raise Unusable(OTHER_RECORD, f"a record of type '{kind}'")
    try:
        return record.body.decode()
    except UnicodeDecodeError as error:
        raise Unusable("invalid_utf8", f"byte {error.start} of the text is not UTF-8") from None


def _split(piece: Piece, reading: Reading, max_bytes: int) -> Iterator[tuple[WarcRecord, Place] | Reject]:
    """The records of a file with their places, each above the bound as a reject."""
    stream = _Stream(BlockFile(read_blocks(piece, reading)))
    while True:
        stream.skip_blanks()
        if not stream.fill(1):
            break
        reading.lines += 1
        place = Place(piece.path, 0, reading.lines, stream.offset)
        header_end = stream.find_header_end()
        headers = parse_headers(bytes(stream.held[:header_end]))
        length = headers.get("content-length", "")
        if not stream.held.startswith(_BEGIN) or not header_end or not re.fullmatch("[0-9]{1,18}", length):
            head = bytes(stream.held[:80])
            yield rejected("invalid_warc", "no header of a record", place, stream.to_next(), head)
            continue
        whole = header_end + int(length)
        if int(length) > max_bytes:
            head = bytes(stream.held[:80])
            skipped = stream.skip(whole)
            yield rejected("too_long", f"the record has {whole:,} bytes", place, skipped, head)
            continue
        if not stream.fill(whole):
            head = bytes(stream.held[:80])
            if stream.damage is not None:
                break
            if stream.find(_NEXT) >= 0:  # its length is wrong, and the file goes on inside of it
                yield rejected("invalid_warc", "a wrong length", place, stream.to_next(), head)
                continue
            yield rejected(
                "damaged_file", "the file ends inside of a record", place, stream.skip(whole), head
            )
            continue
        if stream.fill(whole + 1) and stream.held[whole] not in b"\r\n":
            head = bytes(stream.held[:80])
            yield rejected("invalid_warc", "a wrong length", place, stream.to_next(), head)
            continue
        yield WarcRecord(headers, stream.take(whole), header_end, whole), place
    if stream.damage is not None:
        reading.damage = stream.damage
        place = Place(piece.path, 0, reading.lines + 1, stream.offset)
        yield rejected("damaged_file", stream.damage, place, len(stream.held), bytes(stream.held[:80]))


def parse_headers(data: bytes) -> dict[str, str]:
    """The named fields of a record's header, by name in small letters, of equal names the first."""
    headers: dict[str, str] = {}
    for line in data.decode("utf-8", "replace").splitlines()[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().lower(), value.strip())
    return headers


class _Stream:
    """The front of a file in memory."""

    def __init__(self, file: BlockFile) -> None:
        self._file = file
        self.held = bytearray()
        self.offset = 0

    @property
    def damage(self) -> str | None:
        return self._file.damage

    def fill(self, size: int) -> bool:
        """Hold at least `size` bytes; False where there are not as many."""
        while len(self.held) < size:
            block = self._file.read(BLOCK_BYTES)
            if not block:
                return False
            self.held += block
        return True

    def take(self, size: int) -> bytes:
        data = bytes(self.held[:size])
        self.skip(size)
        return data

    def skip(self, size: int) -> int:
        """Leave out `size` bytes, fewer where the file ends; how many."""
        skipped = 0
        while skipped < size and self.fill(1):
            part = min(size - skipped, len(self.held))
            del self.held[:part]
            skipped += part
        self.offset += skipped
        return skipped

    def skip_blanks(self) -> None:
        while self.fill(1) and self.held[0] in b"\r\n":
            self.skip(len(self.held) - len(self.held.lstrip(b"\r\n")))

    def find_header_end(self) -> int:
        """Where the header at the front ends, blank line included; 0 where it does not."""
        self.fill(_HEADER_BYTES)
        found = _HEADER_END.search(self.held, 0, _HEADER_BYTES)
        return found.end() if found else 0

    def find(self, marker: bytes) -> int:
        """Where a marker stands in what is held, after its first byte; -1 where it does not."""
        return self.held.find(marker, 1)

    def to_next(self) -> int:
        """Go to where the next record seems to begin, or to the end; how many bytes were left out."""
        skipped = 0
        while (found := self.find(_NEXT)) < 0:
            more = len(self.held) + 1
            if not self.fill(more):
                return skipped + self.skip(len(self.held))
            if len(self.held) > 2 * BLOCK_BYTES:
                skipped += self.skip(len(self.held) - BLOCK_BYTES)
        return skipped + self.skip(found + 1)
