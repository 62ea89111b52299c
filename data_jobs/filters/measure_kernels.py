"""Kernels that measure documents in one pass over their UTF-8 bytes.

Compiled by numba when first imported (some seconds), then read from the cache beside this file. Texts are
valid UTF-8, one after the other in a buffer, with the offsets where each begins. Equal words, lines and
paragraphs are found by 64-bit hashes: two different ones of a document pass for equal about once in
2^64 / (their number)^2 documents.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from data_jobs.filters.character_classes import (
    BLANK,
    BULLET,
    CJK,
    CLOSER,
    DASH,
    DIGIT,
    LAST_HAN,
    LETTER,
    LINE_END,
    NEWLINE,
    SENTENCE_END,
    TABLE_SIZE,
    WIDE,
)
from data_jobs.filters.hash_kernels import FACTOR, START, find_repeats, mixed
from data_jobs.filters.measures import KEEP, Column
from data_jobs.kernel_cache import fingerprint, renew, source_of
from data_jobs.utf8_kernel import code_at

_HAN = CJK | LETTER
_ALNUM = LETTER | DIGIT
_STOPS = tuple(
    int.from_bytes(word, "little")
    for word in (b"the", b"be", b"to", b"of", b"and", b"that", b"have", b"with")
)

_CHARACTERS, _WORDS, _CJK_WORDS = int(Column.CHARACTERS), int(Column.WORDS), int(Column.CJK_WORDS)
_WORD_CHARACTERS, _ALPHABETIC = int(Column.WORD_CHARACTERS), int(Column.ALPHABETIC_WORDS)
_STOP_WORDS, _HASHES, _ELLIPSES = int(Column.STOP_WORDS), int(Column.HASHES), int(Column.ELLIPSES)
_BRACES, _LINES, _LINE_CHARACTERS = int(Column.BRACES), int(Column.LINES), int(Column.LINE_CHARACTERS)
_BULLET_LINES, _ELLIPSIS_LINES = int(Column.BULLET_LINES), int(Column.ELLIPSIS_LINES)
_DUP_LINES, _DUP_LINE_CHARACTERS = int(Column.DUPLICATE_LINES), int(Column.DUPLICATE_LINE_CHARACTERS)
_PARAGRAPHS, _DUP_PARAGRAPHS = int(Column.PARAGRAPHS), int(Column.DUPLICATE_PARAGRAPHS)
_DUP_PARAGRAPH_CHARACTERS = int(Column.DUPLICATE_PARAGRAPH_CHARACTERS)
_KEPT_LINES, _KEPT_LINE_CHARACTERS = int(Column.KEPT_LINES), int(Column.KEPT_LINE_CHARACTERS)
_KEPT_TERMINAL, _KEPT_SHORT = int(Column.KEPT_TERMINAL_LINES), int(Column.KEPT_SHORT_LINES)
_KEPT_DUP, _KEPT_SENTENCES = int(Column.KEPT_DUPLICATE_LINE_CHARACTERS), int(Column.KEPT_SENTENCES)


@njit("int64(int64, uint16[::1])", cache=True, nogil=True)
def class_of(point, table):  # type: ignore[no-untyped-def]
    """Bits of any code point."""
    if point < TABLE_SIZE:
        return np.int64(table[point])
    return np.int64(_HAN if point <= LAST_HAN else 0)


@njit("int64(uint8[::1], int64, int64)", cache=True, nogil=True)
def stop_word(data, start, stop):  # type: ignore[no-untyped-def]
    """Which of the eight stop words the letters of a word are, without what is no ASCII letter at its ends;
    -1: none.
    """
    while start < stop and not (97 <= (data[start] | 32) <= 122):
        start += 1
    while start < stop and not (97 <= (data[stop - 1] | 32) <= 122):
        stop -= 1
    if not 2 <= stop - start <= 4:
        return -1
    packed = np.int64(0)
    for k in range(stop - start):
        packed |= np.int64(data[start + k] | 32) << (8 * k)
    for k in range(8):
        if packed == _STOPS[k]:
            return k
    return -1


@njit("boolean(uint8[::1], int64, int64)", cache=True, nogil=True)
def ends_in_ellipsis(data, start, stop):  # type: ignore[no-untyped-def]
    """Whether bytes end in three dots, or in the one character for them."""
    if stop - start < 3:
        return False
    a, b, c = data[stop - 3], data[stop - 2], data[stop - 1]
    return (a == 46 and b == 46 and c == 46) or (a == 0xE2 and b == 0x80 and c == 0xA6)


@njit(
    "void(uint8[::1], int64[::1], uint16[::1], int64[::1], int64[::1], int64[:, ::1], "
    "uint64[::1], int32[::1], int32[:, ::1], int64[::1], "
    "int64[:, ::1], uint8[::1], int64[::1], uint64[::1], uint64[::1], int64[::1], "
    "uint64[::1], int32[::1], int64[::1], uint8[::1])",
    cache=True,
    nogil=True,
)  # fmt: skip
def scan(  # type: ignore[no-untyped-def]
    data, offsets, table, marks, options, counts,
    words, word_characters, word_bounds, word_offsets,
    line_bounds, line_bits, line_offsets, line_hashes, paragraph_hashes, paragraph_characters,
    keys, stamps, state, repeats,
):  # fmt: skip
    """Counts, words and lines of each document.

    `marks`: ascending offsets of bytes whose line is not kept. `options`: [are lines judged, least words of a
    kept line, must it end in punctuation, characters of a line that is not short]. Of each word its hash, its
    characters and its bytes, of each line its bytes and bits; `word_offsets` and `line_offsets` say which
    belong to a document. The rest is room to work in.
    """
    judged, least_words, terminal_only, short = options[0], options[1], options[2], options[3]
    n_words = 0
    n_lines = 0
    m = 0
    word_offsets[0] = 0
    line_offsets[0] = 0
    for d in range(len(offsets) - 1):
        i = offsets[d]
        stop = offsets[d + 1]
        first_line = n_lines
        first_word = n_words
        n_paragraphs = 0
        characters = hashes = ellipses = braces = alphabetic = cjk = in_words = 0
        bullets = ellipsis_lines = kept = kept_characters = kept_terminal = kept_short = sentences = 0
        all_line_characters = 0
        stops = 0
        paragraph_hash = START
        paragraph_size = 0
        # The line.
        line_start = i
        line_word = n_words
        line_size = 0  # up to the last character that is no blank
        so_far = 0  # up to here
        line_hash = START
        hash_here = START
        line_sentences = 0
        is_open = False  # words since a sentence ended
        is_bullet = False
        has_begun = False
        last = np.int64(0)
        last_stop = i
        # The word.
        in_word = False
        touches = False  # a CJK character or mark stands right before
        word_start = i
        word_hash = START
        word_size = 0
        bits = np.int64(0)
        solid = np.int64(0)  # the last character that closes nothing
        dots = 0
        while i <= stop:
            if i == stop:
                kind = np.int64(NEWLINE)
                size = 0
                point = np.int64(10)
            elif data[i] < 0x80:
                point = np.int64(data[i])
                kind = np.int64(table[point])
                size = 1
                characters += 1
            else:
                point, after = code_at(data, i)
                kind = class_of(point, table)
                size = after - i
                characters += 1

            if kind & (BLANK | NEWLINE | CJK | WIDE) == 0:
                # Inside a word.
                if not in_word:
                    in_word = True
                    word_start = i
                    word_hash = START
                    word_size = 0
                    bits = np.int64(0)
                    solid = np.int64(0)
                    dots = 0
                if kind == LETTER and size == 1:
                    begin = i
                    while i < stop and data[i] < 0x80 and table[data[i]] == LETTER:
                        b = np.uint64(data[i])
                        word_hash = (word_hash ^ b) * FACTOR
                        hash_here = (hash_here ^ b) * FACTOR
                        i += 1
                    run = i - begin
                    word_size += run
                    so_far += run
                    characters += run - 1
                    bits |= LETTER
                    solid = kind
                    dots = 0
                else:
                    for k in range(i, i + size):
                        b = np.uint64(data[k])
                        word_hash = (word_hash ^ b) * FACTOR
                        hash_here = (hash_here ^ b) * FACTOR
                    i += size
                    word_size += 1
                    so_far += 1
                    bits |= kind
                    if kind & CLOSER == 0:
                        solid = kind
                    if point == 46:  # .
                        dots += 1
                        if dots == 3:
                            ellipses += 1
                            dots = 0
                    else:
                        dots = 0
                        if point == 35:  # #
                            hashes += 1
                        elif point == 123:  # {
                            braces += 1
                        elif point == 0x2026:
                            ellipses += 1
                if not has_begun:
                    has_begun = True
                    is_bullet = kind & BULLET != 0
                line_size = so_far
                line_hash = hash_here
                last = kind
                last_stop = i
                continue

            # The word ends here.
            if in_word:
                in_word = False
                if bits & _ALNUM or not (touches or kind & (CJK | WIDE)):
                    words[n_words] = mixed(word_hash)
                    word_characters[n_words] = word_size
                    word_bounds[n_words, 0] = word_start
                    word_bounds[n_words, 1] = i
                    in_words += word_size
                    if bits & LETTER:
                        alphabetic += 1
                        if stops != 255:
                            which = stop_word(data, word_start, i)
                            if which >= 0:
                                stops |= 1 << which
                    is_first = n_words == line_word
                    if is_first and word_size == 1 and bits & DASH:
                        is_bullet = True
                    n_words += 1
                    if solid & SENTENCE_END and (bits & LETTER or not is_first):
                        if is_open or bits & _ALNUM:
                            line_sentences += 1
                        is_open = False
                    elif bits & LETTER or (bits & DIGIT and not is_first):
                        is_open = True
                elif solid & SENTENCE_END and is_open:
                    line_sentences += 1
                    is_open = False
            touches = False

            if kind & NEWLINE:
                if line_size > 0:
                    if is_open:
                        line_sentences += 1
                    is_ellipsis = ends_in_ellipsis(data, line_start, last_stop)
                    is_terminal = last & LINE_END != 0
                    is_marked = False
                    while m < len(marks) and marks[m] < i:
                        is_marked = True
                        m += 1
                    is_kept = judged == 0 or (
                        not is_marked
                        and n_words - line_word >= least_words
                        and (is_terminal or terminal_only == 0)
                    )
                    all_line_characters += line_size
                    bullets += is_bullet
                    ellipsis_lines += is_ellipsis
                    if is_kept:
                        kept += 1
                        kept_characters += line_size
                        kept_terminal += is_terminal
                        kept_short += line_size < short
                        sentences += line_sentences
                    line_bounds[n_lines, 0] = line_start
                    line_bounds[n_lines, 1] = i
                    line_bounds[n_lines, 2] = line_size
                    line_bits[n_lines] = KEEP if is_kept else 0
                    line_hashes[n_lines] = mixed(line_hash)
                    n_lines += 1
                    paragraph_hash = mixed((paragraph_hash ^ line_hash) * FACTOR)
                    paragraph_size += line_size
                if paragraph_size > 0 and (line_size == 0 or i == stop):
                    paragraph_hashes[n_paragraphs] = paragraph_hash
                    paragraph_characters[n_paragraphs] = paragraph_size
                    n_paragraphs += 1
                    paragraph_hash = START
                    paragraph_size = 0
                i += 1
                line_start = i
                line_word = n_words
                line_size = 0
                so_far = 0
                line_hash = START
                hash_here = START
                line_sentences = 0
                is_open = False
                is_bullet = False
                has_begun = False
                last = np.int64(0)
                last_stop = i
                continue

            if kind & BLANK:
                if has_begun:
                    for k in range(i, i + size):
                        hash_here = (hash_here ^ np.uint64(data[k])) * FACTOR
                    so_far += 1
                i += size
                continue

            # A CJK character, which is a word, or a mark of theirs, which is none.
            begin = i
            word_hash = START
            for k in range(i, i + size):
                b = np.uint64(data[k])
                word_hash = (word_hash ^ b) * FACTOR
                hash_here = (hash_here ^ b) * FACTOR
            i += size
            so_far += 1
            if kind & CJK:
                words[n_words] = mixed(word_hash)
                word_characters[n_words] = 1
                word_bounds[n_words, 0] = begin
                word_bounds[n_words, 1] = i
                n_words += 1
                cjk += 1
                alphabetic += 1
                in_words += 1
                is_open = True
            elif kind & SENTENCE_END and is_open:
                line_sentences += 1
                is_open = False
            has_begun = True
            touches = True
            line_size = so_far
            line_hash = hash_here
            last = kind
            last_stop = i

        word_offsets[d + 1] = n_words
        line_offsets[d + 1] = n_lines
        row = counts[d]
        find_repeats(line_hashes, first_line, n_lines, keys, stamps, state, repeats)
        for k in range(first_line, n_lines):
            if repeats[k]:
                row[_DUP_LINES] += 1
                row[_DUP_LINE_CHARACTERS] += line_bounds[k, 2]
                if line_bits[k] & KEEP:
                    row[_KEPT_DUP] += line_bounds[k, 2]
        find_repeats(paragraph_hashes, 0, n_paragraphs, keys, stamps, state, repeats)
        for k in range(n_paragraphs):
            if repeats[k]:
                row[_DUP_PARAGRAPHS] += 1
                row[_DUP_PARAGRAPH_CHARACTERS] += paragraph_characters[k]
        row[_CHARACTERS] = characters
        row[_WORDS] = n_words - first_word
        row[_CJK_WORDS] = cjk
        row[_WORD_CHARACTERS] = in_words
        row[_ALPHABETIC] = alphabetic
        for k in range(8):
            row[_STOP_WORDS] += (stops >> k) & 1
        row[_HASHES] = hashes
        row[_ELLIPSES] = ellipses
        row[_BRACES] = braces
        row[_LINES] = n_lines - first_line
        row[_LINE_CHARACTERS] = all_line_characters
        row[_BULLET_LINES] = bullets
        row[_ELLIPSIS_LINES] = ellipsis_lines
        row[_PARAGRAPHS] = n_paragraphs
        row[_KEPT_LINES] = kept
        row[_KEPT_LINE_CHARACTERS] = kept_characters
        row[_KEPT_TERMINAL] = kept_terminal
        row[_KEPT_SHORT] = kept_short
        row[_KEPT_SENTENCES] = sentences


MADE_FOR = fingerprint(
    BLANK, BULLET, CJK, CLOSER, DASH, DIGIT, LAST_HAN, LETTER, LINE_END, NEWLINE, SENTENCE_END, TABLE_SIZE,
    WIDE, KEEP, list(Column), source_of(code_at), source_of(mixed),
)  # fmt: skip


@njit("int64()", cache=True)
def _compiled_for():  # type: ignore[no-untyped-def]
    return MADE_FOR


renew(_compiled_for, MADE_FOR, [class_of, stop_word, ends_in_ellipsis, scan])
