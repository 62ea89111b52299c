"""A measured process: `python -m MODULE` with the machine's threads and its output in a log."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import cores
from cluster.errors import RunError
from cluster.recipe import ROOT

END_SECONDS = 120.0  # what a process may take to end after SIGTERM: it makes a checkpoint first
LOG_LINES = 15


def run_module(log: Path, module: str, *arguments: str) -> None:
    """Run to the end. RunError with the log's last lines where it fails; it never outlives this process."""
    child = start_module(log, module, *arguments)
    try:
        status = child.wait()
    except BaseException:
        end(child)
        raise
    if status:
        last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        raise RunError(f"python -m {module} ended with status {status}:\n" + "\n".join(last))


def start_module(log: Path, module: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start it; whoever does must `end` it."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(cores()),
        "PYTHONPATH": str(ROOT),
        "WANDB_MODE": "offline",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    environment.pop("RAY_ADDRESS", None)  # this machine, never somebody's cluster
    with open(log, "wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip


def end(child: subprocess.Popen[bytes]) -> None:
    """Ask it to end, and make it where it does not."""
    child.terminate()
    try:
        child.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
