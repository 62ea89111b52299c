"""Intervals of metrics: seeded, by example, and as scipy has them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from llm.tasks.bootstrap import intervals, resampled
from llm.tasks.classification import mean_of
from llm.tasks.correlation import pearson


def test_each_draw_has_as_many_examples() -> None:
    counts = np.concatenate(list(resampled(31, 200, seed=1)))
    assert counts.shape == (200, 31)
    assert set(counts.sum(1)) == {31.0}
    assert counts.mean(0) == pytest.approx(np.ones(31), abs=0.3)


def test_same_seed_same_interval() -> None:
    values = np.random.default_rng(0).normal(size=50)
    first, again, other = (intervals(lambda c: {"mean": mean_of(values, c)}, 50, 300, s) for s in (4, 4, 5))
    assert first == again != other


def test_parts_of_the_draws_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(resampled(20, 101, seed=2)))
    monkeypatch.setattr("llm.tasks.bootstrap.AT_ONCE", 20 * 7)
    parts = list(resampled(20, 101, seed=2))
    assert len(parts) == 15
    assert np.array_equal(np.concatenate(parts), whole)


def test_intervals_are_scipys_but_for_the_draws() -> None:
    chance = np.random.default_rng(3)
    x = chance.normal(size=200)
    y = 0.6 * x + chance.normal(size=200)
    found = intervals(lambda c: {"mean": mean_of(x, c), "pearson": pearson(x, y, c)}, 200, 8000)
    options = {"method": "percentile", "n_resamples": 8000, "rng": np.random.default_rng(4)}
    mean = stats.bootstrap((x,), np.mean, **options).confidence_interval
    correlation = stats.bootstrap(
        (x, y), lambda a, b, axis: stats.pearsonr(a, b, axis=axis).statistic, paired=True, **options
    ).confidence_interval
    assert found["mean"] == pytest.approx(tuple(mean), abs=0.01)
    assert found["pearson"] == pytest.approx(tuple(correlation), abs=0.01)


def test_an_interval_holds_the_true_value_as_often_as_it_says() -> None:
    chance = np.random.default_rng(5)
    held = 0
    for seed in range(200):
        hits = chance.random(300) < 0.7
        low, high = intervals(lambda c, h=hits: {"share": mean_of(h, c)}, 300, 400, seed)["share"]
        held += low <= 0.7 <= high
    assert 0.90 <= held / 200 <= 0.99


def test_nothing_to_draw_from_is_no_interval() -> None:
    assert intervals(lambda c: {"mean": mean_of(np.zeros(0), c)}, 0) == {}
    assert intervals(lambda c: {"mean": mean_of(np.zeros(3), c)}, 3, resamples=0) == {}
