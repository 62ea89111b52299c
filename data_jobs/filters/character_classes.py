"""What each character is to the filters: a table of bits by code point.

Letters, digits and punctuation are those of Python's Unicode tables; the rest is listed here. Chinese,
Japanese and Korean are written without blanks (or, Korean, with long words), so each of their characters
counts as a word, and their punctuation belongs to no word.
"""

from __future__ import annotations

import functools
import unicodedata

import numpy as np
import numpy.typing as npt

BLANK = 1
NEWLINE = 2
LETTER = 4
DIGIT = 8
CJK = 16
"""Han, Kana, Hangul, Bopomofo; always a LETTER too."""
WIDE = 32
"""Punctuation of these scripts."""
PUNCTUATION = 64
"""Marks and symbols of any kind."""
CLOSER = 128
"""Quotes and brackets that may stand between a sentence's end and the blank after it."""
SENTENCE_END = 256
LINE_END = 512
"""What a line of prose ends with: an end of a sentence, or an end quotation mark (Raffel et al. 2020)."""
BULLET = 1024
DASH = 2048
"""A bullet only where it stands alone."""

TABLE_SIZE = 0x20000
"""Code points from here on are CJK up to `LAST_HAN`, and nothing beyond."""
LAST_HAN = 0x323AF

_CJK_RANGES = (
    (0x1100, 0x11FF), (0x3005, 0x3007), (0x3021, 0x3029), (0x3041, 0x3096), (0x309D, 0x309F), (0x30A1,
    0x30FA),
    (0x30FC, 0x30FF), (0x3105, 0x312F), (0x3131, 0x318E), (0x31A0, 0x31BF), (0x31F0, 0x31FF), (0x3400,
    0x4DBF),
    (0x4E00, 0x9FFF), (0xA960, 0xA97C), (0xAC00, 0xD7A3), (0xD7B0, 0xD7FB), (0xF900, 0xFAFF), (0xFF66,
    0xFF9D),
    (0xFFA1, 0xFFDC), (0x1B000, 0x1B16F),
)  # fmt: skip
_WIDE_RANGES = (
    (0x3001, 0x3004), (0x3008, 0x3020), (0x3030, 0x3030), (0x303D, 0x303F), (0x30A0, 0x30A0), (0x30FB,
    0x30FB),
    (0xFE30, 0xFE4F), (0xFF01, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF65),
)  # fmt: skip
_LISTED = {
    SENTENCE_END: ".!?。！？．｡‼⁇⁈⁉؟۔।॥։።",
    LINE_END: ".!?。！？．｡‼⁇⁈⁉؟۔।॥։።\"'”’»」』",
    CLOSER: "\"'”’»›)]}」』】）》〉〕］｝",
    BULLET: "•‣◦●○▪▫■□▶►❖➢⁃∙",
    DASH: "-*–—·",
}


@functools.lru_cache(maxsize=1)
def class_table() -> npt.NDArray[np.uint16]:
    """Bits of each code point below TABLE_SIZE."""
    table = np.zeros(TABLE_SIZE, np.uint16)
    for point in range(TABLE_SIZE):
        kind = unicodedata.category(chr(point))
        if kind[0] == "L":
            table[point] = LETTER
        elif kind[0] == "N":
            table[point] = DIGIT
        elif kind[0] in "PS":
            table[point] = PUNCTUATION
        if chr(point).isspace():
            table[point] = BLANK
    table[ord("\n")] = NEWLINE
    for low, high in _CJK_RANGES:
        table[low : high + 1] = CJK | LETTER
    for low, high in _WIDE_RANGES:
        table[low : high + 1] = WIDE | PUNCTUATION
    for bit, characters in _LISTED.items():
        for character in characters:
            table[ord(character)] |= bit
    return table
