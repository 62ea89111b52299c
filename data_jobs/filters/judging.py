"""Which cleaned documents of a source go into the corpus, and as what.

    texts ── length, language ── kernels ── gopher_repetition, gopher_quality, c4, fineweb, words ── fasttext

A `Judge` takes batches of any size and gives each document a verdict that hangs on its text alone, so
batches may be cut anywhere. It keeps the ledger of its stage and histograms of what stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data_jobs.cleaning.clean_settings import NOT_PROSE
from data_jobs.filters import c4_lines, filter_rules
from data_jobs.filters.filter_rules import Check
from data_jobs.filters.filter_settings import FilterSettings
from data_jobs.filters.histograms import (
    add_histograms,
    histogram_of_languages,
    histogram_of_lengths,
    histograms_of,
)
from data_jobs.filters.language import TextClassifier, beginning, model_file
from data_jobs.filters.measures import Column
from data_jobs.filters.scanning import Scan, Scanner
from data_jobs.filters.word_list import WordList
from data_jobs.ledger import Count

if TYPE_CHECKING:
    from data_jobs.reading.source_settings import SourceSettings
    from data_jobs.settings import CorpusSettings

BATCH_BYTES = 1 << 20
"""Text that is worth a call: the kernels' arrays stay in the caches."""

# The rest would drop most code.
_FOR_CODE = ("length", "words", "fasttext")
_MEASURED = ("gopher_repetition", "gopher_quality", "c4", "fineweb", "words")


@dataclass(frozen=True)
class Kept:
    """A document that stays."""

    text: str
    """As it goes on: C4's rules for lines change it."""


@dataclass(frozen=True)
class Dropped:
    """A document that does not."""

    reason: str
    detail: str


def filters_of_source(filters: FilterSettings, format: str) -> FilterSettings:
    """The families that judge a source: of code those that are not about prose, of images none."""
    if format not in NOT_PROSE:
        return filters
    kept = _FOR_CODE if format == "code" else ()
    return FilterSettings(**{name: getattr(filters, name) for name in kept})


def judge_nothing(settings: CorpusSettings) -> CorpusSettings:
    """The settings with no filter."""
    return settings.model_copy(update={"filters": FilterSettings()})


class Judge:
    """Judges the documents of one source."""

    def __init__(self, settings: CorpusSettings, source: SourceSettings) -> None:
        """UserError where a file that a filter needs cannot be read."""
        self.count = Count()
        self._filters = filters = filters_of_source(settings.filters, source.format)
        self._histograms: list[dict[str, dict[str, int]]] = []
        self._on = {name for name in FilterSettings.model_fields if getattr(filters, name) is not None}
        words_matter = filters.length is not None and (filters.length.min_words or filters.length.max_words)
        self._measures = bool(self._on.intersection(_MEASURED) or words_matter)
        if self._measures:
            self._scanner = Scanner(filters.fineweb.short_line_characters if filters.fineweb else 30)
        if filters.language is not None:
            self._languages = TextClassifier(model_file(), "corpus.filters.language")
        if filters.fasttext is not None:
            self._classifier = TextClassifier(filters.fasttext.path, "corpus.filters.fasttext.path")
        self._words = self._list_of(filters.words.path if filters.words else None, "words.path")
        self._bad_words = self._list_of(filters.c4.bad_words if filters.c4 else None, "c4.bad_words")

    @property
    def does_anything(self) -> bool:
        """Whether any family judges this source."""
        return bool(self._on)

    def judge(self, texts: Sequence[str]) -> list[Kept | Dropped]:
        """A verdict on each text, in their order; counted."""
        case = _Case(self, texts)
        verdicts = case.verdicts()
        for text, verdict in zip(texts, verdicts, strict=True):
            before = _utf8_bytes(text)
            self.count.documents_in += 1
            self.count.bytes_in += before
            if isinstance(verdict, Dropped):
                self.count.drop(verdict.reason, before)
                continue
            after = before if verdict.text is text else _utf8_bytes(verdict.text)
            self.count.documents_out += 1
            self.count.bytes_out += after
            self.count.change(before, after)
        self._histograms = [add_histograms([*self._histograms, *case.histograms()])]
        return verdicts

    def to_json(self) -> dict[str, Any]:
        """For a receipt: {filter: the count of the stage, histograms: of what stays}."""
        self.count.check("filter")
        return {"filter": self.count.to_json(), "histograms": add_histograms(self._histograms)}

    def _list_of(self, path: str | None, field: str) -> WordList | None:
        if path is None:
            return None
        return WordList.of_file(path, f"corpus.filters.{field}")


