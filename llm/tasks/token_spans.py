"""Where tokens stand in a text: by characters, exactly, whatever the tokenizer.

Tokenizers say where each token ends in UTF-8 bytes (`encode_with_ends`): a token begins where the one before
it ended. A token may end inside of a character; in characters its span is then all of that character.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ends = npt.NDArray[np.int64]


class Spans(NamedTuple):
    """[tokens] each: the characters [start, stop) that a token stands for, without blanks before them."""

    starts: npt.NDArray[np.int32]
    stops: npt.NDArray[np.int32]


def spans_of(text: str, ends: Ends) -> Spans:
    """The spans of the tokens of a text, from where they end in its bytes."""
    data = np.frombuffer(text.encode(), np.uint8)
    leads = (data & 0xC0) != 0x80
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(leads)])  # characters that begin before a byte
    inside = np.append(~leads, False)  # bytes that go on with a character
    begins = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(ends)]
    starts, stops = before[begins] - inside[begins], before[ends]
    # The first character from each on that is no blank.
    solid = np.array([number for number, sign in enumerate(text) if not sign.isspace()] or [len(text)])
    at = np.minimum(np.searchsorted(solid, starts), len(solid) - 1)
    skipped = np.where(solid[at] >= starts, solid[at], stops)
    return Spans(np.minimum(skipped, stops).astype(np.int32), stops.astype(np.int32))


def tokens_of_answer(text: str, ends: Ends, start: int, answer: str) -> tuple[int, int]:
    """The first and the last token of what stands at a character of a text, blanks around it left out."""
    start += len(answer) - len(answer.lstrip())
    first = len(text[:start].encode())
    last = first + len(answer.strip().encode())
    return int(np.searchsorted(ends, first, side="right")), int(np.searchsorted(ends, last, side="left"))
