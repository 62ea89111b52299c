"""The process that speaks to W&B: what it answers, and when it ends by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.wandb_file import history, records

pytestmark = pytest.mark.timeout(120)
ROOT = Path(__file__).resolve().parents[3]


def start(folder: Path, **more: Any) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "llm.train.wandb_run"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    told = {
        "folder": str(folder), "run_id": "run-1", "project": "manta", "config": {"model": {"layers": 1}},
        "mode": "offline", "patience": 10.0, "trainer": os.getpid(),
    }  # fmt: skip
    say(process, told | more)
    return process


def say(process: subprocess.Popen[str], value: Any) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(value) + "\n")
    process.stdin.flush()


def test_it_answers_when_the_run_is_open_and_when_it_is_over(tmp_path: Path) -> None:
    process = start(tmp_path)
    assert process.stdout is not None
    opened = json.loads(process.stdout.readline())
    assert (opened["mode"], opened["has"], opened["why"]) == ("offline", -1, "")
    assert Path(opened["folder"]).parent == tmp_path / "wandb"
    say(process, ("row", {"step": 0, "loss": None, "skipped_samples": [[0, 4]]}))
    out, errors = process.communicate(json.dumps(("exit", 0)) + "\n")
    assert json.loads(out) == {"sent": True} and process.returncode == 0 and not errors
    ids, rows = history(tmp_path)
    assert ids == {"run-1"} and rows[0]["skipped_samples"] == [[0, 4]]


def test_it_ends_where_its_trainer_is_gone_though_the_pipe_is_open(tmp_path: Path) -> None:
    """Another process that the trainer forked may hold it."""
    process = start(tmp_path, trainer=1)
    say(process, ("row", {"step": 7, "loss": 1.0}))
    process.wait()
    process.communicate()
    assert history(tmp_path)[1][7]["loss"] == 1.0


def test_a_line_that_was_cut_is_none(tmp_path: Path) -> None:
    process = start(tmp_path)
    say(process, ("row", {"step": 0, "loss": 1.0}))
    process.communicate('["row", {"step": 1, "lo')
    assert list(history(tmp_path)[1]) == [0] and process.returncode == 0


def test_what_wandb_says_is_an_answer(tmp_path: Path) -> None:
    (tmp_path / "wandb").touch()  # where its folder should be
    process = start(tmp_path, project="a/b")
    out, _ = process.communicate()
    answer = json.loads(out.splitlines()[0])
    assert "error" in answer and "\n" not in answer["error"] and process.returncode == 0


def test_a_run_of_a_sweep_has_its_group_and_kind(tmp_path: Path) -> None:
    process = start(tmp_path, group="sweep-1", job_type="trial")
    assert process.stdout is not None and json.loads(process.stdout.readline())["mode"] == "offline"
    process.communicate(json.dumps(("exit", 0)) + "\n")
    [file] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    [run] = [record.run for record in records(file) if record.WhichOneof("record_type") == "run"][:1]
    assert (run.run_id, run.run_group, run.job_type) == ("run-1", "sweep-1", "trial")
