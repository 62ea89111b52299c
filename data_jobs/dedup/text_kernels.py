"""Compiled loops over the UTF-8 of Arrow buffers: words, n-grams of words, MinHash, lines, paragraphs.

A word is a run of letters and digits, ASCII letters in lower case; a character of a script that is written
without spaces is a word of its own. Everything else only parts words. So texts that differ in case,
punctuation and blanks have the same words.

All in one file but for the decoder: numba's cache of a kernel knows when its own file changed, and of no
other one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, types

from data_jobs.kernel_cache import fingerprint, renew, source_of
from data_jobs.utf8_kernel import code_at

Bytes = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]

_SEPARATOR, _LETTER, _ALONE = 0, 1, 2

# Lower-cased letters and digits stand for themselves, 1 for a byte of a character outside of ASCII.
_FOLD = np.array(
    [1 if b >= 128 else ord(chr(b).lower()) if chr(b).isalnum() else 0 for b in range(256)], np.uint8
)
# numba makes a float of int64 with uint64, so all constants that meet 64-bit hashes are typed.
_OFFSET = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)  # with the offset above: FNV-1a
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, of the rolling polynomial
_C1 = np.uint64(0xBF58476D1CE4E5B9)
_C2 = np.uint64(0x94D049BB133111EB)
_27, _30, _31, _32 = (np.uint64(n) for n in (27, 30, 31, 32))
_1 = np.uint64(1)
_EMPTY = np.uint32(0xFFFFFFFF)

_bytes = types.Array(types.uint8, 1, "C", readonly=True)
_offsets = types.Array(types.int64, 1, "C", readonly=True)
_hashes = types.Array(types.uint64, 1, "C", readonly=True)


def kind_of(code: int) -> int:
    """What a code point from U+0080 on is: 0 parts words, 1 a letter of one, 2 a word of its own."""
    if code < 0x2000:
        if code < 0xC0:
            return _LETTER if code == 0xAA or code == 0xB5 or code == 0xBA else _SEPARATOR
        if code == 0xD7 or code == 0xF7:
            return _SEPARATOR
        thai_lao, myanmar, khmer = 0xE00 <= code < 0xF00, 0x1000 <= code < 0x10A0, 0x1780 <= code < 0x1800
        return _ALONE if thai_lao or myanmar or khmer else _LETTER
    if code < 0x2C00:  # punctuation, arrows, mathematics, boxes
        return _SEPARATOR
    if code < 0x2E80:
        return _SEPARATOR if code >= 0x2E00 else _LETTER
    if code < 0xA4D0:  # radicals, kana, bopomofo, Han, Yi; among them CJK punctuation
        punctuation = 0x3000 <= code < 0x3040 and not 0x3005 <= code <= 0x3007
        return _SEPARATOR if punctuation or code == 0x30FB else _ALONE
    if code < 0xAC00:
        return _LETTER
    if code < 0xD800 or 0xF900 <= code < 0xFB00:  # Hangul, Han for compatibility
        return _ALONE
    if 0xFE10 <= code < 0xFE70:
        return _SEPARATOR
    if 0xFF00 <= code < 0xFFF0:
        if code >= 0xFF66:
            return _ALONE if code < 0xFFE0 else _SEPARATOR
        digit, capital, small = code - 0xFF10 < 10, code - 0xFF21 < 26, code - 0xFF41 < 26
        inside = (code >= 0xFF10 and digit) or (code >= 0xFF21 and capital) or (code >= 0xFF41 and small)
        return _LETTER if inside else _SEPARATOR
    if code < 0x20000:
        return _SEPARATOR if 0x1F000 <= code < 0x1FB00 else _LETTER
    return _ALONE if code < 0x40000 else _SEPARATOR


def words_of(text: str) -> list[str]:
    """The words of a text, in plain Python: what the kernels hash."""
    words: list[str] = []
    held = ""
    for character in text:
        code = ord(character)
        kind = kind_of(code) if code >= 128 else _LETTER if _FOLD[code] else _SEPARATOR
        if kind == _LETTER:
            held += chr(_FOLD[code]) if code < 128 else character
            continue
        if held:
            words.append(held)
            held = ""
        if kind == _ALONE:
            words.append(character)
    return [*words, held] if held else words


_kind_of = njit(nogil=True)(kind_of)


@njit(nogil=True)
def _mix(x: Any) -> Any:
    """The splitmix64 finalizer, as `hashes.mix`."""
    x = (x ^ (x >> _30)) * _C1
    x = (x ^ (x >> _27)) * _C2
    return x ^ (x >> _31)


@njit(nogil=True)
def _next_word(values: Bytes, at: int, stop: int) -> Any:
    """(where to go on, hash of the next word, whether there was one)."""
    word = _OFFSET
    begun = False
    while at < stop:
        folded = _FOLD[values[at]]
        if folded > 1:
            word = (word ^ np.uint64(folded)) * _PRIME
            begun = True
            at += 1
        elif folded == 0:
            at += 1
            if begun:
                break
        else:
            code, after = code_at(values, at)
            kind = _kind_of(code)
            if begun and kind == _ALONE:
                break
            if kind != _SEPARATOR:
                for k in range(at, after):
                    word = (word ^ np.uint64(values[k])) * _PRIME
            at = after
            if kind == _ALONE:
                begun = True
                break
            if kind == _LETTER:
                begun = True
            elif begun:
                break
    return at, _mix(word), begun


@njit(nogil=True)
def _power(ngram: int) -> Any:
    power = _1
    for _ in range(ngram):
        power *= _BASE
    return power


@njit(nogil=True)
def _shingles(
    values: Bytes, at: int, stop: int, ngram: int, power: Any, short: bool, ring: Array, out: Array
) -> int:
    """Write the hash of each n-gram of words to `out`; how many. With `short` fewer words are one n-gram.

    The hash is a polynomial of the words' hashes that rolls over them (Karp, Rabin 1987), mixed at the end.
    """
    total = np.uint64(0)
    words = 0
    slot = 0
    found = 0
    while True:
        at, word, begun = _next_word(values, at, stop)
        if not begun:
            break
        total = total * _BASE + word
        if words >= ngram:
            total -= ring[slot] * power
        ring[slot] = word
        slot = slot + 1 if slot + 1 < ngram else 0
        words += 1
        if words >= ngram:
            out[found] = _mix(total)
            found += 1
    if short and 0 < words < ngram:
        out[0] = _mix(total)
        found = 1
    return found


@njit(nogil=True)
def _lower(minima: Array, a: Array, b: Array, found: Array, count: int) -> None:
    """Lower each minimum by `count` hashes, eight at a time, so that a minimum is loaded once for eight."""
    for k in range(0, count, 8):
        x0 = np.uint32(found[k] >> _32)
        x1 = np.uint32(found[min(k + 1, count - 1)] >> _32)
        x2 = np.uint32(found[min(k + 2, count - 1)] >> _32)
        x3 = np.uint32(found[min(k + 3, count - 1)] >> _32)
        x4 = np.uint32(found[min(k + 4, count - 1)] >> _32)
        x5 = np.uint32(found[min(k + 5, count - 1)] >> _32)
        x6 = np.uint32(found[min(k + 6, count - 1)] >> _32)
        x7 = np.uint32(found[min(k + 7, count - 1)] >> _32)
        for i in range(len(minima)):
            low = minima[i]
            low = min(low, np.uint32(a[i] * x0 + b[i]))
            low = min(low, np.uint32(a[i] * x1 + b[i]))
            low = min(low, np.uint32(a[i] * x2 + b[i]))
            low = min(low, np.uint32(a[i] * x3 + b[i]))
            low = min(low, np.uint32(a[i] * x4 + b[i]))
            low = min(low, np.uint32(a[i] * x5 + b[i]))
            low = min(low, np.uint32(a[i] * x6 + b[i]))
            low = min(low, np.uint32(a[i] * x7 + b[i]))
            minima[i] = low


@njit(nogil=True)
def _longest(offsets: Array) -> int:
    longest = 0
    for d in range(len(offsets) - 1):
        longest = max(longest, offsets[d + 1] - offsets[d])
    return longest


_permutation = types.Array(types.uint32, 1, "C", readonly=True)


@njit(
    types.void(
        _bytes, _offsets, types.int64, _permutation, _permutation, types.uint8[:, ::1], types.int64[::1]
    ),
    cache=True,
    nogil=True,
)
def sign_texts(
    values: Bytes, offsets: Array, ngram: int, a: Array, b: Array, signatures: Bytes, counts: Array
) -> None:
    """MinHash of each text (Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, ch. 3.3).

    The i-th permutation is x -> a[i] * x + b[i] modulo 2^32 with odd a[i], of the upper half of an n-gram's
    hash: 32-bit lanes, which a compiler turns into vectors. Of each minimum 8 mixed bits are kept (b-bit
    minwise hashing, Li and König 2010): `signatures[d, i]`. `counts[d]`: n-grams of the text, equal ones
    counted again.
    """
    room = _longest(offsets) // 2 + 1  # a word takes a byte and a separator, or two and more
    found = np.empty(room, np.uint64)
    ring = np.empty(ngram, np.uint64)
    minima = np.empty(len(a), np.uint32)
    power = _power(ngram)
    for d in range(len(offsets) - 1):
        count = _shingles(values, offsets[d], offsets[d + 1], ngram, power, True, ring, found)
        minima[:] = _EMPTY
        _lower(minima, a, b, found, count)
        counts[d] = count
        for i in range(len(a)):
            signatures[d, i] = np.uint8(_mix(np.uint64(minima[i]) + np.uint64(i) * _BASE) >> np.uint64(56))


@njit(
    types.int64(_bytes, types.int64, types.int64, types.int64, types.boolean, types.uint64[::1]),
    cache=True,
    nogil=True,
)
def hash_shingles(values: Bytes, start: int, stop: int, ngram: int, short: bool, out: Array) -> int:
    """The n-gram hashes of one text in their order, into `out` of (stop - start) // 2 + 1; how many."""
    ring = np.empty(ngram, np.uint64)
    return _shingles(values, start, stop, ngram, _power(ngram), short, ring, out)


