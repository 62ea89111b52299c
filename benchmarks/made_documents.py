"""Any number of documents made from a text, with duplicates that are known.

Words follow each other as they do in the text (a Markov chain of order 2, Shannon 1948, section 3), so that
documents are as different as pages of one author are; a share of them is an earlier one with a few words
exchanged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

WORDS = 110  # of a document, in the mean
COPIES = 0.1  # of the documents
EDITED = 0.02  # of a copy's words
_BLOCK = 10_000  # documents made at once


@dataclass(frozen=True)
class Made:
    """One document; `copy_of`: the number of the one that it was made from."""

    number: int
    text: str
    copy_of: int | None


class Chain:
    """Which words follow which two in a text."""

    def __init__(self, texts: Sequence[str]) -> None:
        words: list[str] = []
        for text in texts:
            words += text.split()
        self.vocabulary, ids = np.unique(np.array(words, object), return_inverse=True)
        self.ids = ids.astype(np.int64)
        pairs = self.ids[:-2] * len(self.vocabulary) + self.ids[1:-1]
        order = np.argsort(pairs, kind="stable")
        # Places in the text whose two words before are equal stand side by side.
        self.sorted_pairs, self.next_place = pairs[order], order + 2

    def walk(self, lengths: npt.NDArray[np.int64], seed: int) -> list[npt.NDArray[np.int64]]:
        """Word ids of one document for each length."""
        total = int(lengths.sum())
        draws = np.random.default_rng(seed).integers(0, 1 << 62, total)
        out = np.empty(total, np.int64)
        _walk(self.ids, self.sorted_pairs, self.next_place, len(self.vocabulary), lengths, draws, out)
        return np.split(out, np.cumsum(lengths)[:-1])

    def spell(self, ids: npt.NDArray[np.int64]) -> str:
        """Words as a text of lines."""
        words = self.vocabulary[ids]
        return "\n".join(" ".join(words[i : i + 14]) for i in range(0, len(words), 14)) + "\n"


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _walk(
    ids: Any, sorted_pairs: Any, next_place: Any, vocabulary: int, lengths: Any, draws: Any, out: Any
) -> None:
    at = 0
    for length in lengths:
        place = draws[at] % (len(ids) - 2)
        for _ in range(length):
            out[at] = ids[place]
            if place + 2 >= len(ids):
                place = draws[at] % (len(ids) - 2)
            else:
                pair = ids[place] * vocabulary + ids[place + 1]
                low = np.searchsorted(sorted_pairs, pair)
                high = np.searchsorted(sorted_pairs, pair, side="right")
                # The place after the first of the two words, in another occurrence of the pair.
                place = next_place[low + draws[at] % (high - low)] - 1
            at += 1


def make_documents(texts: Sequence[str], count: int, seed: int = 0) -> Iterator[Made]:
    """`count` documents; the first n of any two counts are the same."""
    chain = Chain(texts)
    for block, first in enumerate(range(0, count, _BLOCK)):
        chance = np.random.default_rng([seed, block])
        lengths = chance.integers(WORDS // 2, WORDS * 3 // 2, _BLOCK)
        made = chain.walk(lengths, int(chance.integers(1 << 62)))
        for row in range(min(_BLOCK, count - first)):
            # Copies are of documents of the same block: nothing has to be kept.
            if row and chance.random() < COPIES:
                original = int(chance.integers(row))
                ids = made[original].copy()
                edits = chance.integers(0, len(ids), max(1, round(EDITED * len(ids))))
                ids[edits] = chance.integers(0, len(chain.vocabulary), len(edits))
                made[row] = ids
                yield Made(first + row, chain.spell(ids), first + original)
            else:
                yield Made(first + row, chain.spell(made[row]), None)


def write_documents(folder: Path, texts: Sequence[str], count: int, per_file: int = 50_000) -> int:
    """JSON lines in files of `per_file` documents; the bytes of their texts."""
    folder.mkdir(parents=True, exist_ok=True)
    size = 0
    file = None
    for made in make_documents(texts, count):
        if made.number % per_file == 0:
            if file is not None:
                file.close()
            file = open(folder / f"part-{made.number // per_file:05d}.jsonl", "w", encoding="utf-8")  # noqa: SIM115
        assert file is not None
        size += len(made.text.encode())
        file.write(json.dumps({"id": made.number, "text": made.text}, ensure_ascii=False) + "\n")
    if file is not None:
        file.close()
    return size
