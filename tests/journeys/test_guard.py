"""Whole runs over a poisoned batch: its step is skipped, or the run goes back and around it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import llm
from tests.journeys.home import HERE, Home

NO_TEXT = ("--pretrain.samples.every", "0", "--pretrain.validation.every", "0")
SPIKES = ("--pretrain.guard.spike_sigma", "4", "--pretrain.guard.window", "8")
REWIND = ("--pretrain.guard.on_spike", "rewind", "--pretrain.guard.rewind_steps", "0")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    home.call("data_jobs.prepare", str(home.recipe), "--corpus.out", str(home.corpus))
    return home


def losses(run: Path) -> dict[int, Any]:
    return {r["step"]: (r["loss"], r["sample_digest"]) for r in llm.read_metrics(run) if "loss" in r}


def test_a_batch_that_is_not_finite_is_skipped(home: Home) -> None:
    """The run ends well; its line says which samples; the page and the summary count it."""
    home.pretrain("bad", *HERE, *NO_TEXT, MANTA_FAULT="train.loss:sample=25:nan")
    lines = (home.path / "bad/metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]  # NaN is no JSON
    assert [(r["step"], r["skipped"], r["skipped_samples"]) for r in rows if "skipped" in r] == [
        (7, "loss", [[24, 28]])
    ]
    assert json.loads((home.path / "bad/summary.json").read_text())["skipped_steps"] == 1
    home.call("llm.report", str(home.path / "bad"))


def test_a_rewind_killed_and_continued_is_a_run_without_the_batch(home: Home) -> None:
    """Spike at step 13, back to 10, SIGKILL in step 13 on the way again: the same command ends the same."""
    args = (*HERE, *NO_TEXT, *SPIKES, *REWIND)
    faults = "train.loss:sample=49:1000,train.step:sample=52"  # 52: the first one after what is left out
    out = home.pretrain("spike", *args, status=-9, MANTA_FAULT=faults)
    assert "step 13: a spike" in out and "back to step 10; samples 48 to 51 are left out" in out, out
    home.pretrain("spike", *args, MANTA_FAULT="train.loss:sample=49:1000")
    home.pretrain("without", *args, "--pretrain.skip_samples", "[[48, 52]]")
    assert losses(home.path / "spike") == losses(home.path / "without")
    rows = llm.read_metrics(home.path / "spike")
    assert [row["step"] for row in rows] == list(range(21))
    assert [(r["step"], r["rewound_from"]) for r in rows if "rewound_from" in r] == [(11, 13)]
    summary = json.loads((home.path / "spike/summary.json").read_text())
    assert summary["state"]["guard"]["left_out"] == [[48, 52]]
