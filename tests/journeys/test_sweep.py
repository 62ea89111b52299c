"""Whole sweeps on Ray Tune: compared, killed, continued; what they leave is used."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

import llm
from data_jobs import open_corpus
from llm.tune.ledger import read_trials
from tests.journeys.home import RECIPE, Home
from tests.journeys.wandb_file import records
from tests.llm.train.test_start import write_model

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
LR = "pretrain.optimizer.lr"
TRAINING: dict[str, Any] = {
    "engine": "plain", "workers": 1, "steps": 12, "batch": 4, "length": 64, "micro_batch": 4,
    "optimizer": {"lr": 3e-3}, "schedule": {"warmup_steps": 2}, "validation": {"every": 4, "max_samples": 8},
    "checkpoint": {"every": 4, "keep": 1}, "selfcheck": False, "cpus_per_worker": 1,
}  # fmt: skip
QUICK = ("--pretrain.wandb.mode", "disabled")


class Sweeps(Home):
    """The home of all sweeps: its corpus is prepared once."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, RECIPE | {"pretrain": TRAINING, "cluster": {"num_cpus": 2}})
        self.patience = 420.0
        self.prepare()

    def args(self, name: str, sweep: dict[str, Any], *more: str) -> list[str]:
        recipe = yaml.safe_load(self.recipe.read_text()) | {"sweep": {"of": "pretrain", **sweep}}
        file = self.path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(recipe))
        places = ["--pretrain.corpus", str(self.corpus), "--sweep.out", str(self.path / name)]
        return [str(file), *places, *more]

    def sweep(self, name: str, sweep: dict[str, Any], *more: str, status: int = 0, **env: str) -> str:
        return self.call("llm.sweep", *self.args(name, sweep, *more), status=status, **env)


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Sweeps:
    return Sweeps(tmp_path_factory.mktemp("sweeps"))


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


