"""Stages of the demo: a command as a part of it, its budget, and the seconds that its work took."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import RunError, Stopped
from cluster.places import write_json


@dataclass(frozen=True)
class Stage:
    """One part of the demo, with its budget in seconds on a machine with two cores.

    `marks`: files that are all there once the work is done, and whose bytes change only when it is done anew.
    """

    name: str
    budget: float
    marks: tuple[Path, ...]
    work: Callable[[], object]


class CommandFailed(Exception):
    """A command ended with a status that is not 0."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


def run_stage(stage: Stage, ledger: Path) -> None:
    """Do a stage's work, and enter what it took in `ledger`, whether it ends well or not."""
    before, start = digest(stage.marks), time.monotonic()
    try:
        stage.work()
    finally:
        entries = read_json(ledger) if ledger.is_file() else {}
        entry = spent_after(entries.get(stage.name), time.monotonic() - start, before, digest(stage.marks))
        write_json(ledger, {**entries, stage.name: entry})


def spent_after(
    entry: Mapping[str, Any] | None, seconds: float, before: str | None, after: str | None
) -> dict[str, Any]:
    """A stage's entry {spent, finished} after a run of `seconds`, from the digests of its marks.

    Marks that stay as they were: the run found its work done, and the entry keeps what the work took. A run
    that goes on where one was stopped adds to it. Work that is done anew counts anew.
    """
    if before is not None and before == after and entry is not None:
        return dict(entry)
    earlier = entry["spent"] if entry is not None and not entry["finished"] else 0.0
    return {"spent": round(earlier + seconds, 2), "finished": after is not None}


def digest(marks: Sequence[Path]) -> str | None:
    """A digest of these files; None while one is missing."""
    if not all(path.is_file() for path in marks):
        return None
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in marks)).hexdigest()


def call(module: str, *arguments: str, capture: bool = False) -> str:
    """Run `python -m MODULE` with its output live, or returned. CommandFailed where the status is not 0."""
    command = [sys.executable, "-u", "-m", module, *arguments]
    print("$ python -m", module, *map(_quoted, arguments), flush=True)
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE if capture else None, text=True, encoding="utf-8"
    )
    try:
        output, _ = child.communicate()
    except KeyboardInterrupt:
        if not sys.stdin.isatty():  # a terminal sends Ctrl-C to the child, too
            child.send_signal(signal.SIGINT)
        child.wait()
        raise
    except Stopped:
        child.terminate()
        child.wait()
        raise
    if child.returncode:
        raise CommandFailed(child.returncode if child.returncode > 0 else 128 - child.returncode)
    return output or ""


def ask(module: str, *arguments: str) -> list[dict[str, Any]]:
    """The JSON objects that a command prints, one a line. RunError where it prints something else."""
    output = call(module, *arguments, capture=True)
    try:
        found = [json.loads(line) for line in output.splitlines()]
    except json.JSONDecodeError:
        found = []
    if not found or not all(isinstance(each, dict) for each in found):
        shown = " ".join(map(_quoted, arguments))
        raise RunError(f"python -m {module} {shown} printed no JSON: {output[:200]!r}")
    return found


def is_newer(result: Path, run: Path) -> bool:
    """Whether `result` was written after the newest checkpoint of a run."""
    written = [index.stat().st_mtime_ns for index in run.glob("**/step-*/index.json")]
    return result.is_file() and bool(written) and result.stat().st_mtime_ns > max(written)


def read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def _quoted(argument: str) -> str:
    return repr(argument) if " " in argument else argument
