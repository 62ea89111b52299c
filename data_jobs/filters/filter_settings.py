"""Which documents are left out of a corpus: families of rules, each off until a recipe names it.

The defaults are the thresholds of the papers; `filter_rules.py` says which paper, and how each number is
measured.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, field_validator

from cluster.errors import UserError
from cluster.fields import Settings, identity
from data_jobs.filters.language import model_file
from data_jobs.hashes import sha256

FilePath = Annotated[str, AfterValidator(lambda path: os.path.abspath(os.path.expanduser(path)))]
"""Absolute, because tasks on workers may stand in another folder."""


class LengthFilter(Settings):
    """Documents that are too short or too long."""

    min_characters: int = identity(0, "fewer characters than this: out", ge=0)
    max_characters: int | None = identity(None, "more characters than this: out", ge=1)
    min_words: int = identity(
        0, "fewer words than this: out (a Chinese, Japanese or Korean character is one)", ge=0
    )
    max_words: int | None = identity(None, "more words than this: out", ge=1)


class LanguageFilter(Settings):
    """Documents in other languages, by fastText's lid.176 (which its wheel holds; nothing is loaded)."""

    keep: list[str] = identity(help="ISO codes of the languages that stay, e.g. [en, de]", min_length=1)
    min_score: float = identity(0.65, "surer than this the model must be", ge=0, le=1)
    bytes: int = identity(1000, "the model reads so much of a document's beginning (UTF-8)", ge=64)


class WordListFilter(Settings):
    """Documents that hold too much of what a list names."""

    path: FilePath = identity(help="UTF-8 file, a word or phrase a line; lines that begin with # are none")
    max_count: int | None = identity(None, "more of them than this: out (default without max_share: 0)", ge=0)
    max_share: float | None = identity(None, "more of them than this share of the words: out", ge=0, le=1)


class GopherRepetitionFilter(Settings):
    """Documents that repeat themselves (Rae et al. 2021)."""

    max_duplicate_lines: float = identity(0.30, "share of lines that stood before", ge=0, le=1)
    max_duplicate_paragraphs: float = identity(0.30, "share of paragraphs that stood before", ge=0, le=1)
    max_duplicate_line_characters: float = identity(0.20, "share of characters in such lines", ge=0, le=1)
    max_duplicate_paragraph_characters: float = identity(
        0.20, "share of characters in such paragraphs", ge=0, le=1
    )
    max_top_ngram: dict[int, float] = identity(
        {2: 0.20, 3: 0.18, 4: 0.16}, "n to the share of characters in the most frequent n words in a row"
    )
    max_duplicate_ngrams: dict[int, float] = identity(
        {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10},
        "n to the share of characters in n words in a row that stood before",
    )

    @field_validator("max_top_ngram")
    @classmethod
    def _measured_tops(cls, limits: dict[int, float]) -> dict[int, float]:
        return _only(limits, 2, 4)

    @field_validator("max_duplicate_ngrams")
    @classmethod
    def _measured_duplicates(cls, limits: dict[int, float]) -> dict[int, float]:
        return _only(limits, 5, 10)


class GopherQualityFilter(Settings):
    """Documents that do not look like prose (Rae et al. 2021)."""

    min_words: int = identity(50, "fewer words: out", ge=0)
    max_words: int = identity(100_000, "more words: out", ge=1)
    min_mean_word_length: float = identity(3.0, "shorter words in the mean, in characters: out", ge=0)
    max_mean_word_length: float = identity(10.0, "longer words in the mean: out", gt=0)
    max_symbols_per_word: float = identity(0.1, "more # or more ellipses to a word: out", ge=0)
    max_bullet_lines: float = identity(0.9, "larger share of lines that begin with a bullet: out", ge=0, le=1)
    max_ellipsis_lines: float = identity(
        0.3, "larger share of lines that end with an ellipsis: out", ge=0, le=1
    )
    min_alphabetic_words: float = identity(0.8, "smaller share of words with a letter: out", ge=0, le=1)
    min_stop_words: int = identity(
        2,
        "fewer of the, be, to, of, and, that, have, with: out; 0 for other languages than English",
        ge=0,
        le=8,
    )


