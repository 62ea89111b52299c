"""Back to a checkpoint before a loss spike, and on without the batches around it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cluster.errors import RunError
from llm.data.batches import BatchPlan
from llm.data.ranges import Range, join
from llm.run_settings import RunSettings
from llm.train.checkpoints.layout import RunState
from llm.train.checkpoints.load import CheckpointReader, load_newest
from llm.train.checkpoints.save import CheckpointSaver, committed_folders, step_of
from llm.train.engine import Engine
from llm.train.group import Group


def plan_of(settings: RunSettings, left_out: Sequence[Range]) -> BatchPlan:
    """Which samples make each batch: without those that the settings and the run's rewinds leave out."""
    starts = [0, *(until for until, _ in settings.batch_ramp)]
    sizes = [*(size for _, size in settings.batch_ramp), settings.batch]
    schedule = list(zip(starts, sizes, strict=True))
    return BatchPlan(schedule, join([*settings.skip_samples, *left_out]))


def target_step(spike: int, rewind_steps: int, saved: Sequence[int]) -> int | None:
    """The step of the checkpoint to go back to, of the saved ones; None where there is none to go to.

    `spike`: steps taken before the one that spiked. The newest that lies before the batches to be left out;
    where all stand among them the oldest, and what lies before it stays in.
    """
    known = [step for step in saved if step <= spike]
    before = [step for step in known if step <= spike - rewind_steps]
    return max(before) if before else min(known, default=None)


@dataclass
class Rewinder:
    """Takes all workers back together (pretrain.guard.on_spike: rewind).

    Nothing of it needs to be saved at once: a run that is killed before its next checkpoint comes to the same
    spike and goes back again.
    """

    settings: RunSettings
    group: Group
    engine: Engine
    saver: CheckpointSaver
    check: Callable[[CheckpointReader], None]
    forget: Callable[[int], None]
    """Drops the lines of steps after this one; called on the first worker."""

    def __call__(self, state: RunState, plan: BatchPlan, told: str) -> RunState | None:
        """The state to go on from after a spike in the step after `state`, whose gradients are there.

        None: nothing was done, since no checkpoint was made yet. RunError after too many rewinds.
        """
        guard = self.settings.guard
        self.saver.wait()  # one may be on its way
        target = self._target(state.step)
        if target is None:
            return None
        range_ = self._range(state.step, target, plan)
        if state.guard.rewinds >= guard.max_rewinds:
            raise RunError(
                f"step {state.step + 1}: {told}, and the run was taken back {state.guard.rewinds} times "
                f"already ({self.settings.section}.guard.max_rewinds). Look at samples {range_[0]} to "
                f"{range_[1] - 1}; the last checkpoint is good. Raise max_rewinds to go on, or lower "
                f"{self.settings.section}.optimizer.lr"
            )
        self.engine.skip()
        loaded = load_newest(self.saver.folder, self.engine, self.group, self.check, target)
        assert loaded is not None
        left_out = join([*state.guard.left_out, range_])
        after = replace(loaded.guard, left_out=left_out, rewinds=state.guard.rewinds + 1)
        new_plan = plan_of(self.settings, left_out)
        self.saver.go_back(loaded.step, self.group.new_attempt(), new_plan.skips)
        if self.group.rank == 0:
            self.forget(loaded.step)
            print(
                f"step {state.step + 1}: {told}: back to step {loaded.step}; samples {range_[0]} to "
                f"{range_[1] - 1} are left out (rewind {after.rewinds} of at most {guard.max_rewinds})",
                file=sys.stderr,
                flush=True,
            )
        return replace(loaded, guard=after)

    def _target(self, spike: int) -> int | None:
        """The first worker decides: listings may differ between nodes."""
        found = None
        if self.group.rank == 0:
            saved = [step_of(folder) for folder in committed_folders(self.saver.folder)]
            found = target_step(spike, self.settings.guard.rewind_steps, saved)
        step = int(self.group.sum([0.0 if found is None else float(found + 1)])[0]) - 1
        return None if step < 0 else step

    def _range(self, spike: int, target: int, plan: BatchPlan) -> Range:
        """Samples of the batches to be left out, none of them before the checkpoint."""
        first = max(target, spike - self.settings.guard.rewind_steps)
        return int(plan.numbers(first)[0]), int(plan.numbers(spike)[-1]) + 1