@njit(
    types.void(_bytes, _offsets, types.int64, _hashes, _bytes, types.int64[::1]),
    cache=True,
    nogil=True,
)
def count_known(values: Bytes, offsets: Array, ngram: int, known: Array, bits: Bytes, hits: Array) -> None:
    """How many n-grams of each text stand in the sorted `known`.

    `bits` is a table of bits, a power of two many, with one set for each of `known` at its lowest bits: most
    n-grams stand in no evaluation text, and cost one look at it.
    """
    found = np.empty(_longest(offsets) // 2 + 1, np.uint64)
    ring = np.empty(ngram, np.uint64)
    power = _power(ngram)
    mask = np.uint64(8 * len(bits) - 1)
    for d in range(len(offsets) - 1):
        count = _shingles(values, offsets[d], offsets[d + 1], ngram, power, False, ring, found)
        hits[d] = 0
        for k in range(count):
            bit = found[k] & mask
            if bits[np.int64(bit >> np.uint64(3))] >> np.uint8(bit & np.uint64(7)) & np.uint8(1):
                low, high = 0, len(known)
                while low < high:
                    middle = (low + high) // 2
                    if known[middle] < found[k]:
                        low = middle + 1
                    else:
                        high = middle
                if low < len(known) and known[low] == found[k]:
                    hits[d] += 1


@njit(nogil=True)
def _end_of_line(values: Bytes, at: int, stop: int) -> tuple[int, bool]:
    """Where the next line begins, and whether this one holds more than blanks."""
    filled = False
    while at < stop:
        byte = values[at]
        at += 1
        if byte == 10:
            break
        if byte != 32 and byte != 9:
            filled = True
    return at, filled


@njit(nogil=True)
def _end_of_unit(values: Bytes, at: int, stop: int, paragraphs: bool) -> int:
    """The end of the line or paragraph that begins here; a paragraph takes blank lines behind it along."""
    at, filled = _end_of_line(values, at, stop)
    if not paragraphs:
        return at
    blank = not filled
    while at < stop:
        following, filled = _end_of_line(values, at, stop)
        if filled and blank:
            break
        blank = blank or not filled
        at = following
    return at


@njit(
    types.int64(
        _bytes, _offsets, types.boolean, types.int64, types.uint64[::1], types.int64[::1], types.int64[:, ::1]
    ),
    cache=True,
    nogil=True,
)
def hash_units(
    values: Bytes,
    offsets: Array,
    paragraphs: bool,
    least: int,
    hashes: Array,
    documents: Array,
    spans: Array,
) -> int:
    """Lines, or paragraphs, of `least` words: hash of the words, number of the text, span of bytes; how many.

    A paragraph ends at a blank line. The arrays have room for a unit a line (newlines + texts).
    """
    units = 0
    for d in range(len(offsets) - 1):
        at, stop = offsets[d], offsets[d + 1]
        while at < stop:
            end = _end_of_unit(values, at, stop, paragraphs)
            total = np.uint64(0)
            words = 0
            place = at
            while True:
                place, word, begun = _next_word(values, place, end)
                if not begun:
                    break
                total = total * _BASE + word
                words += 1
            if words >= least:
                hashes[units] = _mix(total)
                documents[units] = d
                spans[units, 0], spans[units, 1] = at, end
                units += 1
            at = end
    return units


_MADE_FOR = fingerprint(source_of(code_at))


@njit("int64()", cache=True)
def _compiled_for() -> int:
    return _MADE_FOR


renew(_compiled_for, _MADE_FOR, [sign_texts, hash_shingles, count_known, hash_units])
