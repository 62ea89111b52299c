"""The space of a sweep: its syntax, what is refused, and what is drawn from it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from cluster.errors import UserError
from llm.settings import PretrainSettings
from llm.sweep_settings import Range, SweepSettings, Values, domain_of
from llm.tune.space import check_space, combinations, drawn, problem_with, share_of, sweepable, with_settings

LR = "pretrain.optimizer.lr"
SECTIONS: dict[str, Any] = {"model": {"layers": 1}, "pretrain": {"steps": 10, "optimizer": {"beta1": 0.8}}}


def sweep(space: dict[str, Any], **more: Any) -> SweepSettings:
    return SweepSettings.model_validate({"of": "pretrain", "space": space, **more})


@pytest.mark.parametrize(
    ("given", "domain"),
    [
        ([1, 2], Values("list", (1, 2))),
        ({"grid": ["adamw"]}, Values("grid", ("adamw",))),
        ({"choice": [True, False]}, Values("choice", (True, False))),
        ({"uniform": [0, 0.5]}, Range(0, 0.5)),
        ({"log_uniform": ["1e-5", "1e-3"]}, Range(1e-5, 1e-3, log=True)),
        ({"int": [1, 8]}, Range(1, 8, whole=True)),
        ({"log_int": [1, 64]}, Range(1, 64, log=True, whole=True)),
        (["1e-4", "3e-4"], Values("list", (1e-4, 3e-4))),
    ],
)
def test_each_form_is_read(given: Any, domain: Any) -> None:
    """YAML takes 1e-5 for text."""
    assert domain_of("x", given) == domain


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, "a list of values, or one of"),
        ([], "at least one value"),
        ([1, 1], "stands twice"),
        ({"uniform": [1, 2], "int": [1, 2]}, "or one of"),
        ({"loguniform": [1, 2]}, "unknown form 'loguniform'"),
        ({"uniform": [2, 1]}, "must be the lower one"),
        ({"uniform": [1, 1]}, "must be the lower one"),
        ({"uniform": [1]}, "two numbers"),
        ({"uniform": [True, 2]}, "two numbers"),
        ({"uniform": [0, math.inf]}, "two numbers"),
        ({"log_uniform": [0, 1]}, "above 0"),
        ({"int": [1, 2.5]}, "whole numbers"),
        ({"grid": 3}, "a list"),
    ],
)
def test_a_wrong_form_is_refused_with_its_name(given: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=f"{LR}.*") as caught:
        sweep({LR: given})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("more", "space", "words"),
    [
        ({"search": "grid"}, {LR: {"uniform": [0.1, 1]}}, "uniform is not for search grid"),
        ({"search": "grid"}, {LR: {"choice": [0.1, 1]}}, "choice is not for search grid"),
        ({"search": "random"}, {LR: {"grid": [0.1, 1]}}, "grid is not for search random"),
        ({"search": "pbt", "scheduler": "asha"}, {LR: [0.1]}, "leave scheduler at none"),
        ({"perturb_every": 5}, {LR: [0.1]}, "perturb_every is for search pbt"),
    ],
)
def test_forms_and_search_must_agree(more: dict[str, Any], space: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        sweep(space, **more)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({}, ["empty"]),
        ({"pretrain.optimiser.lr": [1.0]}, ["no setting", "did you mean 'pretrain.optimizer.lr'"]),
        ({"optimizer.lr": [1.0]}, ["did you mean 'pretrain.optimizer.lr'"]),
        ({"finetune.optimizer.lr": [1.0]}, ["no setting of sections model and pretrain"]),
        ({LR: [0.1, -1]}, [f"{LR} -1", "greater than 0"]),
        ({LR: {"uniform": [0, 1]}}, [f"{LR} 0.0"]),
        ({"pretrain.optimizer.kind": ["adamw", "adamm"]}, ["'adamm'"]),
        ({"pretrain.out": ["a"]}, ["each trial's own"]),
        ({"pretrain.wandb.mode": ["offline"]}, ["each trial's own"]),
        ({"pretrain.workers": [1, 2]}, ["each trial's own"]),
        ({"model.heads": {"int": [1, 3]}, "model.width": [32]}, ["model.heads 3"]),
        ({LR: [0.1, -1], "pretrain.nope": [1]}, [f"{LR} -1", "pretrain.nope"]),
    ],
)
def test_a_space_that_no_trial_could_have_is_refused(space: dict[str, Any], words: list[str]) -> None:
    """All problems at once."""
    with pytest.raises(UserError) as caught:
        check_space(SECTIONS, sweep(space))
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_settings_that_are_possible_alone_and_not_together_are_refused() -> None:
    """Each setting is checked alone with the recipe, then the corners of the space."""
    with pytest.raises(UserError, match="warmup_steps"):
        check_space(SECTIONS, sweep({"pretrain.steps": [5], "pretrain.schedule.warmup_steps": [2, 8]}))
    check_space(SECTIONS, sweep({LR: {"log_uniform": [1e-4, 1e-2]}}))


def test_pbt_changes_nothing_that_is_fixed_in_a_run() -> None:
    for name in ("model.layers", "pretrain.seed", "pretrain.batch"):
        with pytest.raises(UserError, match="fixed once a run has begun"):
            check_space(SECTIONS, sweep({name: [4, 8]}, search="pbt"))
    check_space(SECTIONS, sweep({LR: [0.1, 0.2]}, search="pbt"))


def test_what_can_be_swept_are_settings_of_the_run() -> None:
    known = sweepable("pretrain")
    assert {"model.layers", LR, "pretrain.batch", "pretrain.seed"} <= set(known)
    assert not {"pretrain.out", "pretrain.workers", "pretrain.wandb.group", "sweep.trials"} & set(known)
    assert "finetune.lora.rank" in sweepable("finetune") and "finetune.data.train" not in sweepable(
        "finetune"
    )


def test_settings_go_into_a_copy_of_the_recipe() -> None:
    changed = with_settings(SECTIONS, {LR: 0.5, "pretrain.guard.window": 8, "model.layers": 3})
    read = PretrainSettings.model_validate(changed["pretrain"])
    assert (read.optimizer.lr, read.optimizer.beta1, read.guard.window, changed["model"]["layers"]) == (
        0.5, 0.8, 8, 3,
    )  # fmt: skip
    assert "lr" not in SECTIONS["pretrain"]["optimizer"] and SECTIONS["model"] == {"layers": 1}


def test_a_problem_is_told_in_words_and_a_good_recipe_has_none() -> None:
    assert problem_with(SECTIONS, "pretrain", {LR: 0.5}) is None
    assert "greater than 0" in str(problem_with(SECTIONS, "pretrain", {LR: 0.0}))


def test_a_grid_has_every_combination_once() -> None:
    domains = {"a": Values("list", (1, 2)), "b": Values("grid", ("x", "y", "z"))}
    found = combinations(domains)
    assert found[:4] == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 1, "b": "z"}, {"a": 2, "b": "x"}]
    assert len({tuple(row.values()) for row in found}) == 6


def test_draws_are_functions_of_seed_and_number() -> None:
    domains = sweep({LR: {"log_uniform": [1e-5, 1e-1]}, "model.layers": {"int": [1, 4]}}).domains
    rows = [drawn(domains, 7, number) for number in range(400)]
    assert rows[5] == drawn(domains, 7, 5) != drawn(domains, 8, 5)
    assert drawn({LR: domains[LR]}, 7, 5)[LR] == rows[5][LR], "another name moves no draw"
    logs = [math.log(row[LR] / 1e-5) / math.log(1e4) for row in rows]
    assert stats.kstest(logs, "uniform").pvalue > 1e-3
    counts = [sum(row["model.layers"] == n for row in rows) for n in range(1, 5)]
    assert stats.chisquare(counts).pvalue > 1e-3, counts


@given(
    st.floats(0, 1, exclude_max=True), st.integers(1, 50), st.integers(1, 50), st.booleans(), st.booleans()
)
def test_a_range_stays_within_its_ends(share: float, low: int, more: int, log: bool, whole: bool) -> None:
    domain = Range(low, low + more, log, whole)
    value = domain.at(share)
    assert low <= value <= low + more and isinstance(value, int) == whole
    for factor in (0.8, 1.25):
        near = domain.near(value, factor)
        assert low <= near <= low + more
        if whole and low < value < low + more:
            assert near != value
    assert domain.at(0.0) == pytest.approx(low) and domain.extremes() == (low, low + more)


def test_a_neighbour_in_a_list() -> None:
    domain = Values("list", (1, 2, 4))
    assert [domain.near(2, 1.25), domain.near(2, 0.8), domain.near(4, 1.25), domain.near(9, 0.8)] == [
        4,
        1,
        4,
        1,
    ]


def test_shares_are_even() -> None:
    shares = [share_of(0, "x", number) for number in range(500)]
    assert all(0 <= share < 1 for share in shares) and stats.kstest(shares, "uniform").pvalue > 1e-3
