"""The live line of a training, read from the run's metrics: the driver needs no word from the workers."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from tqdm import tqdm

from cluster import places
from cluster.places import Place
from llm.train.run_folder import last_lines

PLAIN_SECONDS = 15.0  # between lines where the output is no terminal
REMOTE_SECONDS = 3.0  # between two looks at a file in an object store

Row = Mapping[str, Any]


class Progress:
    """Shows step, loss, tokens/s and time left in a background thread, as a context manager."""

    def __init__(self, metrics: Place, steps: int, cadence: int = 1) -> None:
        """`cadence`: steps from one validation or checkpoint to the next, whichever is more."""
        self.metrics, self.steps, self.cadence = metrics, steps, cadence
        self._interval = REMOTE_SECONDS if places.is_remote(metrics) else 0.5
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        terminal = sys.stderr.isatty()
        # No rate and no time of tqdm's own: it knows nothing of restarts.
        bar = tqdm(
            total=self.steps, unit="step", disable=not terminal, dynamic_ncols=True,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}",
        )  # fmt: skip
        shown, told = None, time.monotonic()
        while not self._end.wait(self._interval):
            rows = last_lines(self.metrics)
            if not rows or (rows[-1]["step"], rows[-1].get("attempt")) == shown:
                continue
            row = rows[-1]
            step, shown = row["step"], (row["step"], row.get("attempt"))
            words = in_words(row) + self._left(rows)
            bar.n = step
            bar.set_postfix_str(words, refresh=True)
            if not terminal and (time.monotonic() - told > PLAIN_SECONDS or step in (0, self.steps)):
                told = time.monotonic()
                print(f"step {step}/{self.steps}  {words}", file=sys.stderr, flush=True)
        bar.close()

    def _left(self, rows: Sequence[Row]) -> str:
        seconds = seconds_left(rows, self.steps, self.cadence)
        return f"  {time_left(seconds)}" if seconds else ""


def seconds_left(rows: Sequence[Row], steps: int, cadence: int = 1) -> float | None:
    """How long it still takes by the last lines of metrics, oldest first; None where they do not say.

    The steps that are left at the median step of these lines, so that neither a first step that is slow nor a
    long validation counts for all; and what lies between steps (validation, checkpoints) as it was met in the
    lines, or once in `cadence` steps where they do not reach as far. Lines of other numbers of workers, and
    the time between two attempts, say nothing of what comes.
    """
    alike = [row for row in rows if row.get("workers", 0) == (rows[-1].get("workers", 0) if rows else 0)]
    times = [row["step_seconds"] for row in alike if "step_seconds" in row]
    if not times:
        return None
    apart, span = 0.0, 0
    for before, row in pairwise(alike):
        if row.get("attempt") == before.get("attempt") and row["step"] > before["step"]:
            useful = row.get("useful_seconds", 0.0) - before.get("useful_seconds", 0.0)
            if "useful_seconds" in row and "useful_seconds" in before:
                apart += max(0.0, row["time"] - before["time"] - useful)
                span += row["step"] - before["step"]
    each = median(times) + (apart / max(span, cadence) if span else 0.0)
    return float(each * (steps - rows[-1]["step"]))


def say(text: str) -> None:
    """A line above the live one."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


def time_left(seconds: float) -> str:
    """About how long it still takes: seconds below two minutes, where a tenth of a minute says nothing."""
    if seconds < 120:
        return f"about {max(1, round(seconds))} s left"
    if seconds < 7200:
        return f"about {seconds / 60:.0f} min left"
    return f"about {seconds / 3600:.1f} h left"


def in_words(row: Row) -> str:
    """A line of metrics for a person."""
    parts = []
    if row.get("skipped"):
        parts.append(f"skipped ({row['skipped']})")
    if row.get("loss") is not None:
        parts.append(f"loss {row['loss']:.4f}")
    if row.get("val_loss") is not None:
        parts.append(f"val {row['val_loss']:.4f}")
    elif row["step"] == 0:
        parts.append("no validation documents")
    if "tokens_per_second" in row:
        parts.append(f"{row['tokens_per_second']:,.0f} tokens/s")
    if row.get("mfu") is not None:
        parts.append(f"mfu {row['mfu']:.1%}")
    return "  ".join(parts)