def summary_of(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return value


def wandb_runs(folder: Path) -> list[tuple[str, str, str, dict[int, float]]]:
    """Id, group, kind and validation losses of each offline run below a trial."""
    found = []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        who, losses = ("", "", ""), dict[int, float]()
        for record in records(file):
            if record.WhichOneof("record_type") == "run":
                who = record.run.run_id, record.run.run_group, record.run.job_type
            elif record.WhichOneof("record_type") == "history":
                row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
                if "val_loss" in row:
                    losses[row["step"]] = row["val_loss"]
        found.append((*who, losses))
    return found


GRID = {"search": "grid", "space": {LR: [1e-4, 3e-3, 1e-2]}}


def test_a_grid_side_by_side_and_what_it_leaves(sweeps: Sweeps) -> None:
    """Two at a time on two CPUs; the best is taken by the other commands; W&B has a run a trial."""
    told = sweeps.sweep("grid", GRID)
    folder = sweeps.path / "grid"
    rows, summary = rows_of(folder), summary_of(folder)
    assert "2 at a time" in told and [row["status"] for row in rows] == ["finished"] * 3
    assert [float(row[LR]) for row in rows] == [1e-4, 3e-3, 1e-2]
    best = min(rows, key=lambda row: float(row["val_loss"]))
    assert summary["best"]["trial"] == best["trial"] != "t00000" and summary["trials"] == 3
    assert summary["best"]["metrics"]["val_loss"] == float(best["val_loss"])
    loaded = llm.load(folder / "best")
    assert loaded.step == summary["best"]["step"] == int(best["step"])
    assert len(list((folder / "best/checkpoints").iterdir())) == 1
    groups = set()
    for row in rows:
        run = folder / "trials" / row["trial"]
        [(run_id, group, kind, losses)] = wandb_runs(run)
        assert run_id == f"{group}-{row['trial']}" and kind == "trial"
        assert losses[int(row["step"])] == float(row["val_loss"])
        assert losses == {r["step"]: r["val_loss"] for r in llm.read_metrics(run) if "val_loss" in r}
        groups.add(group)
    assert groups == {summary["sweep_id"]}
    assert "nothing to do" in sweeps.sweep("grid", GRID)
    refused = sweeps.sweep("grid", GRID, "--pretrain.optimizer.beta1", "0.5", status=2)
    assert "pretrain.optimizer.beta1: 0.9 there, 0.5 now" in refused


@pytest.mark.slow
def test_asha_ends_some_and_the_best_is_the_best_of_the_table(sweeps: Sweeps) -> None:
    space = {LR: [1e-2, 3e-3, 1e-6, 1e-5, 1e-4]}
    sweep = {"search": "grid", "space": space, "scheduler": "asha", "reduction": 2, "max_concurrent": 1}
    sweeps.sweep("asha", sweep, *QUICK)
    folder = sweeps.path / "asha"
    rows, summary = rows_of(folder), summary_of(folder)
    stopped = [row for row in rows if row["status"] == "stopped_early"]
    assert summary["stopped_early"] == len(stopped) >= 2
    assert all(int(row["step"]) < 12 for row in stopped)
    assert summary["best"]["trial"] == min(rows, key=lambda row: float(row["val_loss"]))["trial"]
    assert summary["best"]["settings"][LR] in (1e-2, 3e-3)


@pytest.mark.slow
def test_a_population_goes_on_from_its_best(sweeps: Sweeps) -> None:
    space = {LR: {"log_uniform": [1e-6, 1e-2]}}
    sweep = {"search": "pbt", "space": space, "trials": 2, "seed": 3, "quantile": 0.5}
    longer = (
        "--pretrain.steps",
        "200",
        "--pretrain.validation.every",
        "20",
        "--pretrain.checkpoint.every",
        "20",
    )
    sweeps.sweep("pbt", sweep, *QUICK, *longer)
    folder = sweeps.path / "pbt"
    lines = [json.loads(line) for line in (folder / "lineage.jsonl").read_text().splitlines()]
    assert lines and summary_of(folder)["exploits"] == len(lines)
    for line in lines:
        assert line["from"] != line["trial"] and line["new"] != line["old"]
        record = json.loads((folder / "trials" / line["trial"] / "settings.json").read_text())
        assert any(item["field"] == LR for item in record["accepted"])
        assert 0 < line["from_step"] <= 200
    last = lines[-1]
    record = json.loads((folder / "trials" / last["trial"] / "settings.json").read_text())
    assert record["pretrain"]["optimizer"]["lr"] == last["new"][LR]
    assert {row["status"] for row in rows_of(folder)} == {"finished"}
    assert [row["parent"] for row in rows_of(folder) if row["trial"] == last["trial"]] == [last["from"]]


@pytest.mark.slow
def test_optuna_and_median(sweeps: Sweeps) -> None:
    pytest.importorskip("optuna")
    space = {LR: {"log_uniform": [1e-5, 1e-2]}, "pretrain.optimizer.weight_decay": [0.0, 0.1]}
    sweep = {"search": "optuna", "space": space, "trials": 5, "scheduler": "median", "max_concurrent": 1}
    sweeps.sweep("optuna", sweep, *QUICK)
    rows = rows_of(sweeps.path / "optuna")
    assert len(rows) == 5 and len({row[LR] for row in rows}) == 5
    assert {row["status"] for row in rows} <= {"finished", "stopped_early"}


def results(folder: Path) -> dict[str, Any]:
    """What must be equal, killed or not: status, settings and every validation of each trial."""
    return {
        name: (trial.status, trial.settings, trial.results)
        for name, trial in read_trials(folder / "ledger.jsonl").items()
    }


IN_TURN = {"search": "random", "space": {LR: {"log_uniform": [1e-5, 1e-2]}}, "trials": 3, "max_concurrent": 1}


@pytest.fixture(scope="module")
def undisturbed(sweeps: Sweeps) -> dict[str, Any]:
    sweeps.sweep("undisturbed", IN_TURN, *QUICK)
    return results(sweeps.path / "undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda sign: sign.name)
def test_a_sweep_that_is_ended_goes_on(
    sweeps: Sweeps, undisturbed: dict[str, Any], sign: signal.Signals
) -> None:
    """In the middle of the second trial; then the same command: none lost or doubled, the same results."""
    name = f"ended-{sign.name}"
    folder = sweeps.path / name
    process = sweeps.start("llm.sweep", *sweeps.args(name, IN_TURN, *QUICK))
    wait_for(process, lambda: has_step(folder / "trials/t00001", 6))
    process.send_signal(sign)
    out, _ = process.communicate(timeout=400)
    expected = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[sign]
    assert process.returncode == expected, out
    if sign != signal.SIGKILL:
        assert "the same command continues" in out
        trial = folder / "trials/t00001"
        assert llm.load(trial).step == llm.read_metrics(trial)[-1]["step"], (
            f"stopped without a checkpoint:\n{out}"
        )
    assert not (folder / "summary.json").exists()
    told = sweeps.sweep(name, IN_TURN, *QUICK)
    assert "1 of them done" in told
    assert results(folder) == undisturbed
    assert sorted(child.name for child in (folder / "trials").iterdir()) == ["t00000", "t00001", "t00002"]


@pytest.mark.slow
def test_killed_processes_of_a_trial_change_nothing(sweeps: Sweeps, undisturbed: dict[str, Any]) -> None:
    """A worker in step 6 of the first trial that comes to it, and then a trial's own process."""
    folder, once = sweeps.path / "killed", sweeps.path / "worker-was-killed"
    process = sweeps.start(
        "llm.sweep", *sweeps.args("killed", IN_TURN, *QUICK),
        MANTA_FAULT="train.step:step=6", MANTA_FAULT_ONCE=str(once),
    )  # fmt: skip
    wait_for(process, lambda: has_step(folder / "trials/t00001", 6))
    driver = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if any(word.startswith(("ray::_TrialActor", "ray::_Inner")) for word in child.cmdline())
    ]
    assert len(driver) == 1, [child.cmdline() for child in driver]
    os.kill(driver[0].pid, signal.SIGKILL)
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    assert once.exists() and results(folder) == undisturbed


@pytest.mark.slow
def test_what_can_never_be_placed_is_said_before_it_starts(sweeps: Sweeps) -> None:
    began = time.monotonic()
    told = sweeps.sweep("large", GRID, "--pretrain.workers", "3", *QUICK, status=2)
    assert "no trial can ever be placed" in told and "3 workers with 1 CPU each" in told
    assert time.monotonic() - began < 60 and not (sweeps.path / "large").exists()


@pytest.mark.slow
def test_a_trial_that_fails_is_told_and_tried_again(sweeps: Sweeps) -> None:
    """A fault in every start of step 6: the run gives up; without it the same command ends well."""
    more = ("--pretrain.max_failures", "0", *QUICK)
    sweep = {"search": "grid", "space": {LR: [1e-3, 2e-3]}, "max_concurrent": 1}
    told = sweeps.sweep("failing", sweep, *more, status=1, MANTA_FAULT="train.step:step=6")
    assert "2 of 2 trials failed" in told and "t00001:" in told
    assert {row["status"] for row in rows_of(sweeps.path / "failing")} == {"failed"}
    sweeps.sweep("failing", sweep, *more)
    assert {row["status"] for row in rows_of(sweeps.path / "failing")} == {"finished"}


def has_step(run: Path, step: int) -> bool:
    return (run / "metrics.jsonl").exists() and any(row["step"] >= step for row in llm.read_metrics(run))


def wait_for(process: subprocess.Popen[str], there: Any) -> None:
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and process.poll() is None:
        if there():
            return
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"it did not come as far:\n{process.communicate()[0]}")


