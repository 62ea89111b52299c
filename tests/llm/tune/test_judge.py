"""The judge and its ledger: decisions, restarts that come to the same, and Ray's schedulers as rules."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import UserError
from llm.sweep_settings import SweepSettings
from llm.tune.judge import GO_ON, STOP, Exploit, Judge, NeverStops
from llm.tune.ledger import Ledger, lineage, read_trials
from llm.tune.ray_tune import RayRule, stop_rule
from llm.tune.search import Search

SPACE = {"pretrain.optimizer.lr": {"log_uniform": [1e-4, 1e-1]}}
STEPS = (10, 20, 30, 40)


def judge(path: Path, said: list[str] | None = None, **settings: Any) -> Judge:
    given = {"of": "pretrain", "space": SPACE, "trials": 9, **settings}
    sweep = SweepSettings.model_validate(given)
    rule = stop_rule(sweep, "min", 10)
    say = said.append if said is not None else lambda text: None
    return Judge(sweep, "val_loss", "min", Search(sweep, "min"), Ledger(path), rule, 10, say)


def line(step: int, value: float | None) -> dict[str, Any]:
    return {"step": step, "loss": 1.0, "val_loss": value, "bits_per_byte": 2.0, "time": 5.0 + step}


def value_of(name: str, step: int) -> float:
    """Some trials are better all along, and none is alike."""
    return random.Random(name).random() + 1 / step


def play(by: Judge, name: str, until: int = 40, after: int = 0) -> list[Any]:
    """A trial's results in turn, up to its end or a decision; what was said to each."""
    found = []
    for step in STEPS:
        if after < step <= until:
            found.append(by.result(name, line(step, value_of(name, step)), last=step == 40))
            if found[-1] == STOP:
                return found
    if until == 40:
        by.ends(name, "finished")
    return found


def test_trials_are_given_out_in_order_and_kept(tmp_path: Path) -> None:
    said: list[str] = []
    by, names = judge(tmp_path / "ledger.jsonl", said), []
    while trial := by.next_trial():
        names.append(trial.name)
    assert names == [f"t{n:05d}" for n in range(9)]
    by.begins("t00000")
    assert by.result("t00000", line(0, 3.0), last=False) == GO_ON
    assert play(by, "t00000") == [GO_ON] * 4
    kept = read_trials(tmp_path / "ledger.jsonl")
    assert kept["t00000"].status == "finished" and kept["t00000"].last_step == 40
    assert kept["t00000"].numbers() == {"val_loss": value_of("t00000", 40), "bits_per_byte": 2.0}
    assert list(kept["t00000"].results) == [0, *STEPS] and kept["t00001"].status == "running"
    assert said[0].startswith("t00000 begins: pretrain.optimizer.lr") and "finished" in said[-1]


def test_a_metric_that_is_not_there_ends_the_sweep(tmp_path: Path) -> None:
    by = judge(tmp_path / "ledger.jsonl")
    by.next_trial()
    with pytest.raises(UserError, match="has no val_loss.*no validation data"):
        by.result("t00000", {"step": 0, "time": 1.0}, last=False)


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_a_restart_at_any_moment_decides_the_same(tmp_path: Path, scheduler: str) -> None:
    """Trials in turn; after each prefix of events another judge goes on, with the ledger alone."""
    settings = {"scheduler": scheduler, "reduction": 2, "brackets": 2}

    def whole(path: Path, cut: int | None) -> dict[str, Any]:
        by, count = judge(path, **settings), 0
        while trial := by.next_trial():
            by.begins(trial.name)
            after, over = trial.last_step, False
            for step in STEPS:
                if step <= after or over:
                    continue
                over = by.result(trial.name, line(step, value_of(trial.name, step)), step == 40) == STOP
                count += 1
                if count == cut:  # killed: what it had in its head is gone
                    by.ledger.close()
                    return whole(path, None)
            if not over:
                by.ends(trial.name, "finished")
        return {name: (t.status, t.last_step, t.settings, t.results) for name, t in by.ledger.trials.items()}

    undisturbed = whole(tmp_path / "whole.jsonl", None)
    statuses = [status for status, *_ in undisturbed.values()]
    assert "stopped_early" in statuses and "finished" in statuses
    for cut in range(1, 18):
        assert whole(tmp_path / f"{cut}.jsonl", cut) == undisturbed, cut


def test_asha_keeps_the_best_and_its_best_is_the_best_of_all(tmp_path: Path) -> None:
    by = judge(tmp_path / "ledger.jsonl", scheduler="asha", reduction=2)
    while trial := by.next_trial():
        play(by, trial.name)
    values = {name: t.numbers()["val_loss"] for name, t in by.ledger.trials.items() if t.last_step == 40}
    best = min(by.ledger.trials, key=lambda name: value_of(name, 40))
    assert best in values and min(values, key=lambda name: values[name]) == best


