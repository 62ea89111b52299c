"""W&B from a training's side: no row is lost, nothing waits, and every process ends."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.wandb_server import USELESS, environment, useless_server
from llm.train import wandb_feed
from llm.train.wandb_feed import WandbFeed
from llm.training_settings import WandbSettings
from tests.journeys.wandb_file import history
from tests.llm.train.wandb_server import WandbServer, wandb_server

pytestmark = [pytest.mark.timeout(120), pytest.mark.alone]
ROOT = Path(__file__).resolve().parents[3]
ROWS: list[dict[str, Any]] = [{"step": step, "loss": 1 / (step + 1), "lr": 0.1} for step in range(30)]
WANTED = {row["step"]: row["loss"] for row in ROWS}


def feed(folder: Path, mode: str = "auto", patience: float = 20.0, **more: Any) -> WandbFeed:
    settings = WandbSettings.model_validate({"mode": mode, "patience_seconds": patience})
    return WandbFeed(folder, "run-1", settings, {"model": {"layers": 1}}, **more)


def losses_in(folder: Path) -> dict[int, float]:
    """Step to loss, of one run, as the offline files have them."""
    ids, rows = history(folder)
    assert ids == {"run-1"}
    return {step: row["loss"] for step, row in rows.items()}


def process_of(sink: WandbFeed) -> psutil.Process:
    until(lambda: sink._process is not None)
    assert sink._process is not None
    return psutil.Process(sink._process._child.pid)


def go_there(there: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in there.items():
        monkeypatch.setenv(name, value)


def until(true: Callable[[], bool]) -> None:
    """The test's own time-out ends it."""
    while not true():
        time.sleep(0.05)


def test_without_a_key_the_run_is_kept_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))  # nobody's key
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    sink = feed(tmp_path)
    for row in ROWS:
        sink.log(row)
    sink.finish(0)
    assert losses_in(tmp_path) == WANTED
    assert capfd.readouterr() == ("", "")


def test_a_restart_is_the_same_run_and_has_all_rows(tmp_path: Path) -> None:
    for begin, end in ((0, 10), (10, 30)):
        sink = feed(tmp_path, earlier=ROWS[:begin])
        for row in ROWS[begin:end]:
            sink.log(row)
        sink.finish(0)
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 2
    last = max(tmp_path.glob("wandb/offline-run-*"))
    for folder in tmp_path.glob("wandb/offline-run-*"):
        if folder != last:
            folder.rename(tmp_path / folder.name)
    assert losses_in(tmp_path) == WANTED, "the last folder alone has all"


@pytest.mark.parametrize("server", USELESS)
def test_a_useless_server_leaves_a_run_on_disk(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """All rows, those before the server was given up too; one warning, with the command that sends them."""
    with useless_server(server) as there:
        go_there(there, monkeypatch)
        sink = feed(tmp_path, "online", patience=1.0)
        for row in ROWS[:20]:
            sink.log(row)
        until(lambda: not sink._lines.qsize())  # given up, and kept offline
        for row in ROWS[20:]:
            sink.log(row)
        sink.finish(0)
    assert losses_in(tmp_path) == WANTED
    out, said = capfd.readouterr()
    assert out == "" and said.count("\n") == 1, said
    folder = re.search(r"wandb sync (\S+)", said)
    assert folder and Path(folder[1]).is_dir() and list(Path(folder[1]).glob("*.wandb"))
    assert said.startswith("warning: W&B did not open the run ("), said


def test_a_process_that_hangs_is_followed_by_one_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wandb_feed, "START_SECONDS", 20.0)
    sink = feed(tmp_path, "auto", patience=0.1)
    first = process_of(sink)
    first.suspend()
    for row in ROWS:
        sink.log(row)
    sink.finish(
        0
    )  # the first has so long as the settings say, the second so long as a process takes to start
    assert losses_in(tmp_path) == WANTED and not psutil.pid_exists(first.pid)
    told = capfd.readouterr().err
    assert "W&B did not open the run (no answer in 0.1 s)" in told and told.count("wandb sync") == 1, told


