"""Cleaning of one text: line ends, control characters, Unicode form.

Order: CRLF and CR to LF, control characters out, then the normalisation form.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

# C0 without tab and newline, DEL, C1, and the two code points that Unicode never assigns.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]")


def clean_text(text: str, form: Literal["NFC", "none"], control_characters: Literal["remove", "keep"]) -> str:
    """The cleaned text; empty where only blanks are left."""
    if control_characters == "remove":
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        text = _CONTROL.sub("", text)
    if form == "NFC" and not text.isascii() and not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    return "" if text.isspace() else text


def cut_text(text: str, max_bytes: int) -> list[str]:
    """The text in pieces of at most `max_bytes` UTF-8 bytes, cut after a newline where there is one."""
    data = text.encode()
    if len(data) <= max_bytes:
        return [text]
    return [piece.decode() for piece in cut_bytes(data, max_bytes)]


def cut_bytes(data: bytes, max_bytes: int) -> list[bytes]:
    """UTF-8 bytes in pieces of at most `max_bytes`, none of which cuts a character."""
    pieces = []
    start = 0
    while len(data) - start > max_bytes:
        stop = data.rfind(b"\n", start, start + max_bytes) + 1
        if stop <= start:
            stop = start + max_bytes
            while stop > start + 1 and data[stop] & 0xC0 == 0x80:
                stop -= 1
        pieces.append(data[start:stop])
        start = stop
    return [*pieces, data[start:]]
