"""What the kernels measure, in plain Python, straight from the words of `data_jobs/filters/measures.py`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from data_jobs.filters.character_classes import (
    BULLET,
    CJK,
    CLOSER,
    DASH,
    DIGIT,
    LAST_HAN,
    LETTER,
    LINE_END,
    SENTENCE_END,
    TABLE_SIZE,
    WIDE,
    class_table,
)
from data_jobs.filters.measures import Column

STOPS = re.compile(r"[^A-Za-z]*(the|be|to|of|and|that|have|with)[^A-Za-z]*", re.IGNORECASE | re.ASCII)
PHRASES = (
    b"javascript", b"terms of use", b"privacy policy", b"cookie policy", b"uses cookies", b"use of cookies",
    b"use cookies",
)  # fmt: skip


def bits(character: str) -> int:
    point = ord(character)
    return int(class_table()[point]) if point < TABLE_SIZE else (CJK | LETTER if point <= LAST_HAN else 0)


def has(text: str, bit: int) -> bool:
    return any(bits(c) & bit for c in text)


def tokens_of(line: str) -> Iterator[tuple[str, bool]]:
    """(characters, is it a word) of a line: runs between blanks, CJK characters and CJK marks."""
    at = 0
    while at < len(line):
        start = at
        if line[at].isspace():
            at += 1
            continue
        if bits(line[at]) & (CJK | WIDE):
            at += 1
            yield line[start], bool(bits(line[start]) & CJK)
            continue
        while at < len(line) and not line[at].isspace() and not bits(line[at]) & (CJK | WIDE):
            at += 1
        beside = line[max(0, start - 1) : start] + line[at : at + 1]
        yield line[start:at], has(line[start:at], LETTER | DIGIT) or not has(beside, CJK | WIDE)


def words_of(text: str) -> list[str]:
    return [token for line in text.split("\n") for token, is_word in tokens_of(line) if is_word]


def sentences_of(line: str) -> int:
    count, is_open, words = 0, False, 0
    for token, is_word in tokens_of(line):
        last = "".join(c for c in token if not bits(c) & CLOSER)[-1:]
        ends = has(last, SENTENCE_END)
        if has(token, CJK):
            is_open = True
        elif not is_word:
            if ends and is_open:
                count, is_open = count + 1, False
        elif ends and (has(token, LETTER) or words):
            count += is_open or has(token, LETTER | DIGIT)
            is_open = False
        elif has(token, LETTER) or (has(token, DIGIT) and words):
            is_open = True
        words += is_word
    return count + is_open


def is_bullet(line: str) -> bool:
    words = words_of(line)
    return has(line.strip()[0], BULLET) or bool(words and len(words[0]) == 1 and has(words[0], DASH))


def is_kept(line: str, least_words: int, terminal_only: bool) -> bool:
    return (
        not any(phrase in line.encode().lower() for phrase in PHRASES)
        and len(words_of(line)) >= least_words
        and (has(line.strip()[-1], LINE_END) or not terminal_only)
    )


def repeated(items: Sequence[object]) -> list[bool]:
    return [item in items[:number] for number, item in enumerate(items)]


def top_characters(words: Sequence[str], n: int) -> int:
    grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    best = max(
        ((count, count * len("".join(gram))) for gram, count in grams.items() if count > 1), default=(0, 0)
    )
    return best[1]


def duplicate_characters(words: Sequence[str], n: int) -> int:
    seen: set[tuple[str, ...]] = set()
    covered: set[int] = set()
    for i in range(len(words) - n + 1):
        gram = tuple(words[i : i + n])
        if gram in seen:
            covered.update(range(i, i + n))
        seen.add(gram)
    return sum(len(words[i]) for i in covered)


def measures_of(text: str, line_rules: tuple[int, bool] | None = None, short: int = 30) -> dict[str, int]:
    lines = [line for line in text.split("\n") if line.strip()]
    stripped = [line.strip() for line in lines]
    paragraphs = [
        [line.strip() for line in part.split("\n") if line.strip()]
        for part in re.split(r"\n(?:[^\S\n]*\n)+", text)
    ]
    paragraphs = [part for part in paragraphs if part]
    words = words_of(text)
    kept = [line_rules is None or is_kept(line, *line_rules) for line in lines]
    again = repeated(stripped)
    paragraph_again = repeated(paragraphs)
    found = {
        Column.CHARACTERS: len(text),
        Column.WORDS: len(words),
        Column.CJK_WORDS: sum(has(word, CJK) for word in words),
        Column.WORD_CHARACTERS: sum(map(len, words)),
        Column.ALPHABETIC_WORDS: sum(has(word, LETTER) for word in words),
        Column.STOP_WORDS: len({m[1].lower() for m in map(STOPS.fullmatch, words) if m}),
        Column.HASHES: text.count("#"),
        Column.ELLIPSES: sum(len(run) // 3 for run in re.findall(r"\.+", text)) + text.count("…"),
        Column.BRACES: text.count("{"),
        Column.LINES: len(lines),
        Column.LINE_CHARACTERS: sum(map(len, stripped)),
        Column.BULLET_LINES: sum(map(is_bullet, lines)),
        Column.ELLIPSIS_LINES: sum(line.endswith(("...", "…")) for line in stripped),
        Column.DUPLICATE_LINES: sum(again),
        Column.DUPLICATE_LINE_CHARACTERS: sum(len(line) for line, a in zip(stripped, again) if a),
        Column.PARAGRAPHS: len(paragraphs),
        Column.DUPLICATE_PARAGRAPHS: sum(paragraph_again),
        Column.DUPLICATE_PARAGRAPH_CHARACTERS: sum(
            len("".join(part)) for part, a in zip(paragraphs, paragraph_again) if a
        ),
        Column.KEPT_LINES: sum(kept),
        Column.KEPT_LINE_CHARACTERS: sum(len(line) for line, k in zip(stripped, kept) if k),
        Column.KEPT_TERMINAL_LINES: sum(k and has(line[-1], LINE_END) for line, k in zip(stripped, kept)),
        Column.KEPT_SHORT_LINES: sum(k and len(line) < short for line, k in zip(stripped, kept)),
        Column.KEPT_DUPLICATE_LINE_CHARACTERS: sum(
            len(line) for line, k, a in zip(stripped, kept, again) if k and a
        ),
        Column.KEPT_SENTENCES: sum(sentences_of(line) for line, k in zip(lines, kept) if k),
    }
    found |= {Column[f"TOP_{n}"]: top_characters(words, n) for n in (2, 3, 4)}
    found |= {Column[f"DUPLICATE_{n}"]: duplicate_characters(words, n) for n in range(5, 11)}
    return {column.name: int(found[column]) for column in Column}
