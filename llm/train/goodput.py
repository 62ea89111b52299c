"""Goodput: what share of the time that a run was worked on went into steps that count.

Useful are the steps in the run's history, each once: a step that was lost to a kill and done again counts
once. Worked on it is while a command runs for it: start-up, restarts, lost steps, validation and checkpoints
count, the idle time between two commands does not. Of a command that was killed with its machine the time is
known up to what it wrote last.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RunClock:
    """How long a run has been worked on. Times are Unix seconds."""

    launch: str
    """The start of the command that works on it."""
    began: float
    """When that start did."""
    before: float
    """Seconds of all earlier starts."""
    attempts: int
    """How often workers have started, in all starts."""
    seen: float
    """When it was last known to be worked on."""

    @property
    def restarts(self) -> int:
        return self.attempts - 1

    def wall(self, now: float) -> float:
        """Seconds that the run was worked on until `now`."""
        return self.before + max(0.0, now - self.began)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunClock:
        """TypeError where a field is missing or unknown."""
        return cls(**value)


def next_attempt(
    last: RunClock | None, line: Mapping[str, Any] | None, launch: str, began: float, now: float
) -> RunClock:
    """The clock of workers that start now, for the start `launch` of the command that began at `began`.

    last: the clock as the workers before have left it; None: there were none. line: the last line that they
    logged, also of a step that is lost now.
    """
    if last is not None and last.launch == launch:
        return dataclasses.replace(last, attempts=last.attempts + 1, seen=now)
    line = line or {}
    before, ended = float(line.get("wall_seconds", 0.0)), float(line.get("time", 0.0))
    if last is not None:
        ended = max(last.seen, ended)
        before = max(before, last.wall(ended))
    # A start that waited for the end of the one before has the time once; clocks of two machines may differ.
    began = min(max(began, ended), now)
    return RunClock(launch, began, before, (last.attempts if last else 0) + 1, now)


def goodput(useful: float, wall: float) -> float:
    """Useful seconds over seconds worked on."""
    return useful / wall if wall > 0 else 0.0