@pytest.mark.slow
def test_a_task_is_swept_by_its_own_metric(sweeps: Sweeps) -> None:
    """Two trials at a time share the examples; the best is a fine-tuned model."""
    base = sweeps.path / "base"
    write_model(base, open_corpus(sweeps.corpus).tokenizer, seed=3)
    texts = sweeps.path / "texts.jsonl"
    words = {"good": ["fine", "warm", "kind"], "bad": ["cold", "grim", "dull"]}
    rows = [
        {"text": f"{words[label][i % 3]} {words[label][i // 2 % 3]} {i}", "label": label}
        for i in range(160)
        for label in [("good", "bad")[i % 2]]
    ]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    finetune = {
        "start_from": str(base), "data": {"train": str(texts)}, "length": 16, "batch": 8, "micro_batch": 8,
        "steps": 12, "engine": "plain", "cpus_per_worker": 1, "selfcheck": False,
        "validation": {"every": 4}, "checkpoint": {"every": 4, "keep": 1}, "wandb": {"mode": "disabled"},
    }  # fmt: skip
    sweep = {
        "of": "finetune", "metric": "f1_macro", "search": "grid",
        "space": {"finetune.optimizer.lr": [1e-5, 3e-3], "finetune.train_only": ["all", "head"]},
    }  # fmt: skip
    file = sweeps.path / "task.yaml"
    file.write_text(yaml.safe_dump({"cluster": {"num_cpus": 2}, "finetune": finetune, "sweep": sweep}))
    folder = sweeps.path / "task"
    sweeps.call("llm.sweep", str(file), "--sweep.out", str(folder))
    found, summary = rows_of(folder), summary_of(folder)
    assert [row["status"] for row in found] == ["finished"] * 4
    assert (summary["metric"], summary["mode"]) == ("val_f1_macro", "max")
    assert summary["best"]["metrics"]["val_f1_macro"] == max(float(row["val_f1_macro"]) for row in found)
    assert llm.load(folder / "best").step == summary["best"]["step"]
    assert len(list((folder / "examples").iterdir())) == 1, "made once"
    refused = sweeps.call(
        "llm.sweep", str(file), "--sweep.out", str(folder / "other"), "--sweep.metric", "pearson", status=2
    )
    assert "classification has no such number" in refused and not (folder / "other").exists()
