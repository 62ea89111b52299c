"""Fine-tuning and sweeps: what adapters save, how fast evaluation is, what a sweep adds to its trainings."""

from __future__ import annotations

from benchmarks import sweep_overhead, task_rates
from benchmarks.ground import Ground
from benchmarks.rows import Row


def run(ground: Ground) -> list[Row]:
    """Rows of all parts."""
    return task_rates.rows(ground) + sweep_overhead.rows(ground)
