"""Hands a run's lines to the process that speaks to W&B, without ever waiting for it.

A thread starts the process (wandb_run.py) and writes to its pipe; `log` puts a line into a queue and returns.
Where W&B does not open the run in time it is kept offline, with all lines from the first on.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import select
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cluster.errors import RunError
from llm.training_settings import WandbSettings

MODULE = "llm.train.wandb_run"
STEP = "step"
START_SECONDS = 30.0  # for the process itself to start, on a loaded machine
GIVE_UP_SECONDS = 5.0  # to go offline, where W&B has said that it cannot
FAILED_SECONDS = 10.0  # at the end of a training that failed: it may start again, and that sends all again
POLL_SECONDS = 0.2
MOST_LINES = 1 << 16  # that wait for a process which takes none
LAST_WORDS = 2000  # bytes


class WandbFeed:
    """The sink of a run's W&B, on the first worker. Whatever W&B does, training goes on.

    After a restart the lines that metrics.jsonl has kept (`earlier`) are sent again where W&B has not got
    them: what a killed process had not sent yet is lost with it.
    """

    def __init__(
        self,
        folder: Path,
        run_id: str,
        settings: WandbSettings,
        config: dict[str, Any],
        earlier: Iterable[dict[str, Any]] = (),
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """`beat` is called now and then while the end waits for W&B."""
        self._mode, self._patience = settings.mode, settings.patience_seconds
        self._told = {
            "folder": str(folder),
            "run_id": run_id,
            "project": settings.project,
            "group": settings.group,
            "job_type": settings.job_type,
            "config": config,
            "patience": self._patience,
            "trainer": os.getpid(),
        }
        self._earlier, self._beat = earlier, beat
        self._lines: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._left_out = 0
        self._ended = math.inf  # when the training did, by time.monotonic
        self._over = threading.Event()
        """Nothing is sent any more."""
        self._process: _Process | None = None
        self._thread = threading.Thread(target=self._feed, name="wandb", daemon=True)
        self._thread.start()

    def log(self, values: dict[str, Any]) -> None:
        if self._over.is_set():
            return
        if self._lines.qsize() < MOST_LINES:
            self._lines.put(("row", values))
        else:
            self._left_out += 1

    def go_back(self, step: int) -> None:
        """W&B's history only grows: the steps come again under their numbers, and the last line counts."""

    def finish(self, exit_code: int) -> None:
        """Give W&B a bounded time for what is left; what it did not take is told."""
        self._ended = time.monotonic()
        self._lines.put(("exit", exit_code))
        limit = self._ended + (FAILED_SECONDS if exit_code else self._patience + START_SECONDS)
        while self._thread.is_alive() and time.monotonic() < limit:
            self._thread.join(POLL_SECONDS)
            self._beat()
        self._over.set()
        if self._process is not None:
            self._process.kill()
        self._thread.join(FAILED_SECONDS)  # it only has to tell
        if self._left_out:
            _warn(f"W&B took its lines too slowly: {self._left_out} were left out; metrics.jsonl has all")

    def _feed(self) -> None:
        try:
            process, opened = self._open()
            for row in self._earlier:
                if row[STEP] > opened["has"]:
                    process.send("row", row)
            kind = ""
            while kind != "exit":
                kind, value = self._lines.get()
                process.send(kind, value)
            if opened["mode"] == "disabled":
                return
            answer = process.answer(lambda: not self._over.is_set())
            if not (answer or {}).get("sent"):
                _warn(f"W&B has not taken all in time: it is in {opened['folder']}; {_sync(opened)}")
        except Exception as error:  # whatever it is, it is not worth a training
            _warn(f"W&B is left out from here on, training goes on: {error}; metrics.jsonl has every line")
        finally:
            self._over.set()
            if self._process is not None:
                self._process.close()

    def _open(self) -> tuple[_Process, dict[str, Any]]:
        """The process that has opened the run: as it is wanted, else offline. RunError where neither goes.

        The first goes offline by itself where W&B says in time that it cannot; another is for one that hangs.
        """
        why = ""
        for mode in (self._mode, "offline") if self._mode != "offline" else ("offline",):
            self._process = process = _Process({**self._told, "mode": mode})
            after = START_SECONDS if mode == "offline" else self._patience + GIVE_UP_SECONDS
            opened = process.answer(self._patient(after))
            if opened is not None and "error" not in opened:
                if why := opened.get("why") or why:
                    _warn(
                        f"W&B did not open the run ({why}): it is kept in {opened['folder']}; {_sync(opened)}"
                    )
                return process, opened
            process.close()
            why = opened["error"] if opened else f"no answer in {self._patience:g} s"
            if self._over.is_set():
                break
        raise RunError(why)

    def _patient(self, after: float) -> Callable[[], bool]:
        """Whether to wait on for an answer. `after`: most seconds from the end of the training on."""
        limit = time.monotonic() + self._patience + START_SECONDS
        return lambda: time.monotonic() < min(limit, self._ended + after) and not self._over.is_set()


class _Process:
    """wandb_run.py at the other end of two pipes."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,  # not ours: whoever reads those to their end would wait for W&B
            start_new_session=True,  # Ctrl-C is for the trainer, which then says what is left to do
        )
        self._read = b""
        self._write(told)

    def send(self, kind: str, value: Any) -> None:
        """RunError where the process is gone."""
        try:
            self._write((kind, value))
        except OSError:
            answer = self.answer(lambda: False) or {}
            raise RunError(answer.get("error", "its process ended")) from None

    def answer(self, patient: Callable[[], bool]) -> dict[str, Any] | None:
        """The next line that it says; None where none comes while `patient` says to wait."""
        assert self._child.stdout is not None
        while b"\n" not in self._read:
            if select.select([self._child.stdout], [], [], POLL_SECONDS)[0]:
                data = os.read(self._child.stdout.fileno(), 1 << 16)
                if not data:
                    return {"error": self._last_words()}
                self._read += data
            elif not patient():
                return None
        line, _, self._read = self._read.partition(b"\n")
        value: dict[str, Any] = json.loads(line)
        return value

    def kill(self) -> None:
        """It may have ended long ago."""
        self._child.kill()

    def close(self) -> None:
        """End it, for the thread that speaks to it."""
        self._child.kill()
        self._child.wait()
        for file in (self._child.stdin, self._child.stdout, self._errors):
            with contextlib.suppress(OSError):  # a line that nobody took
                file.close()  # type: ignore[union-attr]

    def _write(self, value: Any) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")
        self._child.stdin.flush()

    def _last_words(self) -> str:
        self._errors.seek(0)
        words = self._errors.read()[-LAST_WORDS:].decode("utf-8", "replace").strip()
        return words.splitlines()[-1].strip() if words else "its process ended"


def _sync(opened: dict[str, Any]) -> str:
    """What sends a folder later; wandb takes one that was begun online for sent."""
    online = "--include-online " if opened["mode"] == "online" else ""
    return f"when W&B is back: wandb sync {online}{shlex.quote(opened['folder'])}"


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
