"""Metric, brackets, and who goes on from whom."""

from __future__ import annotations

import math
from typing import Any

import pytest

from llm.settings import FinetuneSettings, ModelSettings, PretrainSettings, SweepSettings
from llm.tune.rules import bracket_of, donor_of, explored, is_better, known_metrics, metric_of, mode_of


def sweep(**settings: Any) -> SweepSettings:
    return SweepSettings.model_validate(settings)


def test_metric_and_mode_have_defaults() -> None:
    finetune = FinetuneSettings(best_by="f1_macro")
    assert metric_of(sweep(), finetune) == "val_f1_macro"
    assert metric_of(sweep(metric="accuracy"), finetune) == "val_accuracy"
    assert metric_of(sweep(), PretrainSettings()) == "val_loss"
    assert metric_of(sweep(metric="bits_per_byte"), PretrainSettings()) == "bits_per_byte"
    names = {
        "val_loss": "min",
        "bits_per_byte": "min",
        "val_mse": "min",
        "val_f1": "max",
        "val_accuracy": "max",
    }
    assert {name: mode_of(sweep(), name) for name in names} == names
    assert mode_of(sweep(mode="max"), "val_loss") == "max"


def test_what_a_pretraining_measures() -> None:
    assert known_metrics(PretrainSettings(), ModelSettings(kind="gpt")) == ("val_loss", "bits_per_byte")
    assert "val_masked_accuracy" in known_metrics(PretrainSettings(), ModelSettings(kind="bert"))
    assert "bits_per_byte" not in known_metrics(PretrainSettings(), ModelSettings(kind="bert"))


def test_what_is_not_finite_beats_nothing() -> None:
    assert is_better(1.0, 2.0, "min") and not is_better(1.0, 2.0, "max") and not is_better(1.0, 1.0, "min")
    assert is_better(1.0, None, "max") and is_better(1.0, math.nan, "min")
    assert not is_better(None, 1.0, "min") and not is_better(math.nan, None, "min")


def test_brackets_get_as_many_as_in_hyperband() -> None:
    """Li et al. 2018, table 1 (eta 3, R 81): 81, 34, 15, 8, 5 start in brackets 4 to 0."""
    found = [bracket_of(number, 5, 3) for number in range(143)]
    assert [found.count(bracket) for bracket in range(5)] == [81, 34, 15, 8, 5]
    assert bracket_of(143, 5, 3) == 0 == bracket_of(7, 1, 3)


def test_the_worst_go_on_from_the_best() -> None:
    values = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    assert donor_of("d", values, "min", 0.25, 0.9) == "a"
    assert donor_of("c", values, "min", 0.25, 0.0) is None
    assert donor_of("a", values, "max", 0.25, 0.0) == "d"
    assert [donor_of("d", values, "min", 0.5, share) for share in (0.0, 0.6)] == ["a", "b"]
    assert donor_of("a", {"a": 1.0}, "min", 0.5, 0.0) is None, "alone"
    assert donor_of("b", {"a": 1.0, "b": math.inf}, "min", 0.25, 0.0) == "a"
    assert donor_of("x", values, "min", 0.25, 0.0) is None, "not under way"


def test_nobody_is_donor_and_taker_at_once() -> None:
    for count in range(2, 9):
        values = {str(i): float(i) for i in range(count)}
        takers = {name for name in values if donor_of(name, values, "min", 0.5, 0.0)}
        donors = {donor_of(name, values, "min", 0.5, share / 9) for name in takers for share in range(9)}
        assert takers and not takers & donors


def test_exploring_moves_each_setting() -> None:
    domains = sweep(of="pretrain", space={"lr": {"uniform": [1e-3, 1.0]}, "n": {"int": [1, 100]}}).domains
    start = {"lr": 0.1, "n": 10}
    found = [explored(domains, start, 0, ("t", step)) for step in range(300)]
    assert found[3] == explored(domains, start, 0, ("t", 3))
    moved = [row["lr"] for row in found]
    near = sum(value == pytest.approx(0.08) or value == pytest.approx(0.125) for value in moved)
    assert 0.65 < near / 300 < 0.85, "a quarter is drawn anew"
    assert all(row["lr"] != 0.1 and 1 <= row["n"] <= 100 for row in found)
