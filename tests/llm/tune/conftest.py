"""What the tests of sweeps share with those of the trainer."""

from __future__ import annotations

from tests.llm.train.conftest import corpus, one_thread

__all__ = ["corpus", "one_thread"]
