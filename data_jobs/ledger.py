"""The ledger: of each stage, what went in, what came out, what was dropped for which reason.

Two equations hold for every count, exactly (`check`):

    documents in + added = out + sum(dropped)
    bytes     in + added = out + sum(dropped) + removed

Documents are added where a long one is cut, bytes where normalisation makes a text longer; bytes are removed
inside documents that stay (JSON around the text, control characters).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Count:
    """One stage of one source."""

    documents_in: int = 0
    documents_added: int = 0
    documents_out: int = 0
    documents_dropped: dict[str, int] = field(default_factory=dict)
    bytes_in: int = 0
    bytes_added: int = 0
    bytes_out: int = 0
    bytes_removed: int = 0
    bytes_dropped: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str, size: int) -> None:
        """Count one document that ends here."""
        self.documents_dropped[reason] = self.documents_dropped.get(reason, 0) + 1
        self.bytes_dropped[reason] = self.bytes_dropped.get(reason, 0) + size

    def change(self, before: int, after: int) -> None:
        """Count the bytes that one document gained or lost and goes on with."""
        self.bytes_added += max(0, after - before)
        self.bytes_removed += max(0, before - after)

    def plus(self, other: Count) -> Count:
        """The sum of two counts."""
        total = Count(**{**vars(self), "documents_dropped": {}, "bytes_dropped": {}})
        for name, value in vars(other).items():
            if isinstance(value, int):
                setattr(total, name, getattr(total, name) + value)
        for kind in ("documents_dropped", "bytes_dropped"):
            for part in (self, other):
                into = getattr(total, kind)
                for reason, number in getattr(part, kind).items():
                    into[reason] = into.get(reason, 0) + number
        return total

    def check(self, where: str) -> None:
        """Both equations; a difference is a mistake of ours."""
        assert self.documents_in + self.documents_added == self.documents_out + sum(
            self.documents_dropped.values()
        ), f"documents of {where} do not add up: {self}"
        assert (
            self.bytes_in + self.bytes_added
            == self.bytes_out + sum(self.bytes_dropped.values()) + self.bytes_removed
        ), f"bytes of {where} do not add up: {self}"

    def to_json(self) -> dict[str, Any]:
        """As the manifest holds it: {documents: {in, added, out, dropped}, bytes: {..., removed}}."""
        parts: dict[str, Any] = {"documents": {}, "bytes": {}}
        for name, value in vars(self).items():
            unit, kind = name.split("_")
            parts[unit][kind] = dict(sorted(value.items())) if isinstance(value, dict) else value
        return parts

    @classmethod
    def from_json(cls, parts: dict[str, Any]) -> Count:
        """The inverse of `to_json`."""
        return cls(**{f"{unit}_{kind}": value for unit in parts for kind, value in parts[unit].items()})


def total(counts: Iterable[Count]) -> Count:
    """The sum of many counts."""
    result = Count()
    for count in counts:
        result = result.plus(count)
    return result


def chain(stages: Iterable[Count]) -> Count:
    """Stages that follow each other as one: the first `in`, the last `out`, all between summed."""
    stages = list(stages)
    whole = total(stages)
    for unit in ("documents", "bytes"):
        for before, after in itertools.pairwise(stages):
            out, into = getattr(before, f"{unit}_out"), getattr(after, f"{unit}_in")
            assert out == into, f"{unit}: one stage gives {out}, the next one takes {into}"
        setattr(whole, f"{unit}_in", getattr(stages[0], f"{unit}_in"))
        setattr(whole, f"{unit}_out", getattr(stages[-1], f"{unit}_out"))
    return whole