class C4Filter(Settings):
    """Lines and pages as C4 leaves them out, by the text of its paper (Raffel et al. 2020, JMLR 21:140).

    The code that C4 was made with has other numbers: 3 sentences, 5 words.
    """

    terminal_punctuation: bool = identity(True, "lines stay that end in . ! ? or an end quotation mark")
    min_words_per_line: int = identity(3, "lines of fewer words go", ge=0)
    javascript: bool = identity(True, "lines with the word javascript go")
    policy: bool = identity(True, "lines of terms of use, privacy and cookie policies go")
    citations: bool = identity(True, "marks such as [3], [edit] and [citation needed] go")
    lorem_ipsum: bool = identity(True, "pages with lorem ipsum: out")
    curly_brackets: bool = identity(True, "pages with { : out")
    min_sentences: int = identity(5, "pages with fewer sentences in the lines that stay: out", ge=0)
    bad_words: FilePath | None = identity(None, "pages with a word or phrase of this list (a line each): out")


class FineWebFilter(Settings):
    """Documents of lists, menus and doubled lines (Penedo et al. 2024)."""

    min_terminal_lines: float = identity(
        0.12, "at most this share of lines ends with punctuation: out", ge=0, le=1
    )
    max_duplicate_line_characters: float = identity(
        0.1, "at least this share of characters in lines that stood before: out", ge=0, le=1
    )
    short_line_characters: int = identity(30, "a line of fewer characters is short", ge=1)
    max_short_lines: float = identity(0.67, "at least this share of short lines: out", ge=0, le=1)


class FastTextFilter(Settings):
    """Documents that a fastText classifier of yours does not choose."""

    path: FilePath = identity(help="the model (.bin or .ftz)")
    label: str = identity(help="its label for what stays, without __label__")
    min_score: float = identity(0.5, "smaller probability of the label: out", ge=0, le=1)
    bytes: int = identity(10_000, "the model reads so much of a document's beginning (UTF-8)", ge=64)


class FilterSettings(Settings):
    """Families of rules in the order in which they judge; none unless it is named, `{}` for its defaults."""

    length: LengthFilter | None = identity(None, "by characters and words")
    language: LanguageFilter | None = identity(None, "by language; needs keep")
    gopher_repetition: GopherRepetitionFilter | None = identity(None, "repetitions (Gopher)")
    gopher_quality: GopherQualityFilter | None = identity(None, "shape of prose (Gopher)")
    c4: C4Filter | None = identity(None, "lines and pages (C4); changes texts")
    fineweb: FineWebFilter | None = identity(None, "lists and doubled lines (FineWeb)")
    words: WordListFilter | None = identity(None, "by a list of words; needs path")
    fasttext: FastTextFilter | None = identity(None, "by a classifier; needs path and label")


_FILES = ("path", "bad_words")


def fixed_filters(filters: FilterSettings) -> dict[str, Any]:
    """What a corpus is a function of: each family's values, and of its files what they hold.

    UserError where a file cannot be read.
    """
    fixed: dict[str, Any] = {}
    for family, values in filters.model_dump(mode="json").items():
        if values is not None:
            for name in _FILES:
                if values.get(name) is not None:
                    values[name] = _digest(values[name], f"corpus.filters.{family}.{name}")
            if family == "language":
                values["model"] = _digest(str(model_file()), "corpus.filters.language")
        fixed[family] = values
    return fixed


def _digest(path: str, field: str) -> str:
    try:
        return f"sha256:{sha256(Path(path).read_bytes())}"
    except OSError as error:
        raise UserError(f"{field}: {path}: cannot be read: {error.strerror}") from None


def _only(limits: dict[int, float], low: int, high: int) -> dict[int, float]:
    if any(not low <= n <= high or not 0 <= share <= 1 for n, share in limits.items()):
        raise ValueError(f"n must be from {low} to {high}, and a share from 0 to 1")
    return limits
