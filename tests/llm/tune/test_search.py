"""Which settings a trial has, and optuna's model over what was found."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.errors import UserError
from llm.sweep_settings import SweepSettings
from llm.tune.search import Past, Search

SPACE = {"pretrain.optimizer.lr": {"log_uniform": [1e-4, 1e-1]}, "pretrain.optimizer.kind": ["adamw", "sgd"]}


def search(mode: str = "min", **settings: Any) -> Search:
    return Search(SweepSettings.model_validate({"of": "pretrain", "space": SPACE, **settings}), mode)


def test_how_many_trials() -> None:
    grid = {"search": "grid", "space": {"pretrain.batch": [8, 16], "pretrain.seed": [1, 2, 3]}}
    assert search(**grid).trials == 6 and search(**grid, trials=4).trials == 4
    assert search().trials == 10 and search(trials=3).trials == 3
    with pytest.raises(UserError, match="the grid has 6 combinations"):
        search(**grid, trials=7)


def test_more_trials_change_none_of_the_first() -> None:
    assert search(trials=12).ahead()[:5] == search(trials=5).ahead()
    assert len({str(row) for row in search(trials=12).ahead()}) == 12


def past(settings: dict[str, Any], value: float | None, **more: Any) -> Past:
    return Past(settings, value, more.pop("step", 10), more.pop("ended", True), **more)


def test_optuna_looks_where_it_was_good() -> None:
    """Of a valley at lr 0.003 with adamw: late suggestions lie nearer to it than draws do."""
    pytest.importorskip("optuna")
    import math

    def found(settings: dict[str, Any]) -> float:
        way = abs(math.log10(settings["pretrain.optimizer.lr"]) + 2.5)
        return way + (settings["pretrain.optimizer.kind"] == "sgd")

    def run(kind: str) -> list[float]:
        by = search(search=kind, trials=30)
        done: list[Past] = []
        for number in range(30):
            settings = by.settings_of(number, done)
            done.append(past(settings, found(settings)))
        return [one.value or 0.0 for one in done[-12:]]

    model, chance = run("optuna"), run("random")
    assert sum(model) / 12 < 0.6 * sum(chance) / 12, (model, chance)


def test_optuna_is_a_function_of_what_was_found() -> None:
    """A restart that knows the same gives the same; trials under way, failed and stopped ones are no harm."""
    pytest.importorskip("optuna")
    by = search(search="optuna", trials=20)
    rows = [by.settings_of(number) for number in range(6)]
    known = [
        past(rows[0], 1.0),
        past(rows[1], 2.0, whole=False),
        past(rows[2], None),
        past(rows[3], 0.5),
        past(rows[4], None, ended=False, step=0),
    ]
    assert by.settings_of(5, known) == search(search="optuna", trials=20).settings_of(5, known)
    assert by.settings_of(5, known) != by.settings_of(6, known)
    assert set(by.settings_of(5, known)) == set(SPACE)
    assert by.ahead() == []
