"""Verdicts on documents, as plain thresholds over their measures; which rule is from which paper.

Each family gives checks in a fixed order, and the first one that a document fails is the reason for which it
is dropped. What a word, a line, a paragraph and a duplicate is stands in `measures.py`. A value equal to a
threshold stays, but where a paper says otherwise (FineWeb).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_jobs.filters.filter_settings import (
    C4Filter,
    FineWebFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LengthFilter,
    WordListFilter,
)
from data_jobs.filters.measures import Column, Floats, Measures

Numbers = npt.NDArray[np.int64] | Floats


@dataclass(frozen=True)
class Check:
    """One rule over several documents."""

    reason: str
    fails: npt.NDArray[np.bool_]
    values: Numbers
    words: str
    """What a failing value is, after it: `below 50 words`."""

    def detail(self, row: int) -> str:
        """Why a document fails, for people."""
        value = self.values[row]
        return f"{int(value):,} {self.words}" if float(value).is_integer() else f"{value:.3g} {self.words}"


def length_in_characters(lengths: npt.NDArray[np.int64], rules: LengthFilter) -> Iterator[Check]:
    """Fewer or more characters than asked for. It needs no measures, so it comes before what does."""
    yield from _between(lengths, rules.min_characters, rules.max_characters, "characters")


def length_in_words(m: Measures, rules: LengthFilter) -> Iterator[Check]:
    """Fewer or more words than asked for."""
    yield from _between(m[Column.WORDS], rules.min_words, rules.max_words, "words")


def _between(lengths: npt.NDArray[np.int64], least: int, most: int | None, unit: str) -> Iterator[Check]:
    yield _below(f"length_few_{unit}", lengths, least, unit)
    if most is not None:
        yield _above(f"length_many_{unit}", lengths, most, unit)


def gopher_repetition(m: Measures, rules: GopherRepetitionFilter) -> Iterator[Check]:
    """Rae et al. 2021 (Scaling Language Models: Methods, Analysis and Insights from Training Gopher), section
    A.1.1, repetition removal, thresholds of table A1.

    Shares of lines and paragraphs are of their number, shares of characters of those in all lines. For words
    in a row, characters are those of words, of all words: blanks count on neither side. The most frequent
    words in a row must stand twice at least, or a short text would be one repetition. Of duplicates the first
    one is no part: a text that stands there twice is half duplicate.
    """
    family = "gopher_repetition"
    shares = (
        ("duplicate_lines", Column.DUPLICATE_LINES, Column.LINES, rules.max_duplicate_lines),
        (
            "duplicate_paragraphs",
            Column.DUPLICATE_PARAGRAPHS,
            Column.PARAGRAPHS,
            rules.max_duplicate_paragraphs,
        ),
        (
            "duplicate_line_characters",
            Column.DUPLICATE_LINE_CHARACTERS,
            Column.LINE_CHARACTERS,
            rules.max_duplicate_line_characters,
        ),
        (
            "duplicate_paragraph_characters",
            Column.DUPLICATE_PARAGRAPH_CHARACTERS,
            Column.LINE_CHARACTERS,
            rules.max_duplicate_paragraph_characters,
        ),
    )
    for name, part, whole, most in shares:
        yield _above(f"{family}_{name}", m.ratio(part, whole), most, "of them")
    for n, most in sorted(rules.max_top_ngram.items()):
        share = m.ratio(Column[f"TOP_{n}"], Column.WORD_CHARACTERS)
        yield _above(f"{family}_top_{n}_gram", share, most, "of the characters")
    for n, most in sorted(rules.max_duplicate_ngrams.items()):
        share = m.ratio(Column[f"DUPLICATE_{n}"], Column.WORD_CHARACTERS)
        yield _above(f"{family}_duplicate_{n}_grams", share, most, "of the characters")


def gopher_quality(m: Measures, rules: GopherQualityFilter) -> Iterator[Check]:
    """Rae et al. 2021, section A.1.1, quality filtering: number of words, their mean length, # and ellipses
    to a word, lines that begin with a bullet or end with an ellipsis, words with a letter, stop words.

    Chinese, Japanese and Korean characters count as words with a letter. The mean length is that of the other
    words. Where more than half of the words are such characters, neither it nor the stop words are asked for:
    both rules are about English.
    """
    family, cjk = "gopher_quality", m.is_cjk()
    yield _below(f"{family}_few_words", m[Column.WORDS], rules.min_words, "words")
    yield _above(f"{family}_many_words", m[Column.WORDS], rules.max_words, "words")
    mean = np.where(cjk, np.nan, m.mean_word_length())
    yield _below(f"{family}_short_words", mean, rules.min_mean_word_length, "characters a word")
    yield _above(f"{family}_long_words", mean, rules.max_mean_word_length, "characters a word")
    for name, column in (("hashes", Column.HASHES), ("ellipses", Column.ELLIPSES)):
        yield _above(f"{family}_{name}", m.ratio(column, Column.WORDS), rules.max_symbols_per_word, "a word")
    for name, column, most in (
        ("bullet_lines", Column.BULLET_LINES, rules.max_bullet_lines),
        ("ellipsis_lines", Column.ELLIPSIS_LINES, rules.max_ellipsis_lines),
    ):
        yield _above(f"{family}_{name}", m.ratio(column, Column.LINES), most, "of the lines")
    alphabetic = m.ratio(Column.ALPHABETIC_WORDS, Column.WORDS)
    yield _below(f"{family}_alphabetic_words", alphabetic, rules.min_alphabetic_words, "of the words")
    stops = np.where(cjk, np.inf, m[Column.STOP_WORDS])
    yield _below(f"{family}_stop_words", stops, rules.min_stop_words, "stop words")


def c4(
    m: Measures, rules: C4Filter, lorem_ipsum: npt.NDArray[np.bool_], bad_words: npt.NDArray[np.int64]
) -> Iterator[Check]:
    """Raffel et al. 2020 (Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer),
    section 2.2: pages with lorem ipsum, a curly bracket, a word of a list, or too few sentences. The rules
    for lines are in `c4_lines.py` and in the kernel; the paper's rules for duplicates and language are other
    families here.

    `lorem_ipsum`: whether a document holds it; `bad_words`: how many words of the list it holds. A sentence
    ends with a mark at a word's end, quotes and brackets after it or not, or with its line.
    """
    if rules.lorem_ipsum:
        yield Check("c4_lorem_ipsum", lorem_ipsum, lorem_ipsum.astype(np.int64), "lorem ipsum in it")
    if rules.curly_brackets:
        yield _above("c4_curly_bracket", m[Column.BRACES], 0, "curly brackets")
    if rules.bad_words is not None:
        yield _above("c4_bad_words", bad_words, 0, "words of the list")
    yield _below("c4_few_sentences", m[Column.KEPT_SENTENCES], rules.min_sentences, "sentences")
    lines = m[Column.KEPT_LINES]
    yield Check("c4_no_lines", lines == 0, lines, "lines are left")


def fineweb(m: Measures, rules: FineWebFilter) -> Iterator[Check]:
    """Penedo et al. 2024 (The FineWeb Datasets: Decanting the Web for the Finest Text Data at Scale), section
    3.5: share of lines that end with punctuation, of characters in duplicate lines, of short lines.

    A value equal to a threshold is out, as the paper writes them. With C4's family on, the lines are those
    that it leaves.
    """
    terminal = m.ratio(Column.KEPT_TERMINAL_LINES, Column.KEPT_LINES)
    least = rules.min_terminal_lines
    yield Check(
        "fineweb_terminal_lines",
        terminal <= least,
        terminal,
        f"of the lines end with punctuation, at most {least:g}",
    )
    for name, part, whole, most, unit in (
        (
            "duplicate_line_characters",
            Column.KEPT_DUPLICATE_LINE_CHARACTERS,
            Column.KEPT_LINE_CHARACTERS,
            rules.max_duplicate_line_characters,
            "of the characters",
        ),
        ("short_lines", Column.KEPT_SHORT_LINES, Column.KEPT_LINES, rules.max_short_lines, "of the lines"),
    ):
        share = m.ratio(part, whole)
        yield Check(f"fineweb_{name}", share >= most, share, f"{unit}, at least {most:g}")


def words(m: Measures, rules: WordListFilter, found: npt.NDArray[np.int64]) -> Iterator[Check]:
    """More words of a list than a number, or than a share of all words."""
    most = rules.max_count if rules.max_count is not None or rules.max_share is not None else 0
    if most is not None:
        yield _above("words_of_the_list", found, most, "words of the list")
    if rules.max_share is not None:
        share = found / np.maximum(1, m[Column.WORDS])
        yield _above("words_share_of_the_list", share, rules.max_share, "of the words are of the list")


def _below(reason: str, values: Numbers, least: float, unit: str) -> Check:
    return Check(reason, values < least, values, f"{unit}, less than {least:g}")


def _above(reason: str, values: Numbers, most: float, unit: str) -> Check:
    return Check(reason, values > most, values, f"{unit}, more than {most:g}")
