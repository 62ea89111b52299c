"""Repair of text that was decoded by the wrong encoding, by ftfy behind a cheap test.

ftfy changes a text only where its own test (`ftfy.badness`) finds a sequence that hardly any language has.
Reading everything by that test is slow, so it is asked about lines alone in which a rarer thing stands: each
of its sequences holds a suspicious character beside one of the few hundred that wrong decodings give, or a
character that suffices alone.

It is off unless a recipe asks for it: a corpus that was decoded well has nothing to repair, and the rare
sequence that is meant (a table of encodings, a rare orthography) would be changed.
"""

from __future__ import annotations

import re

from ftfy import fix_encoding
from ftfy.badness import MOJIBAKE_CATEGORIES

# Letters of everyday words in the scripts that wrong decodings resemble: they are suspicious beside others.
_EVERYDAY = ("common", "lower_accented", "lower_common", "upper_common", "kaomoji", "c1")
# They stand in sequences of ftfy's test beside everyday letters alone.
_ALSO = "ЂÙ°"
# Suspicious alone, or beside blanks and Latin letters; the ligature before anything but a letter.
_ALONE, _LIGATURE = "\x80-\x9fÂÃ", "œŒ"


def _gate() -> re.Pattern[str]:
    """It begins with one set of characters, so that the search for it runs at the speed of the set."""
    whole = "".join(MOJIBAKE_CATEGORIES.values())
    suspects = "".join(c for name, c in MOJIBAKE_CATEGORIES.items() if name not in _EVERYDAY) + _ALSO
    alone = rf"(?<=[{_ALONE}])|(?<=[{_LIGATURE}])(?![A-Za-z])"
    beside = rf"(?<![{_LIGATURE}])(?:(?<=[{whole}].)|(?=[{whole}]))"
    return re.compile(f"[{_ALONE}{_LIGATURE}{suspects}](?:{alone}|{beside})", re.DOTALL)


_GATE = _gate()


def repair_encoding(text: str) -> tuple[str, int]:
    """The text with each line as ftfy.fix_encoding gives it, and the number of lines that it changed."""
    if text.isascii():
        return text, 0
    parts: list[str] = []
    done = count = 0
    hit = _GATE.search(text)
    while hit is not None:
        start = text.rfind("\n", 0, hit.start()) + 1
        end = text.find("\n", hit.start())
        stop = len(text) if end < 0 else end
        line = text[start:stop]
        fixed = fix_encoding(line)
        if fixed != line:
            count += 1
            parts += [text[done:start], fixed]
            done = stop
        hit = _GATE.search(text, stop)
    return ("".join([*parts, text[done:]]), count) if count else (text, 0)


def is_suspicious(line: str) -> bool:
    """Whether ftfy is asked about a line."""
    return not line.isascii() and _GATE.search(line) is not None
