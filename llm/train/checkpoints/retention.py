"""Which checkpoints of a run are kept: a rule over steps and validation losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Keep:
    """The newest, every nth and the best; a checkpoint that one of the three names is kept."""

    newest: int
    every: int | None = None
    """Those at multiples of this step, for good."""
    best: int = 0
    """So many with the lowest validation loss, of those that were validated at their own step."""

    def superfluous(
        self, steps: Sequence[int], val_losses: Sequence[float | None], waiting: Iterable[int] = ()
    ) -> list[int]:
        """Positions of the checkpoints to remove, of one committed just now and, newest first, the others.

        The first of the others may be of a later step: it was damaged, and passed over. `waiting`: positions
        of those that are still to be validated, which stay for now.
        """
        kept = {*range(self.newest), *waiting}
        if self.every is not None:
            kept |= {i for i, step in enumerate(steps) if step % self.every == 0}
        validated = [(loss, -steps[i], i) for i, loss in enumerate(val_losses) if loss is not None]
        kept |= {i for *_, i in sorted(validated)[: self.best]}
        return [i for i in range(len(steps)) if i not in kept]


@dataclass(frozen=True)
class Beside:
    """What validations beside the training say of checkpoints, at one moment."""

    losses: Mapping[str, float] = field(default_factory=dict)
    """Of a folder's name, where it came after the commit."""
    needs: Callable[[str, int], bool] = lambda name, step: False
    """Whether the checkpoint of this name and step is still to be validated."""
