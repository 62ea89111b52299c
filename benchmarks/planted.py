"""Planted near duplicates: how many are found, and whether what is dropped is one, by how much was edited."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.curves import plot
from benchmarks.ground import Ground
from benchmarks.made_documents import Chain
from benchmarks.process import run_module
from benchmarks.rows import Row
from data_jobs.dedup.minhash import found_share
from data_jobs.settings import CorpusSettings
from data_jobs.shards.manifest import read_manifest

RATES = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3)
PAIRS = 1000
PICTURE = "near-duplicates.svg"
WORDS = (100, 400)


def rows(ground: Ground, texts: Sequence[str]) -> list[Row]:
    """A row for each share of words that was exchanged in a copy."""
    pairs = 50 if ground.quick else PAIRS
    chain = Chain(texts)
    settings = CorpusSettings().minhash
    with_copies, alone = ground.fresh("planted"), ground.fresh("alone")
    similar: dict[float, list[float]] = {}
    for number, rate in enumerate(RATES):
        made = [_pair(chain, rate, number * pairs + i) for i in range(pairs)]
        similar[rate] = [jaccard(one, other, settings.ngram) for one, other in made]
        _write(with_copies / f"{number}.jsonl", [text for pair in made for text in pair])
        _write(alone / f"{number}.jsonl", [one for one, _ in made])
    found, wrong = dropped_of(ground, with_copies), dropped_of(ground, alone)
    named = dict(zip(RATES, found, strict=True))
    expected = {rate: float(np.mean([_expected(s) for s in values])) for rate, values in similar.items()}
    ground.pictures[PICTURE] = plot(
        "Near duplicates that are found, by edits",
        "% of the words of a copy that were exchanged",
        "% of the copies",
        {
            "found": {100 * rate: 100 * count / pairs for rate, count in named.items()},
            "at or above the threshold": {
                100 * rate: 100 * float(np.mean(np.array(values) >= settings.threshold))
                for rate, values in similar.items()
            },
            "expected of both": {100 * rate: 100 * share for rate, share in expected.items()},
        },
    )
    return [_row(rate, similar[rate], named[rate], wrong[n], expected[rate]) for n, rate in enumerate(RATES)]


def _row(rate: float, similar: Sequence[float], found: int, wrong: int, expected: float) -> Row:
    threshold = CorpusSettings().minhash.threshold
    near = float(np.mean(np.array(similar) >= threshold))
    planted = 1 - wrong / found if found else 1.0
    note = (
        f"{len(similar):,} copies, mean similarity {np.mean(similar):.3f}, of {near:.3f} of them at least "
        f"{threshold}; the bands find {expected:.3f} by theory; {wrong:,} documents are dropped where there "
        f"are no copies, so {planted:.3f} of what was dropped was planted"
    )
    share = found / len(similar)
    what = f"near duplicates found, {100 * rate:g} % of a copy's words exchanged"
    if not near:
        return Row(what, "share of the copies", share, note=note)
    return Row(what, "share of the copies", share, near, "those at or above the threshold", note=note)


def _expected(similarity: float) -> float:
    """The chance that a pair of this similarity is found, and is near enough."""
    settings = CorpusSettings().minhash
    return found_share(similarity, settings.bands, settings.rows) * (similarity >= settings.threshold)


def _pair(chain: Chain, rate: float, seed: int) -> tuple[str, str]:
    chance = np.random.default_rng(seed)
    [ids] = chain.walk(chance.integers(*WORDS, 1), seed)
    other = ids.copy()
    edits = chance.choice(len(ids), max(1, round(rate * len(ids))), replace=False)
    other[edits] = chance.integers(0, len(chain.vocabulary), len(edits))
    return chain.spell(ids), chain.spell(other)


def jaccard(one: str, other: str, ngram: int) -> float:
    """Of the sets of word n-grams, in plain Python."""
    from data_jobs.dedup.text_kernels import words_of

    sets = []
    for text in (one, other):
        words = words_of(text)
        sets.append({tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)})
    return len(sets[0] & sets[1]) / max(1, len(sets[0] | sets[1]))


def dropped_of(ground: Ground, folder: Path) -> list[int]:
    """Documents of each file that are dropped as near duplicates, each file a source."""
    sources = [
        {"name": f"s{number}", "path": str(folder / f"{number}.jsonl")} for number in range(len(RATES))
    ]
    corpus: dict[str, Any] = {
        "sources": sources,
        "dedup": "minhash",
        "tokenizer": {"vocab_size": 1000, "sample_bytes": 200_000},
    }
    recipe, out = ground.fresh("recipe").with_suffix(".yaml"), ground.fresh("corpus")
    recipe.write_text(yaml.safe_dump({"corpus": corpus}))
    run_module(ground.log(), "data_jobs.prepare", str(recipe), "--engine", "local", "--corpus.out", str(out))
    stages = {
        stage["source"]: stage
        for stage in read_manifest(out)["stages"]
        if stage["stage"] == "near_duplicates"
    }
    return [stages[source["name"]]["documents"]["dropped"].get("near_duplicate", 0) for source in sources]


def _write(path: Path, texts: Sequence[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
