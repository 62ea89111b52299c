"""Signatures beside what the papers say of them, banding beside its S-curve, components beside a search."""

from __future__ import annotations

import random
from pathlib import Path

import datasketch
import numpy as np
import pyarrow as pa
import pytest
import yaml

import data_jobs
from data_jobs.dedup.graph_kernels import count_common, next_pair, star_forest, unite
from data_jobs.dedup.minhash import (
    band_keys,
    curve,
    deviation,
    found_share,
    least_agreement,
    permutations,
    similarity,
)
from data_jobs.dedup.text_kernels import sign_texts
from data_jobs.runs import text_buffers
from data_jobs.settings import CorpusSettings
from tests.data_jobs.dedup.dedup_reference import clusters_of, jaccard, plain_shingles


def signatures_of(texts: list[str], count: int = 112, ngram: int = 1) -> np.ndarray:
    values, offsets = text_buffers(pa.array(texts, pa.large_string()))
    signatures = np.zeros((len(texts), count), np.uint8)
    sign_texts(values, offsets, ngram, *permutations(count), signatures, np.zeros(len(texts), np.int64))
    return signatures


def pairs_of_sets(wanted: float, count: int) -> tuple[list[str], list[str], np.ndarray]:
    """Texts of distinct words, a share of about `wanted` in both; the exact similarity of each pair."""
    draw = random.Random(int(wanted * 100))
    ones, others, exact = [], [], []
    for number in range(count):
        size = draw.randint(100, 500)
        common = round(2 * size * wanted / (1 + wanted))
        words = [f"w{number}x{i}" for i in range(2 * size - common)]
        draw.shuffle(words)
        one, other = words[:size], words[size - common :]
        draw.shuffle(other)
        ones.append(" ".join(one))
        others.append(" ".join(other))
        exact.append(jaccard(plain_shingles(ones[-1], 1), plain_shingles(others[-1], 1)))
    return ones, others, np.array(exact)


@pytest.mark.parametrize("wanted", [0.0, 0.3, 0.5, 0.75, 0.9])
def test_estimate_is_unbiased_and_spreads_as_theory_says(wanted: float) -> None:
    """1,000 pairs: the mean error within 4 of its deviations, the spread within a tenth of the formula's."""
    ones, others, exact = pairs_of_sets(wanted, 1000)
    errors = similarity(signatures_of(ones), signatures_of(others)) - exact
    expected = deviation(wanted, 112)
    assert abs(errors.mean()) < 4 * expected / np.sqrt(len(errors))
    assert 0.9 * expected < errors.std() < 1.1 * expected


@pytest.mark.parametrize("wanted", [0.5, 0.6, 0.75])
def test_banding_finds_what_the_curve_says(wanted: float) -> None:
    ones, others, _ = pairs_of_sets(wanted, 1000)
    keys = [band_keys(signatures_of(texts), 8, salt=0) for texts in (ones, others)]
    share = (keys[0] == keys[1]).any(axis=1).mean()
    expected = found_share(wanted, 14, 8)
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / len(ones)) + 0.01


def test_estimates_beside_datasketch() -> None:
    ones, others, exact = pairs_of_sets(0.6, 100)
    theirs = []
    for one, other in zip(ones, others, strict=True):
        sketches = [datasketch.MinHash(num_perm=112), datasketch.MinHash(num_perm=112)]
        for sketch, text in zip(sketches, (one, other), strict=True):
            sketch.update_batch([word.encode() for word in text.split()])
        theirs.append(sketches[0].jaccard(sketches[1]))
    ours = similarity(signatures_of(ones), signatures_of(others))
    assert abs(ours - exact).mean() < 1.2 * abs(np.array(theirs) - exact).mean()


@pytest.mark.parametrize("rows", [1, 3, 8, 11])
def test_band_keys_are_equal_where_the_bytes_of_the_band_are(rows: int) -> None:
    draw = np.random.default_rng(rows)
    signatures = draw.integers(0, 2, (200, 4 * rows), np.uint8)
    keys = band_keys(signatures, rows, salt=1)
    parts = signatures.reshape(200, 4, rows)
    seen: dict[tuple[int, bytes], int] = {}
    for at in range(200):
        for band in range(4):
            value = int(keys[at, band])
            assert seen.setdefault((band, parts[at, band].tobytes()), value) == value
    assert len(set(seen.values())) == len(seen)
    assert not set(band_keys(signatures, rows, salt=2).ravel().tolist()) & set(seen.values())


