"""Records that give no example: counted by part and reason, and refused where they are too many."""

from __future__ import annotations

from collections import Counter, defaultdict

from cluster.errors import UserError
from llm.tasks.task_data import Bad

_SHOWN = 3  # places of each reason


class BadRecords:
    """What was left out. `allowed`: the share of all records that may be."""

    def __init__(self, allowed: float) -> None:
        self.allowed = allowed
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)
        self._shown: dict[str, list[Bad]] = defaultdict(list)

    def add(self, part: str, bad: Bad) -> None:
        """One more."""
        self._counts[part][bad.reason] += 1
        if len(self._shown[bad.reason]) < _SHOWN:
            self._shown[bad.reason].append(bad)

    def of(self, part: str) -> dict[str, int]:
        """Reason to count in a part."""
        return dict(sorted(self._counts[part].items()))

    @property
    def total(self) -> int:
        """In all parts."""
        return sum(sum(counts.values()) for counts in self._counts.values())

    def check(self, records: int) -> None:
        """UserError where more than the allowed share of so many records is left out."""
        if not self.total or self.total <= self.allowed * records:
            return
        reasons: Counter[str] = Counter()
        for counts in self._counts.values():
            reasons += counts
        lines = [
            f"finetune.data: {self.total:,} of {records:,} records give no example, and max_bad_fraction "
            f"({self.allowed:g}) allows {int(self.allowed * records):,}: mend them, or raise it"
        ]
        for reason, count in reasons.most_common():
            shown = self._shown[reason]
            lines += [f"{bad.place}: {bad.detail} ({reason})" for bad in shown]
            if count > len(shown):
                lines.append(f"... and {count - len(shown):,} more ({reason})")
        raise UserError("\n  ".join(lines))
