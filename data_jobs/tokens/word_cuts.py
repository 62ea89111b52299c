"""Where a text can be cut so that the tokens of its parts are those of the whole: read off a vocabulary.

Byte-pair encoding (Sennrich et al. 2016; SentencePiece's form of it: Kudo and Richardson 2018) begins with
characters and joins two neighbours only into an entry. So between two characters that stand side by side in
no entry, no join ever reaches across, and joins on one side do not hang on those of the other: SentencePiece
takes the best join first, the leftmost of equals, and that order inside a part is the same with and without
the rest. In the vocabularies that we train such places are before the blanks that follow a word, between a
word and punctuation, around each line end, and wherever else two characters are strangers.

Fixed entries (user-defined symbols: line ends with their indentation) are found before any join, from left to
right, the longest first, and are never joined: cut before and after each.

The law is exact for byte-pair encoding alone. A unigram adds up scores along the whole text, in floats, so
that which of two equal cuts wins may hang on what stood before.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_jobs.hashes import MASK64
from data_jobs.tokens.sentencepiece_file import FIXED, NORMAL, UNUSED, ModelFile

SPACE = "\u2581"
GOLDEN = 0x9E3779B97F4A7C15
"""Odd, and 2^64 over the golden ratio: the multiplier of a Fibonacci hash (Knuth, volume 3, section 6.4)."""


@dataclass(frozen=True, eq=False)
class Cuts:
    """The rule of one vocabulary, as tables for a kernel."""

    ascii_pairs: npt.NDArray[np.uint8]
    """[128 * 128]: 1 where two characters stand side by side in an entry."""
    pairs: npt.NDArray[np.int64]
    """The same for all other characters: a hash set of first << 21 | second by `pair_slot`, -1 is free."""
    starts: npt.NDArray[np.uint8]
    """[256]: 1 where a fixed entry begins with this byte."""
    classes: npt.NDArray[np.uint8]
    """[256]: number of a byte of fixed entries; 0 for all others."""
    trie: npt.NDArray[np.int32]
    """[nodes, classes]: the next node of the tree of fixed entries; 0: none."""
    ends: npt.NDArray[np.uint8]
    """[nodes]: 1 where a fixed entry ends."""
    fixed: dict[str, int]
    """Fixed entries, blanks as blanks, to their ids."""
    separator: tuple[int, int] | None
    """A byte that is a fixed entry, and its id, which may follow any text without changing its tokens."""

    @property
    def pair_shift(self) -> int:
        """See `pair_slot`."""
        return 64 - (len(self.pairs) - 1).bit_length()


def cuts_of(model: ModelFile) -> Cuts | None:
    """The rule of a model; None where it cannot be cut exactly."""
    texts = {text for text, kind in model.pieces if kind in (NORMAL, FIXED)}
    if (
        model.algorithm != "bpe"
        or not model.takes_text_as_it_is
        or not model.byte_fallback  # else neighbours without an entry are one unknown token
        or any(
            kind == UNUSED for _, kind in model.pieces
        )  # those are taken apart by how they were first made
        or any(" " in text for text in texts)
    ):
        return None
    ascii_pairs = np.zeros(128 * 128, np.uint8)
    wide: set[int] = set()
    for text in texts:
        for first, second in itertools.pairwise(map(ord, text.replace(SPACE, " "))):
            if first < 128 and second < 128:
                ascii_pairs[first * 128 + second] = 1
            else:
                wide.add(first << 21 | second)
    fixed = {
        text.replace(SPACE, " "): token for token, (text, kind) in enumerate(model.pieces) if kind == FIXED
    }
    starts, classes, trie, ends = _tree(text.encode() for text in fixed)
    return Cuts(ascii_pairs, _hash_set(wide), starts, classes, trie, ends, fixed, _separator(fixed))


def pair_slot(key: int, shift: int) -> int:
    """Where a pair's search begins in a set of 2^(64 - shift) places."""
    return (key * GOLDEN & MASK64) >> shift


def _hash_set(keys: set[int]) -> npt.NDArray[np.int64]:
    """Linear probing, at most half full."""
    bits = max(4, (2 * len(keys)).bit_length())
    table = [-1] * (1 << bits)
    for key in sorted(keys):
        slot = pair_slot(key, 64 - bits)
        while table[slot] >= 0:
            slot = (slot + 1) & (len(table) - 1)
        table[slot] = key
    return np.array(table, np.int64)


def _tree(
    texts: Iterable[bytes],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """(starts, classes, trie, ends) of the fixed entries."""
    entries = sorted(texts)
    starts, classes = np.zeros(256, np.uint8), np.zeros(256, np.uint8)
    letters = sorted({byte for entry in entries for byte in entry})
    for number, byte in enumerate(letters, 1):
        classes[byte] = number
    trie = [[0] * (len(letters) + 1)]
    ends = [0]
    for entry in entries:
        node = 0
        for byte in entry:
            kind = int(classes[byte])
            if not trie[node][kind]:
                trie[node][kind] = len(trie)
                trie.append([0] * (len(letters) + 1))
                ends.append(0)
            node = trie[node][kind]
        ends[node] = 1
        starts[entry[0]] = 1
    return starts, classes, np.array(trie, np.int32), np.array(ends, np.uint8)


def _separator(fixed: dict[str, int]) -> tuple[int, int] | None:
    """A fixed entry of one byte from which no longer one goes on, and which none reaches that may begin in
    a unit: one whose first character is a fixed entry itself begins no place but a fixed entry's.
    """
    for text, token in sorted(fixed.items()):
        others = [other for other in fixed if other != text and text in other]
        if (
            len(text) == 1
            and text.isascii()
            and all(not other.startswith(text) and other[0] in fixed for other in others)
        ):
            return ord(text), token
    return None
