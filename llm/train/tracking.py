"""Where numbers go: metrics.jsonl, and beside it Weights & Biases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from cluster import places
from llm.train.guard import finite
from llm.train.run_folder import read_lines


class Sink(Protocol):
    """Something that takes logged numbers; it must never hurt the training."""

    def log(self, values: dict[str, Any]) -> None: ...

    def go_back(self, step: int) -> None:
        """The steps after this one will come again."""
        ...

    def finish(self, exit_code: int) -> None: ...


class MetricsFile:
    """Appends one JSON object a line, each flushed, so that a kill costs at most the line being written."""

    def __init__(
        self, path: Path, resumed_step: int, check_writer: Callable[[], None] = lambda: None
    ) -> None:
        """`check_writer` raises Superseded where another start of the command writes this run by now."""
        self.path, self.check_writer = path, check_writer
        self.kept = truncate_after(path, resumed_step)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by finish)

    def log(self, values: dict[str, Any]) -> None:
        self.check_writer()
        self._file.write(json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()

    def go_back(self, step: int) -> None:
        self.check_writer()
        self._file.close()
        truncate_after(self.path, step)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (closed by finish)

    def finish(self, exit_code: int) -> None:
        self._file.close()


class Tracker:
    """Sends each logged step to all sinks; what is not finite goes as null, since JSON knows no NaN."""

    def __init__(self, sinks: list[Sink]) -> None:
        self.sinks = sinks

    def log(self, values: dict[str, Any]) -> None:
        for sink in self.sinks:
            sink.log(finite(values))

    def go_back(self, step: int) -> None:
        for sink in self.sinks:
            sink.go_back(step)

    def finish(self, exit_code: int) -> None:
        for sink in self.sinks:
            sink.finish(exit_code)


def truncate_after(path: Path, step: int) -> list[dict[str, Any]]:
    """Drop lines after the step that a run resumes from: they will come again. Returns what is kept."""
    kept = [line for line in read_lines(path) if line["step"] <= step]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept)
    places.write_bytes(path, text.encode())
    return kept
