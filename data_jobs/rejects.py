"""A bounded sample of what was dropped, with reason and place.

By reason the `PER_REASON` smallest by a hash of the record: the same ones in whatever order work was done.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from data_jobs.hashes import h64

PER_REASON = 100
Entry = dict[str, Any]


class RejectSample:
    """Entries {reason, detail, source, file, start, line, offset, head}."""

    def __init__(self) -> None:
        self._by_reason: dict[tuple[str, str], list[tuple[int, Entry]]] = {}

    def add(self, entry: Entry) -> None:
        """Take an entry in if it belongs to the smallest."""
        rank = h64(entry["reason"], entry["head"], entry["offset"])
        held = self._by_reason.setdefault((entry["source"], entry["reason"]), [])
        held.append((rank, entry))
        if len(held) > 2 * PER_REASON:
            self._trim(held)

    def add_all(self, entries: Iterable[Entry]) -> None:
        """Take in the entries of another sample."""
        for entry in entries:
            self.add(entry)

    def entries(self) -> list[Entry]:
        """By source and reason, smallest hash first."""
        chosen = []
        for name in sorted(self._by_reason):
            self._trim(self._by_reason[name])
            chosen += [entry for _, entry in self._by_reason[name]]
        return chosen

    @staticmethod
    def _trim(held: list[tuple[int, Entry]]) -> None:
        held.sort(key=lambda item: (item[0], item[1]["file"], item[1]["offset"]))
        del held[PER_REASON:]
