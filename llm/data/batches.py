"""Which sample numbers make the batch of a step, which worker takes which of them (C4)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt

from cluster.errors import UserError


@dataclass(frozen=True)
class BatchPlan:
    """Batch schedule, list of (from step, B), and skip list, sorted ranges [first, end) of sample numbers.

    The batch at a step is the next B numbers that no range holds; n moves past them. `groups` = G, groups
    of workers that share a cache (1: no affinity). Raises UserError with all that is wrong in them.
    """

    schedule: Sequence[tuple[int, int]]
    skips: Sequence[tuple[int, int]] = ()
    groups: int = 1

    def __post_init__(self) -> None:
        _check(self.schedule, self.skips, self.groups)

    def batch_size(self, step: int) -> int:
        """B at a step."""
        return self.schedule[self._piece(step)][1]

    def taken(self, step: int) -> int:
        """Samples taken before a step: those before its piece of the schedule, plus (step - from step)*B."""
        piece = self._piece(step)
        from_step, size = self.schedule[piece]
        return self._taken_before[piece] + (step - from_step) * size

    def next_number(self, step: int) -> int:
        """The n before a step, in closed form: 0, or 1 + the last number that was taken.

        It never stands past a skip that lies ahead, so that a range which is left out from here on (after a
        loss spike, say) keeps the n of the checkpoint that it starts from.
        """
        taken = self.taken(step)
        return 0 if taken == 0 else int(self._numbers(np.array([taken - 1]))[0]) + 1

    def numbers(self, step: int, steps: int = 1) -> npt.NDArray[np.int64]:
        """Sample numbers of the batch of a step, or of several steps one after the other."""
        return self._numbers(np.arange(self.taken(step), self.taken(step + steps), dtype=np.int64))

    def check_world(self, world: int) -> None:
        """UserError where a batch has fewer samples than there are workers."""
        for step, size in self.schedule:
            if size < world:
                raise UserError(
                    f"batch of {size} samples (from step {step}) for {world} workers: each worker needs at "
                    f"least one sample; raise the batch to {world} or more, or start at most {size} workers"
                )

    @cached_property
    def _taken_before(self) -> list[int]:
        """Samples taken before each piece of the schedule."""
        steps = [after[0] - piece[0] for piece, after in pairwise(self.schedule)]
        return [0, *accumulate(count * piece[1] for count, piece in zip(steps, self.schedule, strict=False))]

    @cached_property
    def _skipped(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """At which index (of numbers that no range holds) each range stands; 0 and sums of lengths."""
        ranges = np.array(self.skips, np.int64).reshape(-1, 2)
        lengths = np.concatenate([np.zeros(1, np.int64), np.cumsum(ranges[:, 1] - ranges[:, 0])])
        return ranges[:, 0] - lengths[:-1], lengths

    def _piece(self, step: int) -> int:
        assert step >= 0
        return bisect_right(self.schedule, step, key=lambda piece: piece[0]) - 1

    def _numbers(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The index-th number that no range holds: index + the lengths of the ranges that stand before it."""
        if not self.skips:
            return index
        stands_at, lengths = self._skipped
        return index + lengths[np.searchsorted(stands_at, index, side="right")]


def worker_slice(size: int, rank: int, world: int) -> slice:
    """Worker r of W takes items [r*B div W, (r+1)*B div W)."""
    return slice(rank * size // world, (rank + 1) * size // world)


def micro_steps(size: int, world: int, micro_batch: int) -> int:
    """ceil(ceil(B/W) / micro): the same on each worker, so that each joins every collective."""
    most = -(-size // world)
    return -(-most // micro_batch)


def padding(size: int, world: int, micro_batch: int) -> float:
    """Share of the rows computed that have weight 0: the price of a batch that does not divide."""
    return 1 - size / (world * micro_batch * micro_steps(size, world, micro_batch))


def affinity_order(
    positions: npt.NDArray[np.int64], numbers: npt.NDArray[np.int64], groups: int
) -> npt.NDArray[np.int64]:
    """How to sort a batch before it is cut: by (p mod G, n), so that a lane mostly stays with one group."""
    return np.lexsort((numbers, positions % groups))


def _check(schedule: Sequence[tuple[int, int]], skips: Sequence[tuple[int, int]], groups: int) -> None:
    problems = []
    if not schedule or schedule[0][0] != 0:
        problems.append(f"batch schedule must begin at step 0, got {list(schedule)}")
    for (step, _), (next_step, _) in pairwise(schedule):
        if next_step <= step:
            problems.append(f"batch schedule must rise in steps: {next_step} comes after {step}")
    for step, size in schedule:
        if size < 1:
            problems.append(f"batch of {size} samples from step {step}: at least 1")
    for first, end in skips:
        if not 0 <= first < end:
            problems.append(f"skip range [{first}, {end}) is empty or negative")
    for (_, end), (next_first, _) in pairwise(skips):
        if next_first < end:
            problems.append(f"skip ranges must be sorted and apart: one begins at {next_first} before {end}")
    if groups < 1:
        problems.append(f"groups of workers: at least 1, got {groups}")
    if problems:
        raise UserError("; ".join(problems))
