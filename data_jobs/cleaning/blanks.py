"""Blanks: runs of them inside a line, those at a line's end, lines that hold nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from data_jobs.cleaning.signs import BLANK_RUN, EMPTY_LINES, TRAILING, WIDE_BLANK, Signs

Step = Callable[[str], tuple[str, int]]

_WIDE = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
_SET = rf"[ \t{_WIDE}]"
_STRIPPED = (
    " \t\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
)
# The first blank must follow something, so a line's indentation is not a run.
_RUN = re.compile(rf"({_SET})(?<=\S{_SET}){_SET}+(?=\S)")
_EMPTY_LINES = re.compile(rf"\n(?:{_SET}*\n){{3,}}")


def steps_of(wanted: Iterable[str], signs: Signs) -> list[tuple[str, Step]]:
    """(kind of change, step) of values of `corpus.clean.white_space`, in their order."""
    known = (
        ("runs", "blank_runs", BLANK_RUN, shorten_runs),
        ("trailing", "trailing_blanks", TRAILING, strip_lines),
        ("blank_lines", "blank_lines", EMPTY_LINES, limit_blank_lines),
    )
    chosen = set(wanted)
    return [(kind, _where(sign, signs, step)) for name, kind, sign, step in known if name in chosen]


def shorten_runs(text: str) -> tuple[str, int]:
    """Several blanks between two characters of a line become the first of them."""
    return _RUN.subn(r"\1", text)


def strip_lines(text: str) -> tuple[str, int]:
    """No blanks at a line's end; the count is of lines."""
    before = text.split("\n")
    after = [line.rstrip(_STRIPPED) for line in before]
    return "\n".join(after), sum(map(str.__ne__, before, after))


def limit_blank_lines(text: str) -> tuple[str, int]:
    """At most two lines in a row that hold nothing but blanks."""
    return _EMPTY_LINES.subn("\n\n\n", text)


def _where(sign: int, signs: Signs, change: Step) -> Step:
    def step(text: str) -> tuple[str, int]:
        return change(text) if signs.of(text) & (sign | WIDE_BLANK) else (text, 0)

    return step