def test_a_training_that_is_over_at_once_leaves_all_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends before W&B was opened: the end waits for what the settings say, and no longer."""
    with useless_server("never answers") as there:
        go_there(there, monkeypatch)
        beats: list[None] = []
        sink = feed(tmp_path, "online", patience=1.0, beat=lambda: beats.append(None))
        for row in ROWS:
            sink.log(row)
        sink.finish(0)
    assert losses_in(tmp_path) == WANTED and beats


def test_nothing_of_wandb_is_left_running(tmp_path: Path) -> None:
    sink = feed(tmp_path)
    process = process_of(sink)
    until(lambda: bool(process.children()))
    services = process.children()
    sink.finish(0)
    _, alive = psutil.wait_procs([process, *services], timeout=60)
    assert not alive and services


def test_a_process_that_takes_nothing_costs_lines_and_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wandb_feed, "MOST_LINES", 1000)
    monkeypatch.setattr(wandb_feed, "START_SECONDS", 1.0)
    sink = feed(tmp_path, "offline", patience=1.0)
    process_of(sink).suspend()
    for step in range(100_000):
        sink.log({"step": step, "loss": 0.0})
    sink.finish(0)
    told = capfd.readouterr().err
    assert "were left out; metrics.jsonl has all" in told and not sink._thread.is_alive()


def test_a_dead_process_is_told_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sink = feed(tmp_path)
    sink.log(ROWS[0])
    until(lambda: not sink._lines.qsize())  # it was opened
    process_of(sink).kill()
    while not sink._over.is_set():
        sink.log(ROWS[0])
        time.sleep(0.01)
    sink.log(ROWS[1])
    sink.finish(0)
    told = capfd.readouterr().err
    assert told.count("W&B is left out from here on, training goes on") == 1 == told.count("\n"), told


def test_a_killed_training_leaves_its_rows_and_no_process(tmp_path: Path) -> None:
    """What was logged before a SIGKILL is in the file, although nobody finished the run."""
    code = (
        "import os, signal, sys, time\nfrom pathlib import Path\n"
        "from tests.llm.train.test_wandb_feed import ROWS, feed, process_of, until\n"
        "sink = feed(Path(sys.argv[1]), 'offline')\n"
        "for row in ROWS: sink.log(row)\n"
        "until(lambda: not sink._lines.qsize())\n"
        "print(process_of(sink).pid, flush=True)\n"
        "time.sleep(1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    until(lambda: not psutil.pid_exists(pid))
    assert losses_in(tmp_path) == WANTED


def test_disabled_by_the_environment(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    os.environ["WANDB_MODE"] = "disabled"
    try:
        sink = feed(tmp_path)
        sink.log(ROWS[0])
        sink.finish(0)
    finally:
        os.environ["WANDB_MODE"] = "offline"
    assert not list(tmp_path.iterdir()) and capfd.readouterr().err == ""


def steps_at(server: WandbServer) -> list[int]:
    return [row["step"] for row in server.history.get("run-1", [])]


def sync(told: str, server: WandbServer) -> None:
    """Do what a warning says."""
    said = re.search(r"when W&B is back: wandb (sync .+)", told)
    assert said, told
    variables = {**os.environ, **environment(server.port), "WANDB_MODE": "online"}
    words = [sys.executable, "-m", "wandb", *shlex.split(said[1])]
    subprocess.run(words, env=variables, capture_output=True, text=True, check=True)


def test_a_server_gets_each_row_once_over_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the first start sent is not sent again, what it could not is."""
    with wandb_server() as server:
        go_there(environment(server.port), monkeypatch)
        for begin, end, known in ((0, 10, 10), (10, 30, 15)):
            sink = feed(tmp_path, "online", earlier=ROWS[: max(begin, known if begin else 0)])
            for row in ROWS[max(begin, known if begin else 0) : end]:
                sink.log(row)
            sink.finish(0)
        assert steps_at(server) == list(range(30))
        assert list(server.history) == ["run-1"]
    assert capfd.readouterr() == ("", "")


def test_a_server_that_dies_has_its_rows_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The end has its limit, and the command that is told sends them."""
    with wandb_server() as server:
        go_there(environment(server.port), monkeypatch)
        sink = feed(tmp_path, "online", patience=2.0)
        until(lambda: "run-1" in server.history)
    for row in ROWS:
        sink.log(row)
    sink.finish(0)
    told = capfd.readouterr().err
    assert told.startswith("warning: W&B has not taken all in time") and told.count("\n") == 1, told
    with wandb_server() as another:
        sync(told, another)
        assert steps_at(another) == list(range(30))


def test_what_was_kept_on_disk_is_sent_by_the_command_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with useless_server("refuses") as there:
        go_there(there, monkeypatch)
        sink = feed(tmp_path / "with a blank", "online", patience=0.5)
        for row in ROWS:
            sink.log(row)
        sink.finish(0)
    with wandb_server() as server:
        sync(capfd.readouterr().err, server)
        assert steps_at(server) == list(range(30))
