"""A trial in its own process: the command's `run` in a thread, and what it comes to, bit by bit."""

from __future__ import annotations

import json
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster import lease, places
from cluster.errors import UserError
from cluster.recipe import Recipe, find_sections
from llm.train.launch import STOP, STOP_SECONDS
from llm.train.run_folder import RunFolder, last_line
from llm.tune.exploit import HandOver
from llm.tune.folder import SweepFolder
from llm.tune.space import with_settings
from llm.tune.tail import Tail

POLL_SECONDS, REMOTE_SECONDS = 0.2, 3.0
STOP_LOOK_SECONDS = 1.0

Run = Callable[[Recipe], dict[str, Any]]


@dataclass(frozen=True)
class Work:
    """What every trial of a sweep is told. Plain values, and the command's `run`."""

    run: Run
    name: str
    path: str
    """Of the recipe."""
    of: str
    sections: dict[str, dict[str, Any]]
    """The recipe's values, with what all trials have alike."""
    sweep: str
    sweep_id: str

    def with_cpus(self, cpus: int) -> Work:
        """The same with so many CPUs for each worker of a trial."""
        return replace(self, sections=with_settings(self.sections, {f"{self.of}.cpus_per_worker": cpus}))

    @property
    def folder(self) -> SweepFolder:
        return SweepFolder(places.at(self.sweep))

    def recipe(self, trial: str, settings: dict[str, Any]) -> Recipe:
        """The recipe of one trial. Settings that a sweep may change in a run are accepted by name."""
        own = {
            f"{self.of}.out": str(self.folder.trial(trial)),
            f"{self.of}.wandb.group": self.sweep_id,
            f"{self.of}.wandb.job_type": "trial",
            f"{self.of}.wandb.run_id": f"{self.sweep_id}-{trial}",
        }
        known = find_sections()
        sections = {
            name: known[name].model_validate(values)
            for name, values in with_settings(self.sections, settings | own).items()
        }
        options = Namespace(fresh=False, accept=list(settings), json=True)
        return Recipe(self.name, Path(self.path), sections, options)


@dataclass(frozen=True)
class Told:
    """What the sweep tells the process of a trial; travels as JSON."""

    trial: str
    settings: dict[str, Any]
    after: int
    """Step of the newest result that is known already."""
    exploits: int

    def to_json(self) -> str:
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str) -> Told:
        return cls(**json.loads(text))


class TrialRun:
    """One trial on its way. `next` waits for what comes next; `end` asks it to end at a checkpoint.

    It begins with the first `next`: Tune makes processes that it ends again before they have done anything.
    """

    def __init__(self, work: Work, told: Told) -> None:
        self.work, self.told = work, told
        self.run = RunFolder(work.folder.trial(told.trial))
        self._tail = Tail(self.run.metrics, told.after)
        self._waiting: list[dict[str, Any]] = []
        self._error: BaseException | None = None
        self._asked = False
        self._ended, self._leaving, self._taken = threading.Event(), threading.Event(), threading.Event()
        self._is_ours = threading.Event()
        """From here on it is this process that runs the trial."""
        self._looked = 0.0
        self._thread = threading.Thread(target=self._train, name=told.trial, daemon=True)

    def next(self) -> dict[str, Any]:
        """{"line": ...} of a validation, with whether it is the last step's; or {"end": status, "why"}."""
        wait = REMOTE_SECONDS if places.is_remote(self.run.path) else POLL_SECONDS
        if self._thread.ident is None:
            self._thread.start()
        while True:
            over = self._ended.is_set()  # asked before the last look at the lines
            if not self._waiting and self._taken.is_set():
                self._waiting = self._tail.new()
            if self._waiting:
                line = self._waiting.pop(0)
                return {"line": line, "last": line["step"] >= self._steps()}
            if over:
                status, why = self._status()
                return {"end": status, "why": why}
            self._heed()
            self._ended.wait(wait)

    def end(self) -> bool:
        """Ask for a checkpoint and the end, and wait for it; whether it came."""
        self._leaving.set()
        if self._thread.ident is None:
            return True
        until = time.monotonic() + STOP_SECONDS
        while not self._ended.is_set() and time.monotonic() < until:
            self._ask()
            self._ended.wait(POLL_SECONDS)
        return self._ended.is_set()

    def _train(self) -> None:
        try:
            self._wait_for_orphans()
            if self.told.exploits:
                HandOver(self.run, self.told.exploits).take()
            self._taken.set()  # before it, the lines may be of what it takes the place of
            if not self._leaving.is_set() and not self.work.folder.stop.exists():
                self._is_ours.set()
                self.work.run(self.work.recipe(self.told.trial, self.told.settings))
            else:
                self._asked = True
        except BaseException as error:  # it is the sweep's to say what becomes of it
            self._error = error
        finally:
            self._ended.set()

    def _wait_for_orphans(self) -> None:
        """The sweep's lease is ours: whoever holds a trial's is an earlier process of it, on its way out."""
        seen: lease.Holder | None = None
        until, since = time.monotonic() + 2 * STOP_SECONDS, time.monotonic()
        while (holder := lease.read(self.run.path)) is not None and not holder.is_gone():
            if self._leaving.is_set():
                return
            now = time.monotonic()
            if holder != seen:
                seen, since = holder, now
            if now > until or now - since > lease.EXPIRED_SECONDS:
                return
            time.sleep(lease.POLL_SECONDS)

    def _heed(self) -> None:
        """Look now and then whether the whole sweep is to stop."""
        if time.monotonic() - self._looked > STOP_LOOK_SECONDS:
            self._looked = time.monotonic()
            if self.work.folder.stop.exists():
                self._ask()

    def _ask(self) -> None:
        """Again and again: a run that is just starting takes away what it finds of an earlier one."""
        self._asked = True
        if self._is_ours.is_set() and self.run.settings.exists() and not self.run.stop.exists():
            places.create(self.run.stop, STOP.encode())

    def _steps(self) -> int:
        """Of the whole run, as its record has them: of a fine-tuning they may follow from the examples."""
        try:
            return int(self.run.read_settings()[self.work.of]["steps"])
        except (UserError, KeyError):
            return 1 << 62

    def _status(self) -> tuple[str, str]:
        why = str(self._error) or type(self._error).__name__
        if isinstance(self._error, UserError):
            return "user", why
        if self.run.read_summary() is not None:
            return "finished", ""
        if self._asked:
            return "stopped", ""
        line = last_line(self.run.metrics)
        if line is not None and line.get("skipped"):
            return "diverged", why  # the guard ended it: a result of these settings, not a failure
        return "failed", why
