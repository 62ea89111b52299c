"""Validations beside the training: which checkpoints need one, and where their late numbers belong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.errors import RunError
from llm.run_settings import RunSettings

Row = Mapping[str, Any]

CHECKPOINT = "checkpoint"
"""In both files the name of a checkpoint's folder: what a number in validation.jsonl has its line of
metrics.jsonl by. A step alone would not do: after a rewind it comes again, and means another checkpoint."""
LOSS = "val_loss"
SENT_AGAIN = 3


def is_due(step: int, settings: RunSettings) -> bool:
    """Whether the weights after this step (1 is the first) are validated."""
    every = settings.validation.every
    return step == settings.steps or bool(every and step % every == 0)


def most_samples(step: int, settings: RunSettings) -> int | None:
    """How many samples that validation takes; None: all, as the last one does."""
    return None if step == settings.steps else settings.validation.max_samples


def numbers_of(row: Row) -> dict[str, Any]:
    """Of a line of validation.jsonl what belongs to a line of metrics.jsonl."""
    return {name: row[name] for name in row if name.startswith("val_") or name == "bits_per_byte"}


def join(rows: Iterable[Row], found: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Lines of metrics.jsonl with the numbers that came later, each in the line of its checkpoint.

    A checkpoint that the run went back from, or that was damaged and passed over, has no line any more: its
    numbers are left out.
    """
    late = {row[CHECKPOINT]: numbers_of(row) for row in found if LOSS in row}
    return ({**row, **late.get(row.get(CHECKPOINT, ""), {})} for row in rows)


def late_losses(found: Iterable[Row]) -> dict[str, float]:
    """Checkpoint to its validation loss (nats); without those whose loss is not finite."""
    return {row[CHECKPOINT]: row[LOSS] for row in found if row.get(LOSS) is not None}


@dataclass(frozen=True)
class Needs:
    """What is still to be validated, by the lines of validation.jsonl at one moment."""

    settings: RunSettings
    found: Sequence[Row]
    _last: dict[str, Row] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_last", {row[CHECKPOINT]: row for row in self.found})

    def __call__(self, name: str, step: int) -> bool:
        """Whether a committed checkpoint of this name and step waits for its numbers.

        Not where they are there, nor where it was given up (a line without numbers). A number over a part of
        the samples does for any step but the last.
        """
        if not is_due(step, self.settings):
            return False
        row = self._last.get(name)
        if row is None:
            return True
        return LOSS in row and step == self.settings.steps and row["max_samples"] is not None


def passed_over(waiting: Sequence[str], stay: Collection[str]) -> list[str]:
    """Which of the checkpoints that wait, newest first, are validated no more.

    `stay`: those that are kept for other reasons. The newest always has its turn; an older one as long as it
    is there anyway, so that validations slower than checkpoints fill no disk.
    """
    return [name for name in waiting[1:] if name not in stay]


class LateRows:
    """Watches validation.jsonl, which another process writes, for numbers that a tracker has not got yet."""

    def __init__(self, read: Callable[[], Iterable[Row]], seconds: float) -> None:
        """`read` gives the file's lines; it is called every so many seconds, in a thread.

        Of the lines that are there already the last few are given again: nobody knows whether whoever wrote
        to the tracker before has come to send them.
        """
        self._read, self._seconds = read, seconds
        self._taken: int | None = None
        self._new: list[dict[str, Any]] = []
        self._lock, self._end = threading.Lock(), threading.Event()
        self._look()
        self._thread = threading.Thread(target=self._run, name="late validations", daemon=True)
        self._thread.start()

    def take(self) -> list[dict[str, Any]]:
        """Step and numbers of each new line, once. It reads nothing."""
        with self._lock:
            new, self._new = self._new, []
        return new

    def close(self) -> None:
        """A last look; what it finds is there to be taken."""
        self._end.set()
        self._thread.join()
        self._look()

    def _run(self) -> None:
        while not self._end.wait(self._seconds):
            self._look()

    def _look(self) -> None:
        try:
            rows = [row for row in self._read() if LOSS in row]
        except (OSError, RunError):  # the storage is away for now: the next look finds them
            return
        if self._taken is None:
            self._taken = max(0, len(rows) - SENT_AGAIN)
        with self._lock:
            self._new += [{"step": row["step"], **numbers_of(row)} for row in rows[self._taken :]]
        self._taken = max(self._taken, len(rows))
