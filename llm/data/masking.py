"""Which tokens a BERT must guess, and what it is shown in their place (Devlin et al. 2019, section 3.1).

Every draw is mix(key xor counter), key = mix(H64(seed, "mask") xor sample number): the same sample has the
same mask whatever worker makes it, in whatever micro-batch.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from cluster.errors import UserError
from data_jobs.hashes import h64, mix_array
from llm.data.samples import Floats, Ints
from llm.training_settings import MaskingSettings

# Counters: position, or 2^32 (2^33) + position.
_SHOWN, _RANDOM = np.uint64(1 << 32), np.uint64(1 << 33)
_HALF = np.uint64(32)
# Scripts that put no blank between words and are narrow: Thai and Lao, Myanmar, Khmer.
_NO_BLANKS = ((0x0E00, 0x0F00), (0x1000, 0x10A0), (0x1780, 0x1800))


class Pieces(Protocol):
    """What is asked of a tokenizer."""

    vocab_size: int
    specials: dict[str, int]

    def piece_bytes(self, token: int) -> bytes:
        """What a token adds to the text."""

    def is_byte(self, token: int) -> bool:
        """Whether a token is one of the 256 bytes."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What making samples needs to know of a tokenizer."""

    size: int
    specials: Mapping[str, int]
    starts_word: npt.NDArray[np.bool_]  # [vocabulary]

    def special(self, name: str) -> int:
        """The id of a special. UserError where the tokenizer has none."""
        if name not in self.specials:
            raise UserError(
                f"the corpus' tokenizer has no special '{name}', only {', '.join(self.specials) or 'none'}; "
                "prepare the corpus with a tokenizer that has pad, eos, cls, sep and mask"
            )
        return self.specials[name]

    @cached_property
    def ordinary(self) -> npt.NDArray[np.bool_]:
        """[vocabulary]: what may be guessed, or shown as a random token; no special."""
        table = np.ones(self.size, bool)
        table[list(self.specials.values())] = False
        return table

    @cached_property
    def ordinary_ids(self) -> Ints:
        """The ordinary tokens."""
        return np.flatnonzero(self.ordinary)


def vocabulary_of(tokenizer: Pieces) -> Vocabulary:
    """The vocabulary of a tokenizer."""
    starts = np.array(
        [starts_word(tokenizer.piece_bytes(i), tokenizer.is_byte(i)) for i in range(tokenizer.vocab_size)]
    )
    return Vocabulary(tokenizer.vocab_size, dict(tokenizer.specials), starts)


def starts_word(piece: bytes, is_byte: bool = False) -> bool:
    """Whether a word begins with this piece; a piece that does not goes on with the one before it.

    True for white space in front, for what is no letter, digit or accent, and for scripts that put no blank
    between words: there each piece is a word. A byte that spells a character is part of the word around it,
    unless it begins one of three bytes or four (scripts far from Latin).
    """
    if not piece:
        return True
    if is_byte and piece[0] >= 0x80:
        return piece[0] >= 0xE0
    first = piece.decode("utf-8", "replace")[0]
    if unicodedata.category(first)[0] == "M":
        return False
    if not first.isalnum():
        return True
    return unicodedata.east_asian_width(first) in "WF" or any(a <= ord(first) < b for a, b in _NO_BLANKS)


class Guesses(NamedTuple):
    """Rows with a part of their tokens hidden."""

    inputs: Ints  # [rows, L]: as they are shown
    positions: Ints  # [rows, K]: of the guessed tokens, rising; 0 where there is none
    targets: Ints  # [rows, K]: the tokens that stood there; 0 where there is none
    weights: Floats  # [rows, K]: 1, or 0 where there is none


def most_guesses(tokens: int, settings: MaskingSettings) -> int:
    """K: guesses in a row of so many ordinary tokens; no row has more."""
    return int(_budget(np.array([tokens]), settings.share)[0])


def hide(
    inputs: Ints, numbers: Ints, seed: int, most: int, settings: MaskingSettings, words: Vocabulary
) -> Guesses:
    """Choose tokens of each row [rows, L] and hide them.

    Of the n ordinary tokens of a row round(share * n) are chosen, at least 1 (none of none): those with the
    smallest draws. With whole_word, words in the order of their first tokens' draws, each that fits whole
    into what is left of that number; where no word fits, single tokens as without. Each chosen one has a draw
    of its own for what is shown: [MASK], a random ordinary token, or itself.
    """
    mask_id = words.special("mask")
    key = mix_array(np.uint64(h64(seed, "mask")) ^ numbers.astype(np.uint64))[:, None]
    may = words.ordinary[inputs]
    draws = mix_array(key ^ np.arange(inputs.shape[1], dtype=np.uint64))
    counts = _budget(may.sum(axis=1), settings.share)
    if settings.whole_word:
        _draw_by_word(draws, may, words.starts_word[inputs], counts)
    draws[~may] = np.iinfo(np.uint64).max
    positions = np.argsort(draws, axis=1)[:, :most].copy()
    chosen = np.arange(most) < counts[:, None]
    positions[~chosen] = inputs.shape[1]
    positions.sort(axis=1)
    positions[~chosen] = 0

    targets = np.where(chosen, np.take_along_axis(inputs, positions, axis=1), 0)
    shown = targets.copy()
    at = positions.astype(np.uint64)
    fate = (mix_array(key ^ (at | _SHOWN)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    other = words.ordinary_ids[_below(mix_array(key ^ (at | _RANDOM)), len(words.ordinary_ids))]
    randomly = (fate >= settings.mask) & (fate < settings.mask + settings.random)
    shown[randomly] = other[randomly]
    shown[fate < settings.mask] = mask_id
    hidden = inputs.copy()
    row, column = np.nonzero(chosen)
    hidden[row, positions[row, column]] = shown[row, column]
    return Guesses(hidden, positions, targets, chosen.astype(np.float32))


def _budget(tokens: npt.NDArray[np.integer], share: float) -> Ints:
    """round(share * n), halves upwards, at least 1, never more than n."""
    return np.minimum(np.maximum(np.floor(share * tokens + 0.5), 1), tokens).astype(np.int64)


def _below(draws: npt.NDArray[np.uint64], limit: int) -> Ints:
    """Draws as whole numbers in [0, limit), from their upper halves."""
    return ((draws >> _HALF) * np.uint64(limit) >> _HALF).astype(np.int64)


def _draw_by_word(
    draws: npt.NDArray[np.uint64], may: npt.NDArray[np.bool_], starts: npt.NDArray[np.bool_], counts: Ints
) -> None:
    """Set the draws of the chosen words' tokens to 0, and `counts` [rows] to how many these are."""
    begins = may.copy()
    begins[:, 1:] &= starts[:, 1:] | ~may[:, :-1]  # what follows a special begins a word
    for row in range(len(draws)):
        first = np.flatnonzero(begins[row])
        if not len(first):
            continue
        sizes = np.add.reduceat(may[row].astype(np.int64), first)
        order = np.argsort(draws[row, first])
        left, taken = int(counts[row]), []
        for word, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
            if size <= left:
                taken.append(word)
                left -= size
                if not left:
                    break
        if taken:
            counts[row] -= left
            for word in taken:
                draws[row, first[word] : first[word] + sizes[word]] = 0
