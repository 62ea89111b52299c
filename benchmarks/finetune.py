"""Fine-tuning and sweeps: what a sweep adds to its trainings."""

from __future__ import annotations

from benchmarks import sweep_overhead
from benchmarks.ground import Ground
from benchmarks.rows import Row


def run(ground: Ground) -> list[Row]:
    """Rows of all parts."""
    return sweep_overhead.rows(ground)
