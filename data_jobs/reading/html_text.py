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
"""Elements inside of each other. Browsers stop at 512."""
MAX_LEVELS = 10_000_000
"""Sum over all elements of those that each stands in: extraction goes through them for each, and indents a
list by two blanks for each list around it."""
_TAG = re.compile(rb"<(/?)([a-zA-Z][^\s/>]*)([^>]*)")
# What ends by itself, or where the next one begins.
_INLINE = frozenset(b"area base br col embed hr img input link meta param source track wbr a nobr".split())
_FLAT = frozenset(
    b"p li dt dd tr td th thead tbody tfoot colgroup caption option optgroup rt rp html head body".split()
)
# What stays open when the element around it ends, and is opened again in the next one; of equal ones three.
_FORMAT = frozenset(b"b big code em font i s small strike strong tt u".split())
_FORMATS = re.compile(rb"<(/?)(%b)(?=[\s/>])" % b"|".join(sorted(_FORMAT)), re.IGNORECASE)
_REOPENED = 3


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
    depth, levels = nesting_of(data)
    if depth > MAX_DEPTH:
        raise Unusable("too_nested", f"{depth:,} elements inside of each other")
    if levels > MAX_LEVELS:
        raise Unusable("too_nested", f"its elements stand in {levels:,} others, all added up")
    html = decode_page(data, charset)
    if extractor == "trafilatura":
        import trafilatura

        text = trafilatura.extract(html, include_comments=False, include_tables=True) or ""
    else:
        from resiliparse.extract.html2text import extract_plain_text

        text = extract_plain_text(html, main_content=True, preserve_formatting=True, alt_texts=False)
    return text.encode("utf-8", "replace").decode()  # no half of a surrogate pair


def nesting_of(data: bytes) -> tuple[int, int]:
    """(how many elements stand inside of each other at most, the sum over all of how many each stands in).

    An estimate from the tags alone; zeros where their number says that it is neither `MAX_DEPTH` nor
    `MAX_LEVELS`.
    """
    opened = data.count(b"<") - data.count(b"</")
    if opened <= MAX_DEPTH and opened * opened * (1 + _most_formats(data)) <= MAX_LEVELS:
        return 0, 0
    depth = most = levels = 0
    left_open: dict[bytes, list[bytes]] = {name: [] for name in _FORMAT}
    formats = 0
    for closing, name, attributes in _TAG.findall(data):
        name = name.lower()
        if name in _FORMAT:
            held = left_open[name]
            if closing and held:
                held.pop()
                formats -= 1
            elif not closing and held.count(attributes) < _REOPENED:
                held.append(attributes)
                formats += 1
                levels += depth + formats
        elif closing:
            if name not in _FLAT and name not in _INLINE:
                depth = max(0, depth - 1)
        elif name in _INLINE:
            levels += depth + formats
        else:
            levels += depth + formats * (depth + formats // 2)
            if name not in _FLAT:
                depth += 1
                most = max(most, depth)
    return most, levels


def _most_formats(data: bytes) -> int:
    """How many of `_FORMAT` are open at once at most."""
    left_open = dict.fromkeys(_FORMAT, 0)
    count = most = 0
    for closing, name in _FORMATS.findall(data):
        name = name.lower()
        if not closing:
            left_open[name] += 1
            count += 1
            most = max(most, count)
        elif left_open[name]:
            left_open[name] -= 1
            count -= 1
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
