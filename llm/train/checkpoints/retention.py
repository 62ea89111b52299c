"""Which checkpoints of a run are kept: a rule over steps and validation losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Keep:
    """The newest, every nth and the best; a checkpoint that one of the three names is kept."""

    newest: int
    every: int | None = None
    """Those at multiples of this step, for good."""
    best: int = 0
    """So many with the lowest validation loss, of those that were validated at their own step."""

    def superfluous(self, steps: Sequence[int], val_losses: Sequence[float | None]) -> list[int]:
        """Positions of the checkpoints to remove, of one committed just now and, newest first, the others.

        The first of the others may be of a later step: it was damaged, and passed over.
        """
        kept = set(range(self.newest))
        if self.every is not None:
            kept |= {i for i, step in enumerate(steps) if step % self.every == 0}
        validated = [(loss, -steps[i], i) for i, loss in enumerate(val_losses) if loss is not None]
        kept |= {i for *_, i in sorted(validated)[: self.best]}
        return [i for i in range(len(steps)) if i not in kept]
