"""The real command while W&B is no use: the same training, its rows on disk, and an end."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import llm
from benchmarks.wandb_server import USELESS, useless_server
from tests.journeys.home import Home
from tests.journeys.wandb_file import history

# Only what the tests are of: one process, PyTorch alone.
QUICK = (
    "--pretrain.launch", "here", "--pretrain.workers", "1", "--pretrain.engine", "plain",
    "--pretrain.samples.prompts", "[]", "--pretrain.wandb.patience_seconds", "1",
)  # fmt: skip


# The others are those of test_wandb_feed.py, here again with the whole command.
SERVERS = [
    pytest.param(server, marks=() if server == "never answers" else pytest.mark.slow) for server in USELESS
]


def losses(run: Path) -> list[Any]:
    return [(row["step"], row.get("loss"), row.get("val_loss")) for row in llm.read_metrics(run)]


@pytest.fixture(scope="module")
def alone(home: Home) -> Path:
    """The same run without W&B."""
    told = home.pretrain(
        "alone-untracked", *QUICK, "--pretrain.wandb.mode", "disabled", "--pretrain.peak_tflops", "0.05"
    )
    (home.path / "alone-untracked.txt").write_text(told)
    return home.path / "alone-untracked"


@pytest.mark.parametrize("server", SERVERS)
def test_a_useless_wandb_server_touches_nothing(home: Home, alone: Path, server: str) -> None:
    """Losses equal to the bit, exit 0 in time (a command has a limit), every row in the offline folder."""
    name = f"tracked-{server.replace(' ', '-')}"
    with useless_server(server) as environment:
        told = home.pretrain(name, *QUICK, "--pretrain.wandb.mode", "online", **environment)
    run = home.path / name
    assert losses(run) == losses(alone)
    sync = re.findall(r"wandb sync (\S+)", told)
    assert len(sync) == 1 and Path(sync[0]).is_dir() and Path(sync[0]).is_relative_to(run), told
    ids, rows = history(run)
    summary = json.loads((run / "summary.json").read_text())
    assert ids == {summary["run_id"]}
    assert {step: row.get("loss") for step, row in rows.items()} == {
        row["step"]: row.get("loss") for row in llm.read_metrics(run)
    }


def assert_accounts(run: Path, restarts: int) -> None:
    """The lines add up: useful are the steps that are there, each once."""
    rows, summary = llm.read_metrics(run), json.loads((run / "summary.json").read_text())
    last = rows[-1]
    assert last["useful_seconds"] == pytest.approx(sum(row.get("step_seconds", 0) for row in rows))
    assert last["goodput"] == pytest.approx(last["useful_seconds"] / last["wall_seconds"])
    assert last["restarts"] == summary["restarts"] == restarts
    assert 0 < summary["goodput"] <= last["goodput"] <= 1
    assert all(row["memory_bytes"] > 1 << 20 for row in rows[1:])
    walls = [row["wall_seconds"] for row in rows[1:]]
    assert walls == sorted(walls)


def test_a_killed_command_loses_its_time_and_no_more(home: Home) -> None:
    """SIGKILL in step 8, after the checkpoint of step 5: the time of the lost steps counts as not useful."""
    args = (*QUICK, "--pretrain.wandb.mode", "disabled")
    home.pretrain("killed-tracked", *args, status=-9, MANTA_FAULT="train.step:step=8")
    run = home.path / "killed-tracked"
    before = llm.read_metrics(run)
    assert [row["step"] for row in before] == list(range(8))
    home.pretrain("killed-tracked", *args)
    assert_accounts(run, restarts=1)
    rows = llm.read_metrics(run)
    lost = sum(row["step_seconds"] for row in before[6:])
    assert rows[6]["wall_seconds"] >= before[7]["wall_seconds"] > before[5]["wall_seconds"] + lost * 0.9


def test_formula_and_peak_are_said_and_kept(alone: Path) -> None:
    told = (alone.parent / "alone-untracked.txt").read_text()
    assert told.count("mfu = tokens/s x FLOPs of a token in training / (peak of a device x workers)") == 1
    assert "peak 0.05 TFLOP/s (pretrain.peak_tflops) x 1" in told
    kept = json.loads((alone / "tracking.json").read_text())["mfu"]
    assert kept["peak_tflops"] == [0.05] and kept["peak_source"] == "pretrain.peak_tflops"
    for row in llm.read_metrics(alone)[1:]:
        rate = row["tokens_per_second"] * kept["training_flops_per_token"]
        assert row["flops_per_second"] == pytest.approx(rate)
        assert row["mfu"] == pytest.approx(rate / 0.05e12)
    summary = json.loads((alone / "summary.json").read_text())
    assert summary["mfu"] > 0 and summary["mfu_measured_by"] == kept
