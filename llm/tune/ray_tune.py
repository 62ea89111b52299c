"""Ray Tune runs the trials: the one file that imports ray.tune.

A trial is an actor with a sliver of memory and no CPU; the workers that its run starts are what is placed.
Tune asks the searcher for the next trial, and the scheduler what becomes of each result. Both pass the
question on to the judge, in this process, one at a time.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from cluster import places
from cluster.errors import RunError, Stopped, UserError
from cluster.lease import Lease, Superseded
from cluster.places import PlaceError
from llm.sweep_settings import SweepSettings
from llm.train.launch import STOP, STOP_SECONDS
from llm.train.run_folder import RunFolder
from llm.tune.exploit import HandOver
from llm.tune.judge import STOP as ENDS
from llm.tune.judge import Exploit, Judge, NeverStops, StopRule
from llm.tune.rules import Mode, bracket_of
from llm.tune.trial import Told, TrialRun, Work

SLIVER = {"memory": 1 << 28}  # of a trial's own process: CPUs are its workers'
VALUE, STEP, TOLD = "value", "step", "told"
ENDLESS = 1 << 31  # steps that no trial has: Ray's schedulers ask for a last one, and nothing hangs on it
LOST_SECONDS = 10.0
# Read by Tune from the environment alone: no files beside its own state, no second hand on Ctrl-C, no
# tracebacks of what we say in a line.
ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the older output can be silent
}


class _TrialActor(tune.Trainable):
    """A trial's process. One that is through takes the next trial: it has loaded its libraries."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> Any:
        return tune.PlacementGroupFactory([dict(SLIVER)])

    def setup(self, config: dict[str, Any], work: Work) -> None:
        self._work = work
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        if not self._trial.end():
            os._exit(1)  # a run that does not end goes with its process, and its workers with it
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        found = self._trial.next()
        return {TOLD: json.dumps(found), "done": "end" in found}

    def cleanup(self) -> None:
        self._trial.end()

    def _begin(self, config: dict[str, Any]) -> None:
        with contextlib.suppress(KeyError, OSError):  # Tune moves elsewhere each time: our places stay
            os.chdir(os.environ["TUNE_ORIG_WORKING_DIR"])
        self._trial = TrialRun(self._work, Told.from_json(config[TOLD]))


class _Control:
    """What searcher and scheduler ask. Tune pickles those two, so they hold nothing and look here."""

    def __init__(self, judge: Judge, work: Work) -> None:
        self.judge, self.work = judge, work
        self.names: dict[str, str] = {}
        """Tune's id of a trial to ours."""
        self.failure: BaseException | None = None
        self.stopping = threading.Event()

    def stop(self) -> None:
        """Every trial makes a checkpoint and ends; no other begins."""
        self.stopping.set()
        with contextlib.suppress(PlaceError):
            places.write_bytes(self.work.folder.stop, STOP.encode())

    def fail(self, error: BaseException) -> None:
        """The sweep ends by this. Where another start writes it by now, its trials are that one's."""
        self.failure = self.failure or error
        if isinstance(error, Superseded):
            self.stopping.set()
            return
        self.stop()

    def config(self, name: str) -> dict[str, Any]:
        trial = self.judge.ledger.trials[name]
        return {TOLD: Told(name, trial.settings, trial.last_step, trial.exploits).to_json()}


_control: _Control


class _Searcher(Searcher):
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        try:
            trial = None if _control.stopping.is_set() else _control.judge.next_trial()
            if trial is None:
                return str(Searcher.FINISHED)
            _control.names[trial_id] = trial.name
            _control.judge.begins(trial.name)
            return _control.config(trial.name)
        except BaseException as error:
            _control.fail(error)
            return str(Searcher.FINISHED)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if error:
            with _kept():
                _control.judge.ends(
                    _control.names[trial_id], "failed", "its process was lost, time and again"
                )

    def save(self, checkpoint_path: str) -> None:
        """The ledger has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """The ledger has it all."""


class _Scheduler(FIFOScheduler):
    _supports_buffered_results = False  # a trial that is to stop must not be results ahead

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = TrialScheduler.CONTINUE
        with _kept():
            name, told = _control.names[trial.trial_id], json.loads(result[TOLD])
            found = _control.judge.result(name, told["line"], told["last"])
            if found == ENDS:
                decision = TrialScheduler.STOP
            elif isinstance(found, Exploit) and _hand_over(name, told["line"][STEP], found):
                # Its process takes this very trial up again, with the donor's checkpoint.
                tune_controller.pause_trial(trial, should_checkpoint=False)
                trial.set_config(_control.config(name))
                decision = TrialScheduler.NOOP
        return str(decision)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        with _kept():
            told = json.loads(result.get(TOLD, "{}"))
            if "end" in told:
                name = _control.names[trial.trial_id]
                if told["end"] == "user":
                    raise UserError(f"{name}: {told['why']}")
                _control.judge.ends(name, told["end"], told["why"])


def _hand_over(name: str, step: int, exploit: Exploit) -> bool:
    judge, folder = _control.judge, _control.work.folder
    hand_over = HandOver(RunFolder(folder.trial(name)), judge.ledger.trials[name].exploits + 1)
    from_step = hand_over.prepare(RunFolder(folder.trial(exploit.donor)))
    if from_step is None:
        return False
    judge.exploited(name, step, exploit, from_step)
    return True


@contextlib.contextmanager
def _kept() -> Iterator[None]:
    """An error of ours ends the sweep, and is raised where it was started; Tune would wrap it in text."""
    try:
        yield
    except BaseException as error:
        _control.fail(error)


@dataclass(frozen=True)
class _Name:
    """What Ray's schedulers know of a trial."""

    trial_id: str


