"""A benchmark's rows: what a row says, the file it is kept in, the table on the screen."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.places import write_bytes

_NUMBER = r"\d+(?:\.\d+)?(?:e-?\d+)?"
_GOAL = re.compile(rf"(?:({_NUMBER}) <= (?=.*<=))?(ratio|ours) (>=|<=) ({_NUMBER})")
_SIGNS = {">=": operator.ge, "<=": operator.le}


@dataclass(frozen=True)
class Row:
    """One measured number, beside a peer's where there is one.

    `goal`: `ratio >= 0.95`, `ours <= 4`, or from both sides `0.995 <= ratio <= 1.005`.
    """

    what: str
    unit: str
    ours: float
    peer: float | None = None
    peer_name: str | None = None
    goal: str | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        if self.goal is not None and not _GOAL.fullmatch(self.goal):
            raise ValueError(
                f"goal {self.goal!r}: say it as 'ratio >= 0.95', 'ours <= 4' or '0.995 <= ratio <= 1.005'"
            )

    @property
    def ratio(self) -> float | None:
        """Ours over the peer's."""
        return None if self.peer is None else self.ours / self.peer

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        if self.goal is None:
            return None
        match = _GOAL.fullmatch(self.goal)
        assert match is not None
        least, of, sign, bound = match.groups()
        value = self.ratio if of == "ratio" else self.ours
        if value is None or (least is not None and value < float(least)):
            return False
        return bool(_SIGNS[sign](value, float(bound)))

    def as_json(self) -> dict[str, Any]:
        """The row as results/NAME.json keeps it."""
        names = ("what", "unit", "ours", "peer", "peer_name", "ratio", "goal", "met")
        row = {name: getattr(self, name) for name in names}
        return row | ({"note": self.note} if self.note else {})


def write_result(
    path: Path, machine: dict[str, Any], versions: dict[str, Any], command: str, rows: Sequence[Row]
) -> None:
    """Write a benchmark's result, one that people read in a diff."""
    result = {
        "machine": machine,
        "versions": versions,
        "command": command,
        "rows": [row.as_json() for row in rows],
    }
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode())


def table(rows: Sequence[Row]) -> str:
    """The rows for the screen, in columns."""
    head = ("what", "unit", "ours", "peer", "ratio", "goal", "met")
    met = {True: "yes", False: "NO", None: ""}
    lines = [head] + [
        (
            row.what,
            row.unit,
            _short(row.ours),
            _short(row.peer),
            _short(row.ratio),
            row.goal or "",
            met[row.met],
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    lines.insert(1, tuple("-" * width for width in widths))  # type: ignore[arg-type]
    text = []
    for line in lines:
        cells = [c.rjust(w) if 2 <= i <= 4 else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths))]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"
