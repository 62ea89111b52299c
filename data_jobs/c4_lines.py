"""What C4 does to the lines of a page (Raffel et al. 2020, section 2.2): marks out, lines out, the rest joined."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from data_jobs.filter_settings import C4Filter
from data_jobs.measure_kernels import KEEP
from data_jobs.scanning import LineRules, Scan

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


def holds_lorem_ipsum(
    lowered: bytes | bytearray, offsets: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Whether each of the texts in a row holds lorem ipsum."""
    found = np.zeros(len(offsets) - 1, np.bool_)
    for at in _places(lowered, offsets, _LOREM):
        found[_document_at(offsets, at)] = True
    return found


def kept_text(scan: Scan, document: int) -> str | None:
    """The lines that are kept: neighbours as they stand, others with one newline between, or with a blank
    line where one stood there. None where all are kept.
    """
    lines = slice(int(scan.line_offsets[document]), int(scan.line_offsets[document + 1]))
    keep = (scan.line_bits[lines] & KEEP) != 0
    if keep.all():
        return None
    starts, stops = scan.line_bounds[lines, 0], scan.line_bounds[lines, 1]
    # Bounds leave out lines of blanks only: where one stood, the next line begins later than a newline after.
    blanks = np.zeros(len(starts), np.int64)
    blanks[1:] = np.cumsum(starts[1:] > stops[:-1] + 1)
    edges = np.flatnonzero(np.diff(keep, prepend=False, append=False)).tolist()
    parts: list[bytes] = []
    before = 0
    for first, after in zip(edges[::2], edges[1::2], strict=True):
        if parts:
            parts.append(b"\n\n" if blanks[first] > blanks[before] else b"\n")
        before = after - 1
        parts.append(scan.data[starts[first] : stops[before]].tobytes())
    return b"".join(parts).decode()


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
