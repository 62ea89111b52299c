"""Errors and correlations of numbers: equal to scikit-learn's and scipy's, also of what a bootstrap draws."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from llm.tasks import correlation as ours
from llm.tasks.bootstrap import resampled


def drawn(seed: int, examples: int, scale: float = 1.0, shift: float = 0.0) -> tuple[Any, Any]:
    chance = np.random.default_rng(seed)
    truth = chance.normal(size=examples)
    return truth * scale + shift, (0.7 * truth + chance.normal(size=examples)) * scale + shift


def tied(seed: int, examples: int, levels: int) -> tuple[Any, Any]:
    chance = np.random.default_rng(seed)
    truth = chance.integers(levels, size=examples)
    return truth.astype(np.float64), np.clip(truth + chance.integers(-1, 2, examples), 0, 3).astype(float)


CASES = {
    **{f"random {n}": drawn(n, n) for n in (2, 3, 40, 1000)},
    "small": drawn(1, 30, scale=1e-9),
    "large": drawn(2, 30, scale=1e9),
    "very large": drawn(3, 30, scale=1e160),
    "far from zero": drawn(4, 30, shift=1000.0),
    **{f"ties {n}": tied(n, n, 4) for n in (5, 50)},
    "opposite": (np.arange(5.0), -np.arange(5.0)),
    "one outlier": (np.array([0.0, 0, 0, 0, 1]), np.array([0.0, 0, 0, 1, 1e6])),
}


@pytest.mark.parametrize("case", CASES)
def test_equal_to_scikit_learn_and_scipy(case: str) -> None:
    truth, guess = CASES[case]
    assert close(ours.pearson(truth, guess), stats.pearsonr(truth, guess).statistic)
    assert close(ours.spearman(truth, guess), stats.spearmanr(truth, guess).statistic)
    if case != "very large":  # squares leave the range of doubles, theirs too
        assert close(ours.mse(truth, guess), sk.mean_squared_error(truth, guess))
        assert close(ours.r2(truth, guess), sk.r2_score(truth, guess))
    assert close(ours.mae(truth, guess), sk.mean_absolute_error(truth, guess))


@pytest.mark.parametrize("truth", [[2.0, 2, 2], [2.0, 5, 4]])
@pytest.mark.parametrize("guess", [[2.0, 2, 2], [1.0, 1, 1], [2.0, 3, 2]])
def test_r2_of_what_is_constant_is_scikit_learns(truth: list[float], guess: list[float]) -> None:
    pair = np.array(truth), np.array(guess)
    assert close(ours.r2(*pair), sk.r2_score(*pair))
    if len(set(truth)) == 1 or len(set(guess)) == 1:
        assert float(ours.pearson(*pair)) == float(ours.spearman(*pair)) == 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert np.isnan(stats.pearsonr(*pair).statistic), "here ours says 0 and theirs nan"


def test_constants_that_no_double_holds_are_constant() -> None:
    """The mean of equal numbers may differ from them by its rounding: no correlation comes of that."""
    pair = np.full(10, 0.1), np.arange(10.0)
    assert float(ours.pearson(*pair)) == float(ours.spearman(*pair)) == 0.0
    assert float(ours.r2(*pair)) == 0.0


def test_without_examples_or_with_one() -> None:
    for examples in (0, 1):
        pair = np.ones(examples), np.zeros(examples)
        assert [float(of(*pair)) for of in (ours.r2, ours.pearson, ours.spearman)] == [0.0] * 3
        assert float(ours.mse(*pair)) == float(ours.mae(*pair)) == examples


@pytest.mark.parametrize("values", [[3.0, 1, 2], [1.0, 1, 1], [5.0, 1, 5, 2, 1, 5]])
def test_ranks_are_scipys(values: list[float]) -> None:
    assert ours.ranks(np.array(values)).tolist() == stats.rankdata(values).tolist()


@pytest.mark.parametrize("pair", [drawn(7, 50), tied(8, 50, 4)], ids=["random", "ties"])
def test_counts_are_examples_taken_so_often(pair: tuple[Any, Any]) -> None:
    truth, guess = pair
    counts = next(resampled(50, 20, seed=6))
    names = ("mse", "mae", "r2", "pearson", "spearman")
    found = {name: getattr(ours, name)(truth, guess, counts) for name in names}
    for row, times in enumerate(counts.astype(int)):
        taken = np.repeat(np.arange(50), times)
        x, y = truth[taken], guess[taken]
        assert close(found["mse"][row], sk.mean_squared_error(x, y))
        assert close(found["mae"][row], sk.mean_absolute_error(x, y))
        assert close(found["r2"][row], sk.r2_score(x, y))
        assert close(found["pearson"][row], stats.pearsonr(x, y).statistic)
        assert close(found["spearman"][row], stats.spearmanr(x, y).statistic)


def close(ours: Any, theirs: float) -> bool:
    return float(ours) == pytest.approx(float(theirs), rel=1e-12, abs=1e-12)
