"""The job of a run's workers, and what their surroundings do for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm.run_settings import RunSettings
from llm.settings import RUNS


@dataclass(frozen=True)
class Job:
    """What a run's workers are told; plain values, so that it travels as JSON. Paths are absolute."""

    section: str
    """Of the recipe: `pretrain` or `finetune`."""
    settings: dict[str, Any]
    """That section."""
    model: dict[str, Any]
    data: str
    """Folder of the corpus, or of the examples of a task."""
    vocab_size: int
    start: dict[str, str] | None
    """The model whose weights are the first, and their digest."""
    run: str
    run_id: str
    launch: str
    """Of this start of the command: tells its failures from those of earlier starts."""
    lease: dict[str, Any]
    """What asks whether this start still writes the run (cluster.lease.Pass)."""
    cache: tuple[str, int | None] = ("", None)
    """Folder on each machine for what is read from an object store, and most bytes in it."""
    began: float = field(default_factory=time.time)
    """When this start of the command did, in Unix seconds."""

    def parsed(self) -> RunSettings:
        """The section's settings."""
        return RUNS[self.section].model_validate(self.settings)

    @property
    def scratch(self) -> Path:
        """Where the W&B folder of a run in an object store is, and Ray's: on each machine, not shared."""
        return Path(self.cache[0]) / "runs" / self.run_id


@dataclass(frozen=True)
class Worker:
    """What a worker's surroundings do for it; nothing, in a process of its own."""

    report: Callable[[str, dict[str, Any]], None] = lambda folder, metrics: None
    """Called by all when a checkpoint is there: its folder, and what it is of."""
    noticed: Callable[[], bool] = lambda: False
    """Whether this worker was told, since it was last asked, that its machine goes."""
    beat: Callable[[], None] = lambda: None
    """Called when something was finished. Too long after it, and the process is ended."""
