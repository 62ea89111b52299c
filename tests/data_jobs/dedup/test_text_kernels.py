"""The compiled loops over text beside plain Python."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from data_jobs.dedup.contamination_task import Known
from data_jobs.dedup.evaluation_task import GRAMS, shingles_of
from data_jobs.dedup.minhash import permutations
from data_jobs.dedup.repeat_tasks import units_of
from data_jobs.dedup.text_kernels import hash_shingles, sign_texts, words_of
from data_jobs.runs import text_buffers
from tests.data_jobs.dedup.dedup_reference import plain_shingles, plain_words

PIECES = [
    "the", "Quick", "BROWN", "fox7", "naïve", "ÉCOLE", "Größe", "мир", "Война", "东京", "は静か",
    "カタカナ", "한국어",
    ".", ", ", " ", "\n", "\n\n", "—", "“", "”", "、", "。", "_", "-", "'", "🙂", "…", "\u00a0", "12", "3.14",
]  # fmt: skip


def mixed_text(draw: random.Random) -> str:
    return "".join(draw.choice(PIECES) + draw.choice(["", " "]) for _ in range(draw.randint(0, 60)))


TEXTS = [mixed_text(random.Random(seed)) for seed in range(300)]


def sets_of(text: str, ngram: int, short: bool = True) -> list[int]:
    data = np.frombuffer(text.encode() or b" ", np.uint8)
    out = np.empty(len(data) // 2 + 1, np.uint64)
    return out[: hash_shingles(data, 0, len(data), ngram, short, out)].tolist()


def test_words() -> None:
    assert words_of("It's 3.14, naïve École—x_Y") == ["it", "s", "3", "14", "naïve", "École", "x", "y"]
    assert words_of("私はAI研究、です。") == ["私", "は", "ai", "研", "究", "で", "す"]
    assert words_of("서울 2024") == ["서", "울", "2024"]
    assert words_of("สวัสดี") == list("สวัสดี")
    assert words_of("ｘ１ ﾊﾝｶｸ 🙂 ×") == ["ｘ１", "ﾊ", "ﾝ", "ｶ", "ｸ"]
    assert words_of(" ...\n\t—…") == []


@pytest.mark.parametrize("text", TEXTS[:100])
def test_words_beside_a_regular_expression(text: str) -> None:
    assert words_of(text) == plain_words(text)


@pytest.mark.parametrize("ngram", [1, 2, 5, 13])
def test_shingles_are_equal_where_their_words_are(ngram: int) -> None:
    """Over all texts: as many distinct hashes as n-grams, and each text has those of its own."""
    hash_of: dict[tuple[str, ...], int] = {}
    for text in TEXTS:
        words = plain_words(text)
        grams = [tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)]
        if 0 < len(words) < ngram:
            grams = [tuple(words)]
        hashes = sets_of(text, ngram)
        assert len(hashes) == len(grams)
        for gram, value in zip(grams, hashes, strict=True):
            assert hash_of.setdefault(gram, value) == value
    assert len(set(hash_of.values())) == len(hash_of)


def test_short_texts_are_one_shingle_or_none() -> None:
    assert len(sets_of("two words", 5)) == 1
    assert sets_of("two words", 5) == sets_of("Two  WORDS!", 5) != sets_of("words two", 5)
    assert sets_of("two words", 5, short=False) == []
    assert sets_of("... !", 5) == []


def test_signatures_beside_plain_python() -> None:
    """Each kept byte is a function of the least a * x + b, and all 256 come about equally often."""
    column = pa.array([*TEXTS, ""], pa.large_string())
    values, offsets = text_buffers(column)
    a, b = permutations(24)
    signatures = np.zeros((len(column), 24), np.uint8)
    counts = np.zeros(len(column), np.int64)
    sign_texts(values, offsets, 3, a, b, signatures, counts)
    byte_of: dict[tuple[int, int], int] = {}
    for text, signature, count in zip(column.to_pylist(), signatures.tolist(), counts.tolist(), strict=True):
        hashes = [value >> 32 for value in sets_of(text, 3)] if text else []
        assert count == len(hashes)
        for i, byte in enumerate(signature):
            least = min(((int(a[i]) * x + int(b[i])) % 2**32 for x in hashes), default=2**32 - 1)
            assert byte_of.setdefault((i, least), byte) == byte
    used = Counter(byte_of.values())
    assert len(used) == 256 and max(used.values()) < 3 * len(byte_of) / 256


def test_signatures_of_a_slice() -> None:
    """An array that begins inside of a buffer."""
    column = pa.array(TEXTS, pa.large_string())
    results = []
    for part in (column[50:80], pa.array(TEXTS[50:80], pa.large_string())):
        values, offsets = text_buffers(part)
        signatures, counts = np.zeros((30, 8), np.uint8), np.zeros(30, np.int64)
        sign_texts(values, offsets, 5, *permutations(8), signatures, counts)
        results.append((signatures.tolist(), counts.tolist()))
    assert results[0] == results[1]


def plain_units(text: str, paragraphs: bool) -> list[str]:
    lines = text.splitlines(keepends=True) if text else []
    if not paragraphs:
        return lines
    units: list[str] = []
    ended = True
    for line in lines:
        blank = not line.strip(" \t\n")
        if not units or (ended and not blank):
            units.append(line)
        else:
            units[-1] += line
        ended = blank
    return units


@pytest.mark.parametrize("kind", ["lines", "paragraphs"])
def test_units_beside_plain_python(kind: str) -> None:
    texts = [*TEXTS, "\n\n \t\nlead in\n\n\n", "one\n \ntwo\nthree\n\nfour", "no end", ""]
    hashes, documents, starts, lengths = units_of(pa.array(texts, pa.large_string()), kind, 2)
    rows = zip(documents.tolist(), starts.tolist(), lengths.tolist(), hashes.tolist(), strict=True)
    found = [(d, texts[d].encode()[s : s + n].decode(), value) for d, s, n, value in rows]
    wanted = [
        (d, unit)
        for d, text in enumerate(texts)
        for unit in plain_units(text, kind == "paragraphs")
        if len(plain_words(unit)) >= 2
    ]
    assert [(d, unit) for d, unit, _ in found] == wanted
    by_hash: dict[int, tuple[str, ...]] = {}
    for _, unit, value in found:
        assert by_hash.setdefault(value, tuple(plain_words(unit))) == tuple(plain_words(unit))
    assert len(by_hash) == len(set(by_hash.values()))


def test_known_ngrams() -> None:
    texts, evaluation = TEXTS[:200], TEXTS[100:130]
    hashes = np.unique(np.concatenate([shingles_of(text, 4) for text in evaluation]))
    grams = np.zeros(len(hashes), GRAMS)
    grams["hash"] = hashes
    known = Known(grams)
    values, offsets = text_buffers(pa.array(texts, pa.large_string()))
    counts = known.count(values, offsets, 4).tolist()
    long = [text for text in evaluation if len(plain_words(text)) >= 4]
    wanted = set().union(*(plain_shingles(text, 4) for text in long))
    for text, count in zip(texts, counts, strict=True):
        words = plain_words(text)
        grams_in = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
        assert count == sum(gram in wanted for gram in grams_in)
        shared = [gram for gram, _ in known.shared(text, 4)]
        assert shared == list(dict.fromkeys(" ".join(g) for g in grams_in if g in wanted))
    assert sum(count > 0 for count in counts) >= 30
