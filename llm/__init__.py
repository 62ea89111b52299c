"""ARROW SHARDS -> WEIGHTS -> ANSWERS.

model/ (ids to logits), data/ (shards to batches), train/ (batches to weights); the entry files stand on top.
`llm.load(RUN)`, `llm.build(settings)` and `llm.read_metrics(RUN)` are the commands' equals in Python.
"""

from __future__ import annotations

from typing import Any

_DOORS = {"load": "llm.loading", "build": "llm.loading", "read_metrics": "llm.train.run_folder"}


def __getattr__(name: str) -> Any:
    """Import late: settings and reports need no torch."""
    if name in _DOORS:
        import importlib

        return getattr(importlib.import_module(_DOORS[name]), name)
    raise AttributeError(f"module 'llm' has no attribute '{name}'")
