"""Removal of characters that nobody sees, but for those that a script or an emoji needs.

Removed: zero-width space U+200B, BOM U+FEFF, soft hyphen U+00AD, word joiner U+2060, direction marks,
embeddings, overrides and isolates (U+061C, U+200E-200F, U+202A-202E, U+2066-206F), and the joiners U+200C and
U+200D where they join nothing.

Kept: a joiner beside a letter of a script that is shaped by joining (Arabic, Syriac, the scripts of South
and South-East Asia, Mongolian), because there it changes the word; U+200D between two emoji, which are one
sign by it; U+200B between letters of Thai, Lao, Khmer or Myanmar, which write no blank between words.
"""

from __future__ import annotations

import re

_INVISIBLE = re.compile("[\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060\u2066-\u206f\ufeff]+")
# Hebrew has no joining: the range begins after it. Up to Phags-pa and the Brahmi scripts beyond the BMP.
_SHAPED = re.compile(
    "[\u0600-\u109f\u1700-\u1cff\ua800-\uabff\ufb50-\ufdff\ufe70-\ufefc\U00010a00-\U00011fff]"
)
_EMOJI = re.compile(
    "[\u2190-\u21ff\u2300-\u23ff\u2600-\u27bf\u2b00-\u2bff\ufe0f\U0001f000-\U0001faff\U000e0020-\U000e007f]"
)
_NO_BLANKS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")


def remove_invisible(text: str) -> tuple[str, int]:
    """The text without them, and how many went."""
    if text.isascii():
        return text, 0
    cleaned = _INVISIBLE.sub(_what_stays, text)
    return cleaned, len(text) - len(cleaned)


def _what_stays(run: re.Match[str]) -> str:
    """At most one of a run of invisible characters."""
    text, found = run.string, run[0]
    before, after = text[run.start() - 1 : run.start()], text[run.end() : run.end() + 1]
    for character in found:
        if character in "\u200c\u200d" and (_SHAPED.match(before) or _SHAPED.match(after)):
            return character
        if character == "\u200d" and _EMOJI.match(before) and _EMOJI.match(after):
            return character
    if "\u200b" in found and _NO_BLANKS.match(before) and _NO_BLANKS.match(after):
        return "\u200b"
    return ""