class RayRule:
    """A scheduler of Ray Tune as a rule over results, fed in their order: so a restart comes to the same.

    Several brackets are as many schedulers, since Ray's own draws a bracket by chance.
    """

    def __init__(self, settings: SweepSettings, mode: Mode, grace: int) -> None:
        self.brackets = settings.brackets if settings.scheduler == "hyperband" else 1
        self.reduction = settings.reduction
        self._of: dict[str, Any] = {}
        if settings.scheduler == "median":
            # Never yield: a trial goes on or ends.
            self._schedulers = [
                MedianStoppingRule(STEP, VALUE, mode, grace_period=grace, min_time_slice=math.inf)
            ]
        else:
            self._schedulers = [
                AsyncHyperBandScheduler(
                    STEP,
                    VALUE,
                    mode,
                    max_t=ENDLESS,
                    grace_period=max(1, round(grace * self.reduction**s)),
                    reduction_factor=self.reduction,
                    stop_last_trials=False,
                )
                for s in range(self.brackets)
            ]

    def add(self, trial: str, number: int) -> None:
        bracket = bracket_of(number, self.brackets, self.reduction) if self.brackets > 1 else 0
        # In bracket_of those that stop first come first.
        self._of[trial] = self._schedulers[bracket]
        self._of[trial].on_trial_add(None, _Name(trial))

    def stops(self, trial: str, step: int, value: float) -> bool:
        found = self._of[trial].on_trial_result(None, _Name(trial), {STEP: step, VALUE: value})
        return bool(found == TrialScheduler.STOP)

    def ended(self, trial: str, step: int, value: float) -> None:
        self._of[trial].on_trial_complete(None, _Name(trial), {STEP: step, VALUE: value})


def stop_rule(settings: SweepSettings, mode: Mode, grace: int) -> StopRule:
    """What ends trials early."""
    return NeverStops() if settings.scheduler == "none" else RayRule(settings, mode, grace)


def run_trials(judge: Judge, work: Work, concurrent: int, scratch: Path, attempts: int, lease: Lease) -> None:
    """Run all trials that are left, so many at a time. Ray must be initialised.

    `attempts`: how often the process of a trial may be lost. Ctrl-C and SIGTERM are passed on when every
    trial under way has its checkpoint. What went wrong in the sweep itself is raised here; of a trial that
    failed the ledger knows.
    """
    global _control
    _control = _Control(judge, work)
    os.environ.update(ENVIRONMENT)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    work.folder.stop.unlink(missing_ok=True)
    places.delete_tree(scratch)  # of an earlier start: nothing of it is needed
    scratch.parent.mkdir(parents=True, exist_ok=True)
    tuner = tune.Tuner(
        tune.with_parameters(_TrialActor, work=work),
        tune_config=tune.TuneConfig(
            search_alg=_Searcher(),
            scheduler=_Scheduler(),
            num_samples=-1,  # the searcher knows the end
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=scratch.name,
            storage_path=str(scratch.parent),
            failure_config=tune.FailureConfig(max_failures=attempts),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # ours are the runs' own
            verbose=0,
        ),
    )
    _until_done(tuner, lease)


def _name(trial: Any) -> str:
    return Told.from_json(trial.config[TOLD]).trial


def _until_done(tuner: Any, lease: Lease) -> None:
    """Tune in a thread, so that this one can answer signals."""
    errors: list[BaseException] = []
    ended = threading.Event()

    def body() -> None:
        try:
            tuner.fit()
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    threading.Thread(target=body, name="tune", daemon=True).start()
    try:
        while not ended.wait(0.2):
            if lease.lost.is_set():
                _control.stopping.set()
                ended.wait(LOST_SECONDS)  # the trials' own leases are not ours to end
                lease.of_workers.check()
            if _control.failure is not None:
                if not isinstance(_control.failure, Superseded):
                    ended.wait(STOP_SECONDS)
                break
    except (KeyboardInterrupt, Stopped):
        print("stopping: each trial makes a checkpoint at its step ...", file=sys.stderr, flush=True)
        _control.stop()
        if not ended.wait(STOP_SECONDS):
            print(
                f"not all trials ended within {STOP_SECONDS:.0f} s: they go on from the checkpoint before",
                file=sys.stderr,
            )
        raise
    if _control.failure is not None:
        raise _control.failure
    if errors:
        cause = errors[0].__cause__ or errors[0]  # Tune wraps it in words on how to restore by itself
        raise RunError(f"Ray Tune failed: {str(cause).strip().splitlines()[-1]}") from errors[0]
