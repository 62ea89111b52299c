"""Scratch of an unfinished corpus: which task has committed what.

A task writes its files under names that their content gives, then one receipt; the receipt is the
commit. What has a receipt is never done again, what has none is done from its beginning: every task may
run twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cluster.errors import RunError
from cluster.fault_points import fault_point
from cluster.places import commit_file, write_json

Job = dict[str, Any]
"""What a task gets, as JSON: `receipt` (where to commit), `stage`, `job` (its number), and its own fields."""
Receipt = dict[str, Any]
"""What a task did, as JSON: `files` (that must be there), `rejects`, and its own fields."""
Task = Callable[[Job], Receipt]
Runner = Callable[[Task, Sequence[Job]], Iterator[dict[str, Any]]]
"""Runs a task over jobs, anywhere, in any order, and yields what each returns."""

FOLDER = ".work"
WAIT_SECONDS, POLL_SECONDS = 60.0, 0.5
"""For the receipt of a task that has ended: on NFS it may be hidden for seconds."""


def run_here(task: Task, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
    """The runner without Ray: one after the other, in this process."""
    for job in jobs:
        yield run_and_commit(task, job)


def run_and_commit(task: Task, job: Job) -> dict[str, Any]:
    """Run a task, write its receipt, and give the receipt back; with what it cost: {seconds, cpu_seconds}."""
    started, busy = time.monotonic(), time.process_time()
    with failing_as(f"stage {job['stage']}"):
        receipt = task(job)
        cost = {"seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - busy}
        receipt = {**receipt, "cost": {name: round(spent, 4) for name, spent in cost.items()}}
        fault_point(f"prepare.before_{job['stage']}", job=job["job"])
        write_json(job["receipt"], receipt)
        fault_point(f"prepare.after_{job['stage']}", job=job["job"])
    return receipt


@contextlib.contextmanager
def failing_as(what: str) -> Iterator[None]:
    """An error of the machine in the block (a full disk, a lost mount) as a failure that says what failed."""
    try:
        yield
    except RunError:  # a place's own, which says it already
        raise
    except OSError as error:
        raise RunError(f"{what}: {error}; the same command continues") from error


def committed(job: Job) -> dict[str, Any] | None:
    """The job's receipt, if it was done and its files are still there."""
    try:
        receipt: dict[str, Any] = json.loads(Path(job["receipt"]).read_bytes())
    except (OSError, ValueError):
        return None
    return receipt if all(os.path.exists(path) for path in receipt.get("files", ())) else None


def wait_for_receipt(job: Job) -> Receipt:
    """The receipt of a job whose task has ended. RunError where it does not come to sight."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (receipt := committed(job)) is None:  # which opens it, since listings and attributes are cached
        if time.monotonic() >= deadline:
            raise RunError(
                f"stage {job['stage']}: a task has ended, and {job['receipt']} or a file that it names is "
                f"not there after {WAIT_SECONDS:g} s: all machines must see this folder; the same command "
                "continues"
            )
        time.sleep(POLL_SECONDS)
    return receipt


def unreadable(path: str | Path, error: Exception) -> Exception:
    """What to raise where scratch cannot be read: that it is damaged, or the machine's error as it is."""
    if isinstance(error, OSError) and error.errno is not None:  # too many open files, a lost mount
        return error
    return RunError(f"{path}: damaged scratch file ({error}); remove the folder .work and run again")


@contextlib.contextmanager
def temporary(folder: str | Path) -> Iterator[Path]:
    """A new name in a folder for a file that is being written; removed if it still exists afterwards.

    An error of the machine that names no file, as those of Arrow, gets the folder's name.
    """
    os.makedirs(folder, exist_ok=True)
    path = Path(folder) / f".{secrets.token_hex(8)}.tmp"
    try:
        yield path
    except OSError as error:
        if error.filename is None and isinstance(error.errno, int):
            raise OSError(error.errno, os.strerror(error.errno), str(folder)) from error
        raise
    finally:
        path.unlink(missing_ok=True)


def keep(tmp: Path, name: str) -> str:
    """Give a finished temporary file its name in the same folder; returns its path."""
    path = tmp.parent / name
    commit_file(tmp, path)
    return str(path)
