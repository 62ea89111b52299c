"""Follows a run's metrics.jsonl while it grows, is cut back after a restart, or begins anew."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from cluster import places
from cluster.places import Place, PlaceError

KEPT = 64  # bytes at the end of what was read, to see that it is still the same file


class Tail:
    """Validations of a run, each step once, as they come.

    The file may be another at each look: a worker that restarts cuts it back by a new file, in an object
    store it is sent whole. So what was read last must still stand where it stood; else it is read anew.
    """

    def __init__(self, path: Place, after: int) -> None:
        """Of steps after this one."""
        self.path, self.after = path, after
        self._at, self._last = 0, b""

    def new(self) -> list[dict[str, Any]]:
        """Lines with numbers of a validation, and that of step 0, since the last call; in order of steps."""
        found = []
        for line in self._lines():
            row = json.loads(line)
            if row["step"] > self.after and (row["step"] == 0 or is_validation(row)):
                self.after = row["step"]
                found.append(row)
        return found

    def _lines(self) -> list[bytes]:
        data = b""
        with contextlib.suppress(FileNotFoundError, PlaceError):  # not yet, or away for now: the next look
            size = self.path.stat().st_size
            if size < self._at or self._read(self._at - len(self._last), self._at) != self._last:
                self._at, self._last = 0, b""
            if size > self._at:
                data = self._read(self._at, size)
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        self._last = (self._last + whole)[-KEPT:]
        return whole.splitlines()

    def _read(self, start: int, end: int) -> bytes:
        return places.read_range(self.path, start, end - start) if end > start else b""


def is_validation(row: dict[str, Any]) -> bool:
    """Whether a line has numbers of a validation."""
    return any(name.startswith("val_") or name == "bits_per_byte" for name in row)
