"""Web pages to text: the encoding of the page, then its main content.

Resiliparse's main-content rules are fast; trafilatura (extra `html`) is stricter and far slower. What either
gives hangs on its version, which `constraints.txt` pins.
"""

from __future__ import annotations

import codecs
import importlib.util
import re
from collections.abc import Iterator

from cluster.errors import UserError
from data_jobs.reading.missing import Unusable
from data_jobs.reading.raw_bytes import DamagedFile, Piece, Reading, read_blocks
from data_jobs.reading.records import Place, Record, Reject, rejected
from data_jobs.reading.source_settings import SourceSettings

MAX_BYTES = 16 << 20
"""Of a page: a crawl keeps about one MiB of each."""
MAX_DEPTH = 2000
"""Elements inside of each other. Browsers stop at 512; extraction takes a time that grows with the square."""
_TAG = re.compile(rb"<(/?)([a-zA-Z][^\s/>]*)")
# What is not closed by its own tag, or not nested by the parser however often it is opened.
_FLAT = frozenset(
    b"area base br col embed hr img input link meta param source track wbr "
    b"p li dt dd tr td th thead tbody tfoot colgroup caption option optgroup rt rp html head body "
    b"a b big code em font i nobr s small strike strong tt u".split()
)


def check_extractor(source: SourceSettings) -> None:
    """UserError where the extractor that a source wants is not installed."""
    if source.extractor == "trafilatura" and importlib.util.find_spec("trafilatura") is None:
        raise UserError(
            f"source '{source.name}': extractor trafilatura is not installed: make setup EXTRAS=dev,html, or "
            "choose extractor: resiliparse"
        )


def page_text(data: bytes, charset: str | None, extractor: str) -> str:
    """The main text of a page; empty where it has none. `charset`: what came with it, if anything did.

    Raises Unusable where it is too long or nested too deeply to be taken apart.
    """
    if len(data) > MAX_BYTES:
        raise Unusable("too_long", f"the page has more than {MAX_BYTES:,} bytes")
    if (depth := depth_of(data)) > MAX_DEPTH:
        raise Unusable("too_nested", f"{depth:,} elements inside of each other")
    html = decode_page(data, charset)
    if extractor == "trafilatura":
        import trafilatura

        text = trafilatura.extract(html, include_comments=False, include_tables=True) or ""
    else:
        from resiliparse.extract.html2text import extract_plain_text

        text = extract_plain_text(html, main_content=True, preserve_formatting=True, alt_texts=False)
    return text.encode("utf-8", "replace").decode()  # no half of a surrogate pair


def depth_of(data: bytes) -> int:
    """How many elements stand inside of each other at most; an estimate, 0 where it cannot be `MAX_DEPTH`."""
    if data.count(b"<") - data.count(b"</") <= MAX_DEPTH:
        return 0
    depth = most = 0
    for closing, name in _TAG.findall(data):
        if name.lower() not in _FLAT:
            depth = max(0, depth - 1) if closing else depth + 1
            most = max(most, depth)
    return most


def decode_page(data: bytes, charset: str | None) -> str:
    """A page's bytes as text: by its byte order mark, what came with it, UTF-8, what it says, or a guess.

    Bytes that the encoding has not become U+FFFD: pages that break their own encoding are usual.
    """
    from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

    for mark, codec in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if data.startswith(mark):
            return data[len(mark) :].decode(codec, "replace")
    name: str | None
    if charset and _is_known(charset):
        name = map_encoding_to_html5(charset)
    else:
        try:
            return data.decode()
        except UnicodeDecodeError:
            name = detect_encoding(data, from_html_meta=True)
    return data.decode(name if name and _is_known(name) else "utf-8", "replace")


def read_page(
    piece: Piece, reading: Reading, source: SourceSettings, max_bytes: int
) -> Iterator[Record | Reject]:
    """A file as one page. One of more than four times `max_bytes` is a reject: a page is taken as a whole."""
    parts, size = [], 0
    place = Place(piece.path, 0, 1, 0)
    try:
        for block in read_blocks(piece, reading):
            size += len(block)
            if size <= 4 * max_bytes:
                parts.append(block)
    except DamagedFile as error:
        reading.damage = str(error)
        yield rejected("damaged_file", reading.damage, place, size, b"".join(parts[:1]))
        return
    reading.lines = 1
    if size > 4 * max_bytes:
        yield rejected("too_long", f"the page has {size:,} bytes", place, size, parts[0] if parts else b"")
        return
    try:
        text = page_text(b"".join(parts), None, source.extractor)
    except Unusable as problem:
        yield rejected(problem.reason, problem.detail, place, size, parts[0])
        return
    reading.bytes_added += max(0, len(text.encode()) - size)
    yield Record(text, place, size, {"path": piece.name})


def _is_known(encoding: str) -> bool:
    try:
        codecs.lookup(encoding)
    except (LookupError, ValueError):
        return False
    return True
