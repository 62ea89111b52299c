"""What C4 takes out of a page (Raffel et al. 2020, JMLR 21:140, section 2.2): citation marks, and lines."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from data_jobs.filters.filter_settings import C4Filter
from data_jobs.filters.scanning import LineRules

_CITATION = re.compile(r"\[(?:[0-9]{0,4}|edit|citation needed)\]")
_SCRIPT = (b"javascript",)
_POLICY = (
    b"terms of use", b"privacy policy", b"cookie policy", b"uses cookies", b"use of cookies", b"use cookies",
)  # fmt: skip
_LOREM = b"lorem ipsum"


def remove_citations(text: str) -> str:
    """Without the marks of Wikipedia: [3], [], [edit], [citation needed]."""
    return _CITATION.sub("", text) if "[" in text else text


def line_rules(rules: C4Filter) -> LineRules:
    """As the kernel takes them."""
    return LineRules(rules.min_words_per_line, rules.terminal_punctuation)


def unwanted_bytes(
    lowered: bytes | bytearray, offsets: npt.NDArray[np.int64], rules: C4Filter
) -> npt.NDArray[np.int64]:
    """Ascending offsets at which a phrase begins whose line goes; of texts in a row, in small letters."""
    phrases = (_SCRIPT if rules.javascript else ()) + (_POLICY if rules.policy else ())
    found = (at for phrase in phrases for at in _places(lowered, offsets, phrase))
    return np.array(sorted(found), np.int64)


def holds_lorem_ipsum(lowered: bytes | bytearray, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether each of the texts in a row holds lorem ipsum."""
    found = np.zeros(len(offsets) - 1, np.bool_)
    for at in _places(lowered, offsets, _LOREM):
        found[_document_at(offsets, at)] = True
    return found


def _places(data: bytes | bytearray, offsets: npt.NDArray[np.int64], phrase: bytes) -> list[int]:
    """Where a phrase begins; not where it would need the next text for its end."""
    places = []
    at = data.find(phrase)
    while at >= 0:
        if at + len(phrase) <= offsets[_document_at(offsets, at) + 1]:
            places.append(at)
        at = data.find(phrase, at + 1)
    return places


def _document_at(offsets: npt.NDArray[np.int64], at: int) -> int:
    return int(np.searchsorted(offsets, at, side="right")) - 1
