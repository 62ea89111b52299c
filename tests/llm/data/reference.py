"""The order contract (C1, C2, C4, C7) once more, slow and obvious: Python integers, one sample at a time."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

import numpy as np

from data_jobs.hashes import h64, mix
from llm.data import ArrayStream, Vocabulary


@lru_cache(maxsize=64)
def _sorted_by_mix(n: int, key: int) -> list[int]:
    return sorted(range(n), key=lambda y: mix(y ^ key))


def perm(x: int, n: int, key: int) -> int:
    if n <= 65_536:
        return _sorted_by_mix(n, key)[x]
    bits = 0
    while 2**bits < n:
        bits += 1
    while True:
        left_bits, right_bits = bits // 2, bits - bits // 2
        left, right = x // 2**right_bits, x % 2**right_bits
        for round_ in range(6):
            f = mix(right ^ h64(key, round_)) % 2**left_bits
            left, right = right, left ^ f
            left_bits, right_bits = right_bits, left_bits
        x = left * 2**right_bits + right
        if x < n:
            return x


def table(counts: list[int]) -> list[int]:
    """At each place the released unit that is due first."""
    m, cycle = len(counts), sum(counts)
    if m == 1:
        return [0] * cycle
    d = 2 * m - 2
    stood = [0] * m
    result = []
    for n in range(1, cycle + 1):
        best = None
        for k, q in enumerate(counts):
            j = stood[k] + 1
            if j > q or q * n * d < ((j - 1) * d + 1) * cycle:
                continue
            due = Fraction((j * d - 1) * cycle, q * d)  # first whole n at or above
            due_at = -(-due.numerator // due.denominator)
            if best is None or (due_at, k) < best:
                best = (due_at, k)
        assert best is not None
        stood[best[1]] += 1
        result.append(best[1])
    return result


def start(source: str, tokens: int, length: int, seed: int, lanes: int, p: int, small: int = 2**33) -> int:
    samples = tokens // length
    e, q = p // samples, p % samples
    key = h64(seed, source, e)
    k = samples if tokens <= small else min(samples, lanes)
    r = samples // k
    if q < k * r:
        t, j = q // k, q % k
        lane = perm(j, k, key)
        rho = 0 if e == 0 else mix(lane ^ h64(key, "rho")) % r
        i = lane * r + (t + rho) % r
    else:
        i = k * r + perm(q - k * r, samples - k * r, h64(key, "rest"))
    phase = h64(key, "phase") % tokens
    return (phase + i * length) % tokens


def window(tokens: list[int], at: int, size: int) -> list[int]:
    return [tokens[(at + j) % len(tokens)] for j in range(size)]


def batches(schedule: list[tuple[int, int]], skips: list[tuple[int, int]]) -> Iterator[tuple[list[int], int]]:
    """(sample numbers, n afterwards) of step 0, 1, 2, ..."""
    n, step = 0, 0
    while True:
        size = [b for from_step, b in schedule if from_step <= step][-1]
        numbers = []
        while len(numbers) < size:
            if not any(first <= n < end for first, end in skips):
                numbers.append(n)
            n += 1
        yield numbers, n
        step += 1


class ArrayCorpus:
    """A corpus in memory: {split: {source: tokens}}."""

    corpus_id = "test"

    def __init__(self, splits: dict[str, dict[str, np.ndarray]]) -> None:
        self.splits = splits

    def sources(self, split: str) -> list[str]:
        return sorted(self.splits[split])

    def stream(self, source: str, split: str) -> ArrayStream:
        return ArrayStream(self.splits[split][source])


class EndlessStream:
    """A stream of any size that is nowhere: token j is j mod 2^16."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def read(self, start: int, stop: int) -> np.ndarray:
        return np.arange(start, stop).astype(np.uint16)


class EndlessCorpus:
    corpus_id = "endless"

    def __init__(self, **tokens: int) -> None:
        self.tokens = tokens

    def sources(self, split: str) -> list[str]:
        return sorted(self.tokens)

    def stream(self, source: str, split: str) -> EndlessStream:
        return EndlessStream(self.tokens[source])


SPECIALS = {"pad": 0, "unk": 1, "bos": 2, "eos": 3, "cls": 4, "sep": 5, "mask": 6}
VOCABULARY = Vocabulary(900, SPECIALS, np.random.default_rng(5).random(900) < 0.6)


class Text:
    """A made-up text: documents of sentences of tokens, no special among them, and its stream."""

    def __init__(self, seed: int, documents: int, sentences: int = 12, tokens: int = 14) -> None:
        draw = np.random.default_rng(seed)
        self.documents = [
            [draw.integers(7, 900, draw.integers(1, tokens)) for _ in range(draw.integers(1, sentences))]
            for _ in range(documents)
        ]
        parts, ends, at = [], [], 0
        self.bounds = [0]
        for document in self.documents:
            for sentence in document:
                parts.append(sentence)
                at += len(sentence)
                ends.append(at)
            parts.append([3])
            at += 1
            self.bounds.append(at)
        self.tokens = np.concatenate(parts).astype(np.uint16)
        self.sentence_ends = np.array(ends)
        self.stream = ArrayStream(self.tokens, 3, self.sentence_ends)

    def document_of(self, token: int) -> int:
        return int(np.searchsorted(self.bounds, token, side="right")) - 1


class TextCorpus:
    """A corpus of made-up texts: {split: {source: text}}."""

    def __init__(self, splits: dict[str, dict[str, Text]], corpus_id: str = "text") -> None:
        self.splits, self.corpus_id = splits, corpus_id

    def sources(self, split: str) -> list[str]:
        return sorted(self.splits[split])

    def stream(self, source: str, split: str) -> ArrayStream:
        return self.splits[split][source].stream
