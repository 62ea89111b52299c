"""The ledger of a sweep: every trial, result and decision, as lines of one file and as what they come to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from cluster.places import Place
from llm.train.run_folder import read_lines
from llm.train.tracking import LineFile

Status = Literal["running", "finished", "stopped_early", "diverged", "failed"]
ENDED = ("finished", "stopped_early", "diverged")
"""What is not run again. A trial that failed is."""
EVERY_STEP = 1 << 62


def trial_name(number: int) -> str:
    return f"t{number:05d}"


@dataclass
class Trial:
    """A trial as its events have made it."""

    name: str
    number: int
    settings: dict[str, Any]
    status: Status = "running"
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Step to the numbers of its validation."""
    last_step: int = -1
    """Of the newest result."""
    why: str = ""
    seconds: float = 0.0
    start_seconds: float | None = None
    """From its place in the cluster to its first line of metrics, of the first start."""
    parent: str | None = None
    """pbt: the trial that it went on from last."""
    exploits: int = 0
    looked_at: int = 0
    """pbt: step of the last look at it."""
    _since: float | None = None

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    def numbers(self) -> dict[str, Any]:
        """Of the newest result; empty where there is none."""
        return self.results.get(self.last_step, {})

    def take(self, event: dict[str, Any]) -> None:
        """One event of its own."""
        now = event["time"]
        match event["event"]:
            case "begin":
                self.status, self.why, self._since = "running", "", now
            case "result":
                if not self.results and self.start_seconds is None and self._since is not None:
                    self.start_seconds = max(0.0, event.get("logged", now) - self._since)
                self.results[event["step"]] = event["numbers"]
                self.last_step = event["step"]
            case "look":
                self.looked_at = event["step"]
            case "exploit":
                self.settings, self.parent = event["new"], event["from"]
                self.exploits += 1
                self.last_step = self.looked_at = event["from_step"]
                self.results = {step: n for step, n in self.results.items() if step <= self.last_step}
            case "end":
                self.status, self.why = event["status"], event.get("why", "")
        if self._since is not None:
            self.seconds += max(0.0, now - self._since)
            self._since = None if event["event"] == "end" else now


class Ledger:
    """The trials of a sweep, kept as they become. A line is written before what it says counts."""

    def __init__(self, path: Place, check_writer: Callable[[], None] = lambda: None) -> None:
        """Goes on with the lines that are there. `check_writer`: Superseded where another writes them."""
        self.trials: dict[str, Trial] = {}
        self.events: list[dict[str, Any]] = []
        self._file = LineFile(path, EVERY_STEP, check_writer)
        for event in read_lines(path):
            self._take(event)

    def write(self, event: str, trial: str, step: int = 0, **more: Any) -> None:
        """Superseded, PlaceError where it cannot be kept."""
        line = {"event": event, "trial": trial, "step": step, "time": time.time(), **more}
        self._file.write(line)
        self._file.send()
        self._take(line)

    def close(self) -> None:
        self._file.close()

    def _take(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        apply(self.trials, event)


def apply(trials: dict[str, Trial], event: dict[str, Any]) -> None:
    """What an event makes of the trials."""
    name = event["trial"]
    if event["event"] == "trial":
        trials[name] = Trial(name, len(trials), event["settings"])
    else:
        trials[name].take(event)


def read_trials(path: Place) -> dict[str, Trial]:
    """The trials of a ledger that another may be writing."""
    trials: dict[str, Trial] = {}
    for event in read_lines(path):
        apply(trials, event)
    return trials


def lineage(events: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Lines of lineage.jsonl: who went on from whom, and with what."""
    for event in events:
        if event["event"] == "exploit":
            yield {name: event[name] for name in ("trial", "step", "from", "from_step", "old", "new", "time")}
