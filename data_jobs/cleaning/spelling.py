"""Spelling: English words that no dictionary knows, corrected where a known one is a letter away.

The dictionary is the one in symspellpy's wheel (82,765 words by frequency), and its rule the symmetric
deletion of SymSpell (Garbe 2012): of the words at distance 1 the most frequent one is taken.

Left alone: words of less than four letters, words with a capital, a digit or a mark inside, code (spans and
blocks of Markdown, indented lines, lines with signs of code), and whole texts of which more than a fifth of
the words is unknown: these are in another language, or no prose.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_jobs.hashes import h64

SAMPLE = 50
"""Pairs (before, after) that are kept to look at: the smallest by hash, whatever the order of the texts."""
MAX_UNKNOWN = 0.2

_DICTIONARY = "frequency_dictionary_en_82_765.txt"
# Blanks or opening marks before it, closing marks and a blank after it: nothing else touches the word.
_WORD = re.compile(r"[a-z](?<![^\s(\"“‘'][a-z])[a-z]{3,}(?=[.,;:!?)\"”’']{0,3}(?:\s|$))")
_SPAN = re.compile(r"`[^`\n]+`")
_CODE_LINE = re.compile(r"^(?:    |\t)|[{}\\<>=|_;]\s*$|://|\(\)|[=!<>]=|->|=>|::")


@functools.lru_cache(maxsize=1)
def _dictionary() -> tuple[frozenset[str], Callable[[str], str | None]]:
    import symspellpy

    spell = symspellpy.SymSpell(max_dictionary_edit_distance=1)
    path = Path(symspellpy.__file__).parent / _DICTIONARY
    if not spell.load_dictionary(path, term_index=0, count_index=1, encoding="utf-8"):
        raise FileNotFoundError(path)

    @functools.lru_cache(maxsize=1 << 17)
    def nearest(word: str) -> str | None:
        found = spell.lookup(word, symspellpy.Verbosity.TOP, max_edit_distance=1)
        # Some entries have an apostrophe: a correction stays a word of small letters.
        return found[0].term if found and re.fullmatch("[a-z]+", found[0].term) else None

    return frozenset(spell.words), nearest


class Speller:
    """Corrects texts, and keeps a sample of what it corrected."""

    def __init__(self) -> None:
        self._known, self._nearest = _dictionary()
        self._sample: dict[tuple[str, str], tuple[int, int]] = {}

    def correct(self, text: str) -> tuple[str, int]:
        """The text and the number of words that were changed."""
        places = self._words(text)
        unknown = [(start, stop) for start, stop in places if text[start:stop] not in self._known]
        if not unknown or len(unknown) > MAX_UNKNOWN * len(places):
            return text, 0
        parts: list[str] = []
        done = count = 0
        for start, stop in unknown:
            word = text[start:stop]
            better = self._nearest(word)
            if better is not None:
                parts += [text[done:start], better]
                done, count = stop, count + 1
                self._note(word, better)
        return ("".join([*parts, text[done:]]), count) if count else (text, 0)

    def sample(self) -> list[dict[str, Any]]:
        """[{before, after, count}], smallest hash first."""
        self._trim()
        return [
            {"before": before, "after": after, "count": count}
            for (before, after), (_, count) in self._sample.items()
        ]

    def _words(self, text: str) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        at, fenced = 0, False
        for line in text.split("\n"):
            if line.lstrip().startswith(("```", "~~~")):
                fenced = not fenced
            elif not fenced and not _CODE_LINE.search(line):
                code = [span.span() for span in _SPAN.finditer(line)] if "`" in line else []
                found += [
                    (at + hit.start(), at + hit.end())
                    for hit in _WORD.finditer(line)
                    if not any(start < hit.start() < stop for start, stop in code)
                ]
            at += len(line) + 1
        return found

    def _note(self, before: str, after: str) -> None:
        rank, count = self._sample.get((before, after), (h64(before, after), 0))
        self._sample[before, after] = (rank, count + 1)
        if len(self._sample) > 4 * SAMPLE:
            self._trim()

    def _trim(self) -> None:
        """What was left out once ranks behind the kept ones for ever, so kept counts are whole."""
        ranked = sorted(self._sample.items(), key=lambda item: item[1])
        self._sample = dict(ranked[:SAMPLE])


def sum_corrections(samples: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One sample of many."""
    counts: dict[tuple[str, str], int] = {}
    for row in (row for sample in samples for row in sample):
        pair = (row["before"], row["after"])
        counts[pair] = counts.get(pair, 0) + row["count"]
    chosen = sorted(counts, key=lambda pair: h64(*pair))[:SAMPLE]
    return [{"before": before, "after": after, "count": counts[before, after]} for before, after in chosen]
