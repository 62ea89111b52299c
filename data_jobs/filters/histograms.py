"""What the documents that stay are like: counts by bin, of a bounded number of bins, that add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from data_jobs.filters.measures import Column, Floats, Measures

Histograms = dict[str, dict[str, int]]
"""Name to bin to count. Bins of lengths are the exponents of their powers of two, of shares tenths."""


def histograms_of(m: Measures) -> Histograms:
    """Of documents that were measured."""
    return {
        "characters_log2": _by_power(m[Column.CHARACTERS].tolist()),
        "words_log2": _by_power(m[Column.WORDS].tolist()),
        "mean_word_length": _count(np.minimum(np.nan_to_num(m.mean_word_length()), 20).astype(np.int64)),
        "terminal_lines": _by_tenth(m.ratio(Column.KEPT_TERMINAL_LINES, Column.KEPT_LINES)),
        "duplicate_line_characters": _by_tenth(
            m.ratio(Column.DUPLICATE_LINE_CHARACTERS, Column.LINE_CHARACTERS)
        ),
        "duplicate_5_grams": _by_tenth(m.ratio(Column.DUPLICATE_5, Column.WORD_CHARACTERS)),
    }


def histogram_of_lengths(texts: Iterable[str]) -> Histograms:
    """Of documents that nothing measured."""
    return {"characters_log2": _by_power(map(len, texts))}


def histogram_of_languages(labels: Iterable[str]) -> Histograms:
    """As many bins as the model knows languages."""
    return {"language": dict(Counter(labels))}


def add_histograms(parts: Iterable[Mapping[str, Mapping[str, int]]]) -> Histograms:
    """The sum, bins in order."""
    sums: dict[str, Counter[str]] = {}
    for part in parts:
        for name, bins in part.items():
            sums.setdefault(name, Counter()).update(bins)
    return {
        name: {bin: sums[name][bin] for bin in sorted(sums[name], key=lambda bin: (len(bin), bin))}
        for name in sorted(sums)
    }


def _by_power(numbers: Iterable[int]) -> dict[str, int]:
    return dict(Counter(str(max(0, number.bit_length() - 1)) for number in numbers))


def _by_tenth(shares: Floats) -> dict[str, int]:
    return _count(np.minimum(10 * shares, 9).astype(np.int64))


def _count(bins: np.ndarray) -> dict[str, int]:
    return dict(Counter(map(str, bins.tolist())))