class _Case:
    """One batch before the judge."""

    def __init__(self, judge: Judge, texts: Sequence[str]) -> None:
        self.judge, self.filters = judge, judge._filters
        self.given = list(texts)
        self.texts = list(texts)
        """As they stand now."""
        self.dropped: dict[int, Dropped] = {}
        self.languages: dict[int, str] = {}
        self.scan: Scan | None = None
        self.scanned: list[int] = []
        """Number of the text of each row of the scan."""

    def verdicts(self) -> list[Kept | Dropped]:
        """Each family in its order over those that are left."""
        if self.filters.length is not None:
            self._by_characters()
        if self.filters.language is not None:
            self._by_language()
        if self.judge._measures:
            self._by_measures()
        if self.filters.fasttext is not None:
            self._by_classifier()
        return [self.dropped.get(number) or Kept(text) for number, text in enumerate(self.texts)]

    def histograms(self) -> Iterator[dict[str, dict[str, int]]]:
        """Of what was kept."""
        if self.scan is None:
            yield histogram_of_lengths(self.texts[number] for number in self._left())
        else:
            kept = [row for row, number in enumerate(self.scanned) if number not in self.dropped]
            yield histograms_of(self.scan.measures.take(kept))
        if self.languages:
            yield histogram_of_languages(self.languages[number] for number in self._left())

    def _left(self) -> list[int]:
        return [number for number in range(len(self.texts)) if number not in self.dropped]

    def _by_characters(self) -> None:
        """Before anything is measured: it costs nothing."""
        rules = self.filters.length
        assert rules is not None
        left = self._left()
        lengths = np.fromiter(map(len, self.texts), np.int64, len(self.texts))
        self._drop(left, filter_rules.length_in_characters(lengths, rules))

    def _drop(self, rows: Sequence[int], checks: Iterable[Check]) -> None:
        """Those that fail, each by its first reason. `rows`: number of the text of each row of the checks."""
        for check in checks:
            for row in np.flatnonzero(check.fails).tolist():
                if rows[row] not in self.dropped:
                    self.dropped[rows[row]] = Dropped(check.reason, check.detail(row))

    def _by_language(self) -> None:
        rules = self.filters.language
        assert rules is not None
        left = self._left()
        beginnings = [beginning(self.texts[number], rules.bytes) for number in left]
        for number, (label, score) in zip(left, self.judge._languages.best(beginnings), strict=True):
            self.languages[number] = label
            if label not in rules.keep:
                self.dropped[number] = Dropped("language_other", f"{label} ({score:.2f})")
            elif score < rules.min_score:
                detail = f"{label} ({score:.2f}), surer than {rules.min_score:g} is asked for"
                self.dropped[number] = Dropped("language_unsure", detail)

    def _by_measures(self) -> None:
        rules = self.filters.c4
        self.scanned = left = self._left()
        if rules is not None and rules.citations:
            for number in left:
                self.texts[number] = c4_lines.remove_citations(self.texts[number])
        parts = [self.texts[number].encode() for number in left]
        offsets = np.concatenate(
            [np.zeros(1, np.int64), np.cumsum([len(part) for part in parts], dtype=np.int64)]
        )
        lowered = b"".join(parts).lower() if rules is not None else b""
        self.scan = scan = self.judge._scanner.scan(
            parts,
            c4_lines.line_rules(rules) if rules is not None else None,
            c4_lines.unwanted_bytes(lowered, offsets, rules) if rules is not None else None,
            ngrams=self.filters.gopher_repetition is not None,
        )
        m = scan.measures
        self._drop(left, self._checks(scan, lowered))
        changed = m[Column.KEPT_LINES] < m[Column.LINES]
        for row in np.flatnonzero(changed).tolist():
            if left[row] not in self.dropped:
                self.texts[left[row]] = scan.kept_text(row)

    def _checks(self, scan: Scan, lowered: bytes) -> Iterable[Check]:
        filters, m = self.filters, scan.measures
        none = np.zeros(len(m), np.int64)
        if filters.length is not None:
            yield from filter_rules.length_in_words(m, filters.length)
        if filters.gopher_repetition is not None:
            yield from filter_rules.gopher_repetition(m, filters.gopher_repetition)
        if filters.gopher_quality is not None:
            yield from filter_rules.gopher_quality(m, filters.gopher_quality)
        if filters.c4 is not None:
            lorem_ipsum = c4_lines.holds_lorem_ipsum(lowered, scan.offsets)
            bad_words = none if self.judge._bad_words is None else self.judge._bad_words.count(scan)
            yield from filter_rules.c4(m, filters.c4, lorem_ipsum, bad_words)
        if filters.fineweb is not None:
            yield from filter_rules.fineweb(m, filters.fineweb)
        if filters.words is not None:
            found = none if self.judge._words is None else self.judge._words.count(scan)
            yield from filter_rules.words(m, filters.words, found)

    def _by_classifier(self) -> None:
        rules = self.filters.fasttext
        assert rules is not None
        left = self._left()
        beginnings = [beginning(self.texts[number], rules.bytes) for number in left]
        for number, score in zip(left, self.judge._classifier.score(beginnings, rules.label), strict=True):
            if score < rules.min_score:
                detail = f"{score:.3f} for {rules.label}, less than {rules.min_score:g}"
                self.dropped[number] = Dropped("fasttext_score", detail)


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