def test_quick_check_lets_almost_all_near_pairs_through() -> None:
    ones, others, _ = pairs_of_sets(0.75, 1000)
    agreement = (signatures_of(ones) == signatures_of(others)).sum(axis=1)
    assert (agreement >= least_agreement(0.75, 112)).mean() >= 0.998
    assert 0.5 * 112 < least_agreement(0.75, 112) < 0.7 * 112
    assert least_agreement(0.01, 112) >= 0


def test_s_curve() -> None:
    assert found_share(0.0, 14, 8) == 0 and found_share(1.0, 14, 8) == 1
    assert curve(14, 8)["0.75"] == round(1 - (1 - 0.75**8) ** 14, 6)
    assert list(curve(14, 8).values()) == sorted(curve(14, 8).values())


@pytest.mark.parametrize(("vertices", "edges"), [(10, 0), (10, 7), (300, 140), (5000, 9000), (20000, 15000)])
def test_components_beside_a_search(vertices: int, edges: int) -> None:
    draw = random.Random(edges)
    numbers = [draw.randrange(1 << 63) << 1 for _ in range(vertices)]
    pairs = [(draw.randrange(vertices), draw.randrange(vertices)) for _ in range(edges)]
    one, other = (np.array([numbers[pair[side]] for pair in pairs], np.uint64) for side in (0, 1))
    roots, found = star_forest(one, other)
    stars: dict[int, set[int]] = {}
    for root, vertex in zip(roots.tolist(), found.tolist(), strict=True):
        stars.setdefault(root, {root}).add(vertex)
    clusters = clusters_of(vertices, [pair for pair in pairs if pair[0] != pair[1]])
    wanted = [{numbers[at] for at in cluster} for cluster in clusters]
    assert sorted(map(sorted, stars.values())) == sorted(sorted(cluster) for cluster in wanted)
    assert all(root == min(cluster) for root, cluster in stars.items())
    order = np.random.default_rng(1).permutation(edges)
    again = star_forest(other[order], one[order])
    assert set(zip(*(side.tolist() for side in again))) == set(zip(roots.tolist(), found.tolist()))


def test_common_numbers() -> None:
    draw = np.random.default_rng(0)
    for size in (0, 1, 50, 500):
        one, other = (np.unique(draw.integers(0, 1000, size, np.uint64)) for _ in range(2))
        assert count_common(one, other) == len(np.intersect1d(one, other))


def pairs_that_come(
    buckets: list[list[int]], bands: list[int], signatures: np.ndarray, **how: int
) -> list[tuple[int, int]]:
    """All pairs; with `join` each of them is taken as near."""
    starts = np.cumsum([0, *map(len, buckets)])
    members = np.array([member for bucket in buckets for member in bucket], np.int64)
    parent, state = np.arange(len(signatures)), np.array([0, 1, 0, 0, 0, 0])
    found = []
    while next_pair(
        state, starts, members, np.array(bands, np.uint8), signatures, 2, parent, how["window"], how["least"]
    ):
        found.append((int(state[3]), int(state[4])))
        if how.get("join"):
            unite(parent, *found[-1])
    return found


def test_pairs_of_buckets() -> None:
    """All pairs of a bucket, each in its first band alone, in a window, and none that is connected."""
    same = np.zeros((5, 4), np.uint8)
    assert pairs_that_come([[0, 1, 2]], [0], same, window=9, least=0) == [(0, 1), (0, 2), (1, 2)]
    assert pairs_that_come([[0, 1, 2]], [0], same, window=1, least=0) == [(0, 1), (1, 2)]
    assert pairs_that_come([[0, 1, 2], [3, 4]], [0, 0], same, window=9, least=5) == []
    assert pairs_that_come([[0, 1], [0, 1, 2]], [0, 1], same, window=9, least=0) == [(0, 1)]
    apart = same.copy()
    apart[2, :2] = 9  # meets the others in the second band alone
    assert pairs_that_come([[0, 1], [0, 1, 2]], [0, 1], apart, window=9, least=0) == [(0, 1), (0, 2), (1, 2)]
    assert pairs_that_come([[0, 1, 2, 3]], [0], same, window=9, least=0, join=1) == [(0, 1), (0, 2), (0, 3)]


def test_recipes_find_what_they_ask_for() -> None:
    """Bands and rows that fit the threshold: of pairs there most agree in a band."""
    found = {}
    for path in sorted((Path(data_jobs.__file__).parent / "recipes").glob("*.yaml")):
        settings = CorpusSettings.model_validate(yaml.safe_load(path.read_text())["corpus"])
        if settings.dedup == "minhash":
            wanted = settings.minhash
            found[path.name] = found_share(wanted.threshold, wanted.bands, wanted.rows)
    assert "books.yaml" in found and min(found.values()) > 0.75, found