def test_rules_are_rays_own(tmp_path: Path) -> None:
    """The same results to Ray's scheduler itself, with its own kind of trial."""
    from ray.tune.schedulers import AsyncHyperBandScheduler

    class Named:
        def __init__(self, trial_id: str) -> None:
            self.trial_id = trial_id

    sweep = SweepSettings.model_validate({"of": "pretrain", "space": SPACE, "scheduler": "asha"})
    ours = RayRule(sweep, "max", 10)
    theirs = AsyncHyperBandScheduler(
        "step", "value", "max", max_t=10_000, grace_period=10, reduction_factor=3
    )
    chance, stops = random.Random(1), 0
    trials = [Named(f"t{n}") for n in range(30)]
    for number, trial in enumerate(trials):
        ours.add(trial.trial_id, number)
        theirs.on_trial_add(None, trial)
        for step in range(10, 100, 10):
            value = chance.random()
            wanted = theirs.on_trial_result(None, trial, {"step": step, "value": value}) == "STOP"
            assert ours.stops(trial.trial_id, step, value) == wanted
            stops += wanted
            if wanted:
                break
    assert stops > 5


def test_results_that_come_again_and_torn_lines_are_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    by = judge(path, scheduler="asha")
    by.next_trial()
    play(by, "t00000", until=20)
    before = path.read_bytes()
    play(by, "t00000", until=20)
    assert path.read_bytes() == before
    by.ledger.close()
    path.write_bytes(before + b'{"event": "result", "tri')
    again = judge(path, scheduler="asha")
    assert path.read_bytes() == before
    trial = again.next_trial()
    assert trial is not None and (trial.name, trial.last_step) == ("t00000", 20)


def test_what_failed_is_tried_again_and_what_diverged_is_not(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    by = judge(path, trials=4)
    for status in ("finished", "failed", "diverged", "stopped"):
        trial = by.next_trial()
        assert trial is not None
        by.begins(trial.name)
        by.result(trial.name, line(10, 1.0), last=False)
        by.ends(trial.name, status, "why")
    by.ledger.close()
    again = judge(path, trials=4)
    left = []
    while trial := again.next_trial():
        left.append(trial.name)
    assert left == ["t00001", "t00003"], "each once"


def test_a_value_that_is_not_finite_is_the_worst(tmp_path: Path) -> None:
    by = judge(tmp_path / "ledger.jsonl", scheduler="asha", reduction=2)
    for _ in range(3):
        by.next_trial()
    assert by.result("t00000", line(10, 1.0), last=False) == GO_ON
    assert by.result("t00001", line(10, None), last=False) == STOP
    assert by.ledger.trials["t00001"].status == "stopped_early"


def test_pbt_goes_on_from_the_best_with_settings_near_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    by = judge(path, search="pbt", trials=2)
    for _ in range(2):
        trial = by.next_trial()
        assert trial is not None
        by.begins(trial.name)
    assert by.result("t00000", line(10, 1.0), last=False) == GO_ON, "alone so far"
    found = by.result("t00001", line(10, 2.0), last=False)
    assert isinstance(found, Exploit) and found.donor == "t00000"
    [lr] = found.settings.values()
    [theirs] = by.ledger.trials["t00000"].settings.values()
    assert lr != theirs and 1e-4 <= lr <= 1e-1
    by.exploited("t00001", 10, found, 5)
    trial = by.ledger.trials["t00001"]
    assert (trial.settings, trial.parent, trial.exploits, trial.last_step) == (found.settings, "t00000", 1, 5)
    assert 10 not in trial.results, "its weights are others now"
    assert by.result("t00001", line(10, 0.5), last=False) == GO_ON, "half an interval after it"
    assert by.result("t00001", line(40, 9.0), last=True) == GO_ON, "the last is no moment for it"
    [row] = lineage(by.ledger.events)
    assert (row["trial"], row["step"], row["from"], row["from_step"]) == ("t00001", 10, "t00000", 5)
    assert row["new"] == found.settings and set(row["old"]) == set(SPACE)
    by.ledger.close()
    again = judge(path, search="pbt", trials=2)
    assert again.ledger.trials["t00001"].settings == found.settings
    assert vars(again.ledger.trials["t00001"]) == vars(trial)


def test_pbt_compares_at_the_same_step(tmp_path: Path) -> None:
    """A trial that is ahead is better by now; where the other stands it was worse."""
    by = judge(tmp_path / "ledger.jsonl", search="pbt", trials=2)
    for _ in range(2):
        by.next_trial()
    for step, value in ((10, 3.0), (20, 0.5), (30, 0.4)):
        assert by.result("t00000", line(step, value), last=False) == GO_ON
    assert by.result("t00001", line(10, 2.0), last=False) == GO_ON
    assert isinstance(by.result("t00001", line(20, 1.0), last=False), Exploit)


def test_nothing_stops_without_a_scheduler(tmp_path: Path) -> None:
    by = judge(tmp_path / "ledger.jsonl")
    assert isinstance(by.rule, NeverStops)
    while trial := by.next_trial():
        assert play(by, trial.name) == [GO_ON] * 4
    assert {t.status for t in by.ledger.trials.values()} == {"finished"}


def test_seconds_are_those_of_all_starts(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    result = {"numbers": {"val_loss": 1.0}, "last": False}
    events: list[dict[str, Any]] = [
        {"event": "trial", "time": 100.0, "settings": {}},
        {"event": "begin", "time": 101.0},
        {"event": "result", "time": 106.0, "logged": 105.0, **result},
        {"event": "result", "step": 10, "time": 110.0, "logged": 110.0, **result},
        {"event": "begin", "time": 500.0},
        {"event": "end", "step": 10, "time": 503.0, "status": "finished"},
    ]
    events = [{"trial": "t00000", "step": 0, **event} for event in events]
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    trial = read_trials(path)["t00000"]
    assert (trial.seconds, trial.start_seconds) == (9.0 + 3.0, 4.0)
