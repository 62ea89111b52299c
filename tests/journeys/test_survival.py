"""Whole commands that lose workers, nodes, time and each other: real Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import llm
from llm.train.run_folder import last_line
from tests.journeys.home import HERE, Home
from tests.journeys.test_pretrain import assert_same_run, losses, wait_for_step

SLOW = ("--pretrain.wandb.mode", "disabled", "--pretrain.validation.every", "0")


def wait_for(what: str, found: Any, process: subprocess.Popen[str], seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        if time.monotonic() > deadline or process.poll() is not None:
            process.kill()
            raise AssertionError(f"not seen: {what}\n{process.communicate()[0]}")
        time.sleep(0.1)


def worker_pids(process: subprocess.Popen[str]) -> list[int]:
    """Processes of Ray Train's workers under a command."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        words = " ".join(child.cmdline())
        if "RayTrainWorker" in words:
            found.append(child.pid)
    return found


def test_two_starts_one_writer(home: Home) -> None:
    """The second is refused and names the first; a killed one is followed at once, by the same result."""
    run = home.path / "twice"
    steps = (*HERE, "--pretrain.steps", "400", "--pretrain.validation.every", "0")
    first = home.start("llm.pretrain", *home.pretrain_args("twice", *steps))
    wait_for_step(first, run, 7)
    out = home.pretrain("twice", *steps, status=2)
    assert f"process {first.pid} on " in out and "Traceback" not in out, out
    first.kill()
    first.communicate()
    home.pretrain("twice", *steps)
    assert [row["step"] for row in llm.read_metrics(run)] == list(range(401))
    generations = {json.loads(i.read_bytes())["generation"] for i in run.glob("checkpoints/*/index.json")}
    assert generations == {2}


@pytest.mark.ray
def test_a_stopped_worker_is_given_up(home: Home, whole: Path) -> None:
    """SIGSTOP of one worker: the group is restarted within its deadline, and the result is the same."""
    process = home.start("llm.pretrain", *home.pretrain_args("hung", "--pretrain.hang_seconds", "6"))
    wait_for_step(process, home.path / "hung", 6)
    stopped = worker_pids(process)[1]
    os.kill(stopped, signal.SIGSTOP)
    out, _ = process.communicate(timeout=150)
    assert process.returncode == 0, out
    assert "Timeout (0:00:06)!" in out, out
    assert not psutil.pid_exists(stopped) or psutil.Process(stopped).status() == "zombie"
    assert_same_run(home.path / "hung", whole)


@pytest.mark.ray
def test_a_worker_that_is_told_to_end_saves_first(home: Home, whole: Path) -> None:
    """SIGTERM of one worker (its machine goes): a checkpoint at this step, and the same result."""
    args = ("--pretrain.checkpoint.every", "1000")
    process = home.start("llm.pretrain", *home.pretrain_args("told", *args))
    wait_for_step(process, home.path / "told", 3)
    os.kill(worker_pids(process)[1], signal.SIGTERM)
    wait_for("a checkpoint", lambda: list((home.path / "told").glob("checkpoints/*/index.json")), process)
    out, _ = process.communicate(timeout=150)
    assert process.returncode == 0, out
    assert losses(home.path / "told") == losses(whole)
    assert json.loads((home.path / "told/summary.json").read_text())["attempts"] == 1


@pytest.mark.ray
@pytest.mark.slow
def test_a_group_that_always_fails_ends_with_a_word(home: Home) -> None:
    """Killed at the same step at each start: on from the checkpoint between, then exit 1 with that step."""
    out = home.pretrain(
        "always", "--pretrain.max_failures", "0", MANTA_FAULT="train.step:step=8:rank=1", status=1
    )
    assert "failed 1 time without a new checkpoint" in out and "step 5 is the last good one" in out, out
    assert len({row["attempt"] for row in llm.read_metrics(home.path / "always")}) == 2
    assert "the same command continues" in out and "Traceback" not in out.split("failed:")[-1], out


@pytest.mark.ray
@pytest.mark.timeout(300)
@pytest.mark.slow  # `make faults` has it, too
def test_a_lost_node(home: Home) -> None:
    """min 1, max 2: on with one worker when a node dies; each sample once. (`make faults` gives one back.)"""
    assert not lost_and_given(home, given=False)


def lost_and_given(home: Home, given: bool = True) -> str:
    """Two nodes, one killed in mid-run, another added: what is wrong with the run, or nothing."""
    from ray.cluster_utils import Cluster

    run = home.path / "elastic"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1)
        changes = (
            *SLOW, "--pretrain.steps", "6000", "--pretrain.checkpoint.every", "100",
            "--pretrain.samples.every", "0", "--pretrain.workers", "{min: 1, max: 2}",
            "--cluster.address", cluster.address,
        )  # fmt: skip
        process = home.start("llm.pretrain", *home.pretrain_args("elastic", *changes))

        def workers() -> int:
            return int((last_line(run / "metrics.jsonl") or {}).get("workers", 0))

        wait_for("two workers", lambda: workers() == 2, process)
        wait_for_step(process, run, 110)
        cluster.remove_node(node, allow_graceful=False)
        wait_for("one worker", lambda: workers() == 1, process)
        if given:
            cluster.add_node(num_cpus=1)
            wait_for("two workers again", lambda: workers() == 2, process)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=120)
    finally:
        cluster.shutdown()
    if process.returncode != 143:
        return out
    rows = llm.read_metrics(run)
    last = rows[-1]["step"]
    args = (*HERE, *SLOW, "--pretrain.samples.every", "0", "--pretrain.steps", "6000")
    home.pretrain("elastic_alone", *args, status=-9, MANTA_FAULT=f"train.step:step={last + 1}")
    alone = llm.read_metrics(home.path / "elastic_alone")
    if [row["step"] for row in rows] != list(range(last + 1)) or len(alone) != last + 1:
        return f"steps {[row['step'] for row in rows]}"
    seen = [row["workers"] for row in rows[1:]]
    if not {1, 2} <= set(seen) or seen[0] != 2 or seen[-1] != (2 if given else 1):
        return f"workers {seen}"
    for one, row in zip(alone, rows, strict=True):
        if row.get("sample_digest") != one.get("sample_digest"):
            return f"step {row['step']}: other samples than those of one worker"
        # Adam amplifies the last bit of a sum, on a model as small as this within some hundred steps.
        if row["step"] <= 100 and abs(row.get("loss", 1) / one.get("loss", 1) - 1) > 0.02:
            return f"step {row['step']}: loss {row['loss']}, of one worker {one['loss']}"
    return ""
