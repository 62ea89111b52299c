"""The run's account of its time over all starts and restarts, kept in tracking.json by the first worker."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from cluster import places
from cluster.errors import RunError
from cluster.places import Place
from cluster.sealed import seal, unseal
from llm.train.goodput import RunClock, goodput, next_attempt


class Ledger:
    """Useful seconds, those worked on, and restarts."""

    def __init__(
        self,
        file: Place,
        last_line: Mapping[str, Any] | None,
        launch: str,
        began: float,
        measures: Mapping[str, Any],
        check_writer: Callable[[], None] = lambda: None,
    ) -> None:
        """Count one more start of the workers.

        last_line: of metrics.jsonl, before the lines of lost steps are dropped. measures: what the file says
        beside the times. check_writer: raises Superseded where another start of the command writes by now.
        """
        last = read_clock(file)
        self.is_first_of_launch = last is None or last.launch != launch
        self.clock = next_attempt(last, last_line, launch, began, time.time())
        self.useful = 0.0
        """Seconds of the steps in the run's history."""
        self._file, self._measures, self._check_writer = file, measures, check_writer
        self._write()

    def go_back(self, line: Mapping[str, Any] | None) -> None:
        """The last line that counts is this one: the steps after it come again."""
        self.useful = float((line or {}).get("useful_seconds", 0.0))

    def values(self) -> dict[str, float]:
        """For a line of metrics."""
        wall = self.clock.wall(time.time())
        return {
            "useful_seconds": self.useful,
            "wall_seconds": wall,
            "goodput": goodput(self.useful, wall),
            "restarts": self.clock.restarts,
        }

    def close(self) -> None:
        """Keep until when it was worked on; where that cannot be, the last line of metrics says it."""
        self.clock = replace(self.clock, seen=time.time())
        with contextlib.suppress(OSError, RunError):
            self._check_writer()
            self._write()

    def _write(self) -> None:
        places.write_bytes(self._file, seal({"clock": asdict(self.clock), **self._measures}))


def read_clock(file: Place) -> RunClock | None:
    """The clock in a tracking.json; None where there is none, or with a warning where it is damaged."""
    try:
        return RunClock.from_json(unseal(file.read_bytes())["clock"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        text = f"warning: {file}: passed over, restarts and time are counted anew from here: {error}"
        print(text, file=sys.stderr, flush=True)
        return None
