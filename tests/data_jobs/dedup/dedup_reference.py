"""Near duplicates in plain Python, all pairs: what the compiled and distributed way is compared with."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence

# Letters and digits of the texts of these tests; characters without spaces between words are words.
_WORD = re.compile(r"[぀-ヺー-ヿ㐀-鿿가-힣]|[0-9A-Za-zÀ-ÖØ-öø-ÿЀ-ӿ]+")


def plain_words(text: str) -> list[str]:
    """Words with ASCII letters in lower case."""
    return [re.sub("[A-Z]", lambda m: m[0].lower(), word) for word in _WORD.findall(text)]


def plain_shingles(text: str, ngram: int) -> set[tuple[str, ...]]:
    """The set of n-grams; a short text is one."""
    words = plain_words(text)
    if 0 < len(words) < ngram:
        return {tuple(words)}
    return {tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)}


def jaccard(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> float:
    """|A and B| / |A or B|."""
    return len(one & other) / len(one | other)


def clusters_of(count: int, edges: Sequence[tuple[int, int]]) -> list[set[int]]:
    """Connected components with more than one member, by search."""
    beside: dict[int, set[int]] = {}
    for a, b in edges:
        beside.setdefault(a, set()).add(b)
        beside.setdefault(b, set()).add(a)
    seen: set[int] = set()
    found = []
    for start in range(count):
        if start in seen or start not in beside:
            continue
        cluster, todo = set(), [start]
        while todo:
            at = todo.pop()
            if at not in cluster:
                cluster.add(at)
                todo += beside[at] - cluster
        seen |= cluster
        found.append(cluster)
    return found


def near_pairs(texts: Sequence[str], threshold: float, ngram: int) -> list[tuple[int, int]]:
    """All pairs at or above the threshold.

    AssertionError where the clusters hang on a pair that banding may miss: pairs at 0.93 alone must connect
    what all do. Of those one in 100,000 is missed, (1 - 0.93^8)^14, and the seeds are fixed.
    """
    sets = [plain_shingles(text, ngram) for text in texts]
    pairs = [(a, b) for a, b in itertools.combinations(range(len(texts)), 2) if sets[a] and sets[b]]
    near = {pair: jaccard(sets[pair[0]], sets[pair[1]]) for pair in pairs}
    found = [pair for pair in pairs if near[pair] >= threshold]
    clear = [pair for pair in pairs if near[pair] >= 0.93]
    assert clusters_of(len(texts), found) == clusters_of(len(texts), clear), "banding may miss some of these"
    return found


WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "l", "n", "r", "st")]


def random_text(draw: random.Random, words: int) -> str:
    """A text of random words in lines."""
    said = [draw.choice(WORDS) for _ in range(words)]
    return "\n".join(" ".join(said[at : at + 12]).capitalize() + "." for at in range(0, words, 12))


def with_edit(draw: random.Random, text: str, edits: int = 1) -> str:
    """The text with some words replaced, each by one of its own."""
    parts = text.split(" ")
    for place in draw.sample(range(len(parts)), edits):
        parts[place] = f"new{draw.randrange(10**9)}"
    return " ".join(parts)
