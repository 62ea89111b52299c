"""Where sentences end, as offsets in the UTF-8 bytes of a text, then as offsets in its tokens.

Rules (name and version stand in the manifest; a changed rule gets a new name):

- `prose-1`: after . ! ? … and the sentence ends of other scripts, with the quotes and brackets that follow,
  where a blank or the end comes next and no small letter after it; after 。！？ and their like at once; at
  blank lines.
- `code-1`: at blank lines, and before a line that starts a definition (def, class, func, fn, function,
  interface, struct, impl, enum, a decorator), whatever its indentation.

A mark never stands inside the white space: it stands before it.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

PROSE, CODE = "prose-1", "code-1"

_CLOSING = "[\"'”’»)\\]}」』】）》〉]*"
# Unicode's sentence terminals: those followed by a blank in their scripts, then those that are not.
_SPACED = ".!?…‼⁇⁈⁉؟۔܀։߹।॥᙮፧፨។៕᭚᭛᱾᱿"
_CLOSE_SET = "。！？．｡︒﹒﹖﹗၊။"
# Possessive, and only from the run's first mark: a long line of dots stays linear.
_PROSE = re.compile(
    f"(?<![{_SPACED}])[{_SPACED}]++{_CLOSING}+(?=\\s+(?P<next>\\S)|\\s*$)|[{_CLOSE_SET}]+{_CLOSING}|(?<=\\S)(?=[^\\S\n]*\n\\s*\n)"
)
_CODE = re.compile(
    r"(?<=\S)(?=[^\S\n]*\n\s*\n)"
    r"|(?<=\S)(?=\s*\n[^\S\n]*(?:(?:async|export|public|private|protected|static|pub|abstract|final)\s+)*"
    r"(?:@\w|(?:def|class|func|fn|function|interface|struct|impl|enum)\b))"
)
# One capital letter before the point: an initial ("J. Smith"), not an end.
_INITIAL = re.compile(r"(?:^|[\s(])[A-Z]\.$")


def rule_of(format: str) -> str:
    """The rule for a source's format."""
    return CODE if format == "code" else PROSE


def sentence_ends(text: str, rule: str) -> npt.NDArray[np.int64]:
    """Exclusive ends of sentences in UTF-8 bytes, strictly increasing; the last one is the text's end."""
    found = [m.end() for m in _CODE.finditer(text)] if rule == CODE else _prose_ends(text)
    at = np.unique(np.array([*found, len(text)], np.int64))
    if not text.isascii():
        data = np.frombuffer(text.encode(), np.uint8)
        starts = np.append(np.flatnonzero((data & 0xC0) != 0x80), len(data))
        at = starts[at]
    return at[at > 0]


def _prose_ends(text: str) -> list[int]:
    ends = []
    for match in _PROSE.finditer(text):
        following = match["next"]
        if following is not None and following.islower():
            continue
        end = match.end()
        if match[0] == "." and _INITIAL.search(text, max(0, end - 3), end):
            continue
        ends.append(end)
    return ends


def token_ends(
    byte_ends: npt.NDArray[np.int64], token_bytes: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint32]:
    """Byte offsets as token offsets: how many tokens reach the end of the sentence, its last one included.

    Strictly increasing; the last one is the number of the document's tokens without its eos. Tokens that add
    nothing (other parts of a character, for some tokenizers) belong to the one that they follow.
    """
    reached = np.cumsum(token_bytes)
    first = np.minimum(np.searchsorted(reached, byte_ends, side="left"), len(reached) - 1)
    return np.unique(np.searchsorted(reached, reached[first], side="right")).astype(np.uint32)
