"""The live line of a training, read from the run's metrics: the driver needs no word from the workers."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from tqdm import tqdm

from cluster import places
from cluster.places import Place
from llm.train.run_folder import last_line

PLAIN_SECONDS = 15.0  # between lines where the output is no terminal
REMOTE_SECONDS = 3.0  # between two looks at a file in an object store


class Progress:
    """Shows step, loss, tokens/s and time left in a background thread, as a context manager."""

    def __init__(self, metrics: Place, steps: int) -> None:
        self.metrics, self.steps = metrics, steps
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
        bar = tqdm(total=self.steps, unit="step", disable=not terminal, dynamic_ncols=True)
        shown, told = -1, time.monotonic()
        while not self._end.wait(self._interval):
            row = last_line(self.metrics)
            if row is None or row["step"] == shown:
                continue
            shown = row["step"]
            bar.n = shown
            bar.set_postfix_str(in_words(row), refresh=True)
            if not terminal and (time.monotonic() - told > PLAIN_SECONDS or shown in (0, self.steps)):
                told = time.monotonic()
                print(
                    f"step {shown}/{self.steps}  {in_words(row)}{self._left(row)}",
                    file=sys.stderr,
                    flush=True,
                )
        bar.close()

    def _left(self, row: dict[str, Any]) -> str:
        steps = self.steps - row["step"]
        return f"  {time_left(steps * row['step_seconds'])}" if steps and "step_seconds" in row else ""


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


def in_words(row: dict[str, Any]) -> str:
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
    return "  ".join(parts)
