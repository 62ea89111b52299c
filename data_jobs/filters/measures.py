"""What the filters know of a document: counts in columns of one array, and shares of them.

The counts come from `measure_kernels.py`. A *word* is what stands between blanks; each Chinese, Japanese or
Korean character is one of its own, their punctuation is in none, and neither is other punctuation that
touches them. A *line* stands between newlines, less blanks at its ends; one of nothing but blanks does not
count. A *paragraph* stands between such lines. A *duplicate* is what an equal one stands before in the same
document: the first of them is none. *Kept* lines are those that C4's rules for lines leave (all, without
that family).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

KEEP = 1
"""Bit of a line that C4's rules for lines leave."""


class Column(IntEnum):
    """Columns of the array of counts."""

    CHARACTERS = 0
    WORDS = 1
    CJK_WORDS = 2
    WORD_CHARACTERS = 3
    ALPHABETIC_WORDS = 4
    STOP_WORDS = 5
    """Different ones of the eight."""
    HASHES = 6
    ELLIPSES = 7
    BRACES = 8
    LINES = 9
    LINE_CHARACTERS = 10
    BULLET_LINES = 11
    ELLIPSIS_LINES = 12
    DUPLICATE_LINES = 13
    DUPLICATE_LINE_CHARACTERS = 14
    PARAGRAPHS = 15
    DUPLICATE_PARAGRAPHS = 16
    DUPLICATE_PARAGRAPH_CHARACTERS = 17
    TOP_2 = 18
    """Characters of the most frequent 2 words in a row, all its places together; 0 if none stands twice."""
    TOP_3 = 19
    TOP_4 = 20
    DUPLICATE_5 = 21
    """Characters of words that are in a duplicate of 5 words in a row, each word once."""
    DUPLICATE_6 = 22
    DUPLICATE_7 = 23
    DUPLICATE_8 = 24
    DUPLICATE_9 = 25
    DUPLICATE_10 = 26
    KEPT_LINES = 27
    KEPT_LINE_CHARACTERS = 28
    KEPT_TERMINAL_LINES = 29
    KEPT_SHORT_LINES = 30
    KEPT_DUPLICATE_LINE_CHARACTERS = 31
    KEPT_SENTENCES = 32


class Measures:
    """Counts of several documents, a row each."""

    def __init__(self, counts: npt.NDArray[np.int64]) -> None:
        self.counts = counts

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, column: Column) -> npt.NDArray[np.int64]:
        return self.counts[:, column]

    def ratio(self, part: Column, whole: Column) -> Floats:
        """One column over another; 0 where the latter is 0."""
        return _over(self[part], self[whole])

    def mean_word_length(self) -> Floats:
        """Characters of a word that is written between blanks; not a number where there is none."""
        words = self[Column.WORDS] - self[Column.CJK_WORDS]
        characters = self[Column.WORD_CHARACTERS] - self[Column.CJK_WORDS]
        return np.where(words > 0, _over(characters, words), np.nan)

    def is_cjk(self) -> npt.NDArray[np.bool_]:
        """Whether more than half of the words are Chinese, Japanese or Korean characters."""
        return 2 * self[Column.CJK_WORDS] > self[Column.WORDS]

    def take(self, rows: Sequence[int]) -> Measures:
        """Some rows."""
        return Measures(self.counts[np.asarray(rows, np.int64)])


def _over(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> Floats:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
