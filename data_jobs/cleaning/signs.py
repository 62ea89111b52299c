"""Which signs of something to clean a text has, in one pass over its bytes by a compiled kernel.

A sign is a necessary condition: what has none is not searched by the slower patterns of `cleaning_blanks.py`
and `cleaning_private.py`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

import data_jobs.kernel_cache  # noqa: F401 (it says when something is compiled)

BLANK_RUN = 1
"""Two ASCII blanks in a row, the first of them after something in its line."""
TRAILING = 2
"""An ASCII blank before a newline or the end."""
EMPTY_LINES = 4
"""Four newlines with nothing but ASCII blanks between."""
WIDE_BLANK = 8
"""A blank beyond ASCII."""
AT = 16
DIGITS = 32
"""Seven digits, with nothing but " ().-/" between."""
QUAD = 64
"""Three dots in a row of digits and dots."""
COLONS = 128
"""Two colons in a row of hexadecimal digits and colons."""
TOKEN = 256
"""Twenty letters, digits and +/_- in a row."""
ASSIGNED = 512
"""Such a row at most five bytes after = or : ."""

_MARK, _DIGIT, _HEX, _WORD = 1, 2, 4, 8


def _classes() -> np.ndarray:
    table = np.zeros(256, np.uint8)
    for characters, bit in (
        (b" ().-/", _MARK),
        (b"0123456789", _DIGIT),
        (b"0123456789abcdefABCDEF", _HEX),
        (b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+/_-", _WORD),
    ):
        for byte in characters:
            table[byte] |= bit
    return table


_TABLE = _classes()


@njit("boolean(uint8[::1], int64)", cache=True, nogil=True)
def is_wide_blank(data, i):  # type: ignore[no-untyped-def]
    """Whether at a first byte one of U+00A0, U+1680, U+2000-200A, U+202F, U+205F, U+3000 begins."""
    if data[i] == 0xC2:
        return data[i + 1] == 0xA0
    if data[i] < 0xE1 or data[i] > 0xE3:
        return False
    b, c = data[i + 1], data[i + 2]
    if data[i] == 0xE2:
        return (b == 0x80 and (c <= 0x8A or c == 0xAF)) or (b == 0x81 and c == 0x9F)
    return (data[i] == 0xE1 and b == 0x9A and c == 0x80) or (data[i] == 0xE3 and b == 0x80 and c == 0x80)


@njit("int64(uint8[::1], uint8[::1])", cache=True, nogil=True)
def _signs(data, table):  # type: ignore[no-untyped-def]
    found = 0
    blanks = 0  # in a row
    is_begun = False  # the line, by something that is no blank
    newlines = 0  # with nothing but blanks between
    digits = dots = colons = token = 0
    assigned = -100
    for i in range(len(data)):
        b = data[i]
        kind = table[b]
        if b == 32 or b == 9:
            blanks += 1
            if blanks == 2 and is_begun:
                found |= BLANK_RUN
        elif b == 10:
            if blanks:
                found |= TRAILING
            blanks = 0
            is_begun = False
            newlines += 1
            if newlines == 4:
                found |= EMPTY_LINES
        else:
            blanks = 0
            newlines = 0
            is_begun = True
            if b >= 0xC2:
                if is_wide_blank(data, i):
                    found |= WIDE_BLANK
            elif b == 64:
                found |= AT
        if kind & _WORD:
            token += 1
            if token == 20:
                found |= TOKEN
                if i - 19 - assigned <= 5:
                    found |= ASSIGNED
        else:
            token = 0
            if b == 61 or b == 58:
                assigned = i
        if kind & _DIGIT:
            digits += 1
            if digits == 7:
                found |= DIGITS
        elif not kind & _MARK:
            digits = 0
        if b == 46:
            dots += 1
            if dots == 3:
                found |= QUAD
        elif not kind & _DIGIT:
            dots = 0
        if b == 58:
            colons += 1
            if colons == 2:
                found |= COLONS
        elif not kind & _HEX:
            colons = 0
    if blanks:
        found |= TRAILING
    return found


class Signs:
    """Remembers the text that it was asked about last: steps that change nothing ask about the same one."""

    def __init__(self) -> None:
        self._text = ""
        self._found = 0

    def of(self, text: str) -> int:
        """The bits of a text."""
        if text is not self._text:
            self._text = text
            # A bytearray, because the kernel takes no read-only arrays.
            self._found = (
                int(_signs(np.frombuffer(bytearray(text, "utf-8"), np.uint8), _TABLE)) if text else 0
            )
        return self._found
