"""Kernel that finds the sentence ends of a batch of texts in one pass over their bytes."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from data_jobs.kernel_cache import fingerprint, renew, source_of
from data_jobs.utf8_kernel import code_at

BLANK, WORD, SMALL, SPACED, CLOSED, CLOSING = 1, 2, 4, 8, 16, 32
"""Bits of `kinds`: white space, letters and digits, small letters, marks that end a sentence where a blank
follows, marks that end it at once, quotes and brackets that belong to the sentence before."""

# Unicode's sentence terminals: those followed by a blank in their scripts, then those that are not.
_MARKS = {
    SPACED: ".!?…‼⁇⁈⁉؟۔܀։߹।॥᙮፧፨។៕᭚᭛᱾᱿",
    CLOSED: "。！？．｡︒﹒﹖﹗၊။",
    CLOSING: "\"'”’»)]}」』】）》〉",
}
NO_SMALL_FROM = 0x20000
"""No small letter stands from here on in Unicode."""
_MODIFIERS = ("async", "export", "public", "private", "protected", "static", "pub", "abstract", "final")
_DEFINITIONS = ("def", "class", "func", "fn", "function", "interface", "struct", "impl", "enum")
_WORDS = [word.encode() for word in (*_MODIFIERS, *_DEFINITIONS)]
_FIRST_DEFINITION, _LONGEST = len(_MODIFIERS), max(map(len, _WORDS))
_LETTERS = np.frombuffer(b"".join(_WORDS), np.uint8)
_WORD_AT = np.cumsum([0, *map(len, _WORDS)])

Array = npt.NDArray[Any]


@functools.cache
def kinds() -> npt.NDArray[np.uint8]:
    """[code point]: the bits above; white space and letters as Python's regular expressions have them."""
    table = np.zeros(0x110000, np.uint8)
    everything = np.arange(len(table), dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    for bit, pattern in ((BLANK, r"\s+"), (WORD, r"\w+")):
        for run in re.finditer(pattern, everything):
            table[run.start() : run.end()] |= bit
    small = [code for code in range(NO_SMALL_FROM) if everything[code].islower()]
    table[small] |= SMALL
    for bit, marks in _MARKS.items():
        table[list(map(ord, marks))] |= bit
    return table


@njit(nogil=True)
def _after(data: Array, at: int, stop: int, kinds: Array, bit: int) -> int:
    """Where the run of characters of a kind that begins here ends."""
    while at < stop:
        code, after = code_at(data, at)
        if kinds[code] & bit == 0:
            break
        at = after
    return at


@njit(nogil=True)
def _word_number(data: Array, at: int, stop: int) -> int:
    """Which of the words above stands here; -1: none."""
    for number in range(len(_WORD_AT) - 1):
        begin = _WORD_AT[number]
        if _WORD_AT[number + 1] - begin == stop - at:
            same = True
            for place in range(stop - at):
                if _LETTERS[begin + place] != data[at + place]:
                    same = False
                    break
            if same:
                return number
    return -1


@njit(nogil=True)
def _definition(data: Array, at: int, stop: int, kinds: Array) -> tuple[bool, int]:
    """Does a definition begin here, after any modifiers? And the word that decided it."""
    while at < stop:
        if data[at] == 64:  # @
            return _after(data, at + 1, stop, kinds, WORD) > at + 1, at
        end = at
        while end < stop and end - at <= _LONGEST:
            code, after = code_at(data, end)
            if kinds[code] & WORD == 0:
                break
            end = after
        number = _word_number(data, at, end)
        if number < 0 or number >= _FIRST_DEFINITION:
            return number >= 0, at
        after = _after(data, end, stop, kinds, BLANK)
        if after == end:
            return False, at
        at = after
    return False, at


@njit(nogil=True)
def _is_initial(data: Array, start: int, point: int, kinds: Array) -> bool:
    """One capital letter before the point: an initial ("J. Smith"), not an end."""
    if point - 1 < start or data[point - 1] < 65 or data[point - 1] > 90:
        return False
    if point - 1 == start or data[point - 2] == 40:  # (
        return True
    before = point - 2
    while before > start and data[before] & 0xC0 == 0x80:
        before -= 1
    code, _ = code_at(data, before)
    return kinds[code] & BLANK != 0


@njit("int64(uint8[::1], int64[::1], boolean, uint8[::1], int64[::1], int64[::1])", cache=True, nogil=True)
def find_ends(
    data: Array, bounds: Array, is_code: bool, kinds: Array, ends: Array, end_bounds: Array
) -> np.int64:
    """Write the ends of all sentences, each in the bytes of its text, and at which each text begins.

    Returns how many there are; `ends` needs room for one for each byte.
    """
    count = np.int64(0)
    decided, is_definition = np.int64(-1), False
    end_bounds[0] = 0
    for text in range(len(bounds) - 1):
        start, stop = bounds[text], bounds[text + 1]
        at, last = start, start
        while at < stop:
            code, after = code_at(data, at)
            kind = kinds[code]
            found = np.int64(-1)
            if kind & BLANK != 0:
                end, lines = at, 0
                while kind & BLANK != 0:
                    lines += code == 10
                    end = after
                    if end >= stop:
                        break
                    code, after = code_at(data, end)
                    kind = kinds[code]
                if lines > 1:
                    found = at
                elif lines == 1 and is_code:
                    # A chain of modifiers is decided once for all line ends in it.
                    if end > decided:
                        is_definition, decided = _definition(data, end, stop, kinds)
                    if is_definition:
                        found = at
                at = end
            elif is_code or kind & (SPACED | CLOSED) == 0:
                at = after
            elif kind & CLOSED != 0:
                end = _after(data, at, stop, kinds, CLOSED)
                found = at = _after(data, end, stop, kinds, CLOSING)
            else:
                marks = _after(data, at, stop, kinds, SPACED)
                end = _after(data, marks, stop, kinds, CLOSING)
                next_word = _after(data, end, stop, kinds, BLANK)
                if next_word > end or end == stop:
                    goes_on = False
                    if next_word < stop:
                        code, after = code_at(data, next_word)
                        goes_on = kinds[code] & SMALL != 0
                    if not goes_on and end - at == 1 and data[at] == 46:
                        goes_on = _is_initial(data, start, at, kinds)
                    if not goes_on:
                        found = end
                    at = end
                else:
                    at = marks
            if found > last:
                ends[count] = found - start
                count += 1
                last = found
        if stop > last:
            ends[count] = stop - start
            count += 1
        end_bounds[text + 1] = count
    return count


_MADE_FOR = fingerprint(source_of(code_at))


@njit("int64()", cache=True)
def _compiled_for() -> int:
    return _MADE_FOR


renew(_compiled_for, _MADE_FOR, [find_ends])
