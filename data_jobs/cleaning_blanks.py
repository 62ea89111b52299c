"""Blanks: runs of them inside a line, those at a line's end, lines that hold nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable

_WIDE = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
_SET = rf"[ \t{_WIDE}]"
_STRIPPED = " \t\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_ANY_WIDE = re.compile(f"[{_WIDE}]")
# The first blank must follow something, so a line's indentation is not a run.
_RUN = re.compile(rf"({_SET})(?<=\S{_SET}){_SET}+(?=\S)")
_EMPTY_LINES = re.compile(rf"\n(?:{_SET}*\n){{3,}}")


def shorten_runs(text: str) -> tuple[str, int]:
    """Several blanks between two characters of a line become the first of them."""
    if not any(pair in text for pair in ("  ", " \t", "\t ", "\t\t")) and not _has_wide(text):
        return text, 0
    return _RUN.subn(r"\1", text)


def strip_lines(text: str) -> tuple[str, int]:
    """No blanks at a line's end; the count is of lines."""
    if " \n" not in text and "\t\n" not in text and text[-1:] not in (" ", "\t") and not _has_wide(text):
        return text, 0
    before = text.split("\n")
    after = [line.rstrip(_STRIPPED) for line in before]
    count = sum(map(str.__ne__, before, after))
    return ("\n".join(after), count) if count else (text, 0)


def limit_blank_lines(text: str) -> tuple[str, int]:
    """At most two lines in a row that hold nothing but blanks."""
    # Four line ends with nothing or blanks between; with blanks, there is one right before a line end.
    if "\n\n\n\n" not in text and " \n" not in text and "\t\n" not in text and not _has_wide(text):
        return text, 0
    changed, count = _EMPTY_LINES.subn("\n\n\n", text)
    return changed, count


def _has_wide(text: str) -> bool:
    return not text.isascii() and _ANY_WIDE.search(text) is not None


STEPS: tuple[tuple[str, str, Callable[[str], tuple[str, int]]], ...] = (
    ("runs", "blank_runs", shorten_runs),
    ("trailing", "trailing_blanks", strip_lines),
    ("blank_lines", "blank_lines", limit_blank_lines),
)
"""(value of `corpus.clean.white_space`, kind of change, step) in their order."""
