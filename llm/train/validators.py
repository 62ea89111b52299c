"""Validation beside a training, in its driver: hands checkpoints to another Ray worker, one after the other.

The training comes first. An evaluator that dies, fails or finds no room is told of and tried again, and costs
no step; where the workers' reservation finds no place, it is ended at once.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util import placement_group_table

from cluster import places
from cluster.cache import Cache
from cluster.errors import RunError
from cluster.fault_points import fault_point
from cluster.lease import Pass, Superseded
from cluster.places import Place
from data_jobs import open_corpus
from llm.settings import PretrainSettings
from llm.train.accounts import open_wandb
from llm.train.beside import keep_of, read_beside
from llm.train.checkpoints.save import best_of, committed_folders, step_of, sweep, val_loss_of
from llm.train.evaluator import Evaluator
from llm.train.job import Job
from llm.train.progress import say
from llm.train.run_folder import RunFolder, read_lines
from llm.train.validate import split_size
from llm.train.validations import (
    CHECKPOINT,
    LOSS,
    SENT_AGAIN,
    Needs,
    Row,
    late_losses,
    most_samples,
    numbers_of,
    passed_over,
)

POLL_SECONDS, REMOTE_POLL_SECONDS = 1.0, 5.0  # between two looks for new checkpoints
PLACE_SECONDS = 1.0  # that the workers' reservation may wait beside an evaluator
PATIENCE_SECONDS = 20.0  # without room for an evaluator, before it is told
RETRY_SECONDS = 5.0
TRIES = 3


@dataclass(frozen=True)
class _Process:
    """An evaluator, and what it has of the cluster, or wants."""

    resources: dict[str, float]
    actor: Any
    placed: Any
    """Resolves when Ray has found room for it."""
    since: float

    def is_found(self) -> bool:
        return _is_done(self.placed)


@dataclass(frozen=True)
class _Work:
    """A checkpoint under validation."""

    folder: Place
    step: int
    most: int | None
    result: Any


class Validators:
    """As a context manager: validates in a thread what becomes due while the training is on.

    `finish` does what is left, and writes the summary. Ray must be initialised.
    """

    def __init__(self, job: Job, settings: PretrainSettings, gpu: bool) -> None:
        """`gpu`: the training has some."""
        self.job, self.settings, self.gpu = job, settings, gpu
        self.run = RunFolder(places.at(job.run))
        self.share = {"CPU": float(settings.validation.cpus)}
        """What the training's growth leaves free."""
        corpus = open_corpus(job.data, "read", Cache(*job.cache))
        self._has_rows = split_size(corpus, "val")[0] > 0
        self._seconds = REMOTE_POLL_SECONDS if places.is_remote(self.run.path) else POLL_SECONDS
        self._at_start = {folder.name for folder in committed_folders(self.run.checkpoints)}
        self._rows = self._unfinished_again(list(read_lines(self.run.validation)))
        self._process: _Process | None = None
        self._work: _Work | None = None
        self._own: dict[str, bool] = {}
        self._tries: dict[str, int] = {}
        self._not_before = 0.0
        self._pending_since: float | None = None
        self._told_of_lack = False
        self._end_of_watch = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="validators", daemon=True)

    def __enter__(self) -> Validators:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()
        self._end_evaluator()

    def held(self) -> dict[str, float]:
        """What an evaluator has of the cluster at this moment."""
        there = self._process
        return dict(there.resources) if there is not None and there.is_found() else {}

    def finish(self, stop_wanted: Callable[[], bool]) -> None:
        """After the last step: validate what is left, the last checkpoint first, then write the summary.

        Ends early where a stop is wanted; the same command makes up what is missing. RunError where the last
        checkpoint could not be validated.
        """
        self._leave()
        sent = max(0, len(self._rows) - SENT_AGAIN)
        left = [*([self._work.folder] if self._work else []), *self._waiting()]
        if left:
            steps = ", ".join(str(step) for step in sorted({step_of(folder) for folder in left}))
            say(f"trained; the validation of step {steps} is still to come")
        while self._step():
            if stop_wanted():
                return
            time.sleep(self._seconds)
        last = committed_folders(self.run.checkpoints)[0]
        row = self._row_of(last.name)
        if row is not None and LOSS not in row:
            raise RunError(
                f"the model is trained ({last}), and its last validation failed: {row.get('failed')}. The "
                "same command tries it again; with --pretrain.validation.where trainer the workers do it"
            )
        Pass(**self.job.lease).check()
        sweep(last, keep_of(self.settings), read_beside(self.run, self.settings))
        summary = json.loads(self.run.trained.read_bytes()) | numbers_of(row or {})
        summary["best_checkpoint"] = best_of(self.run.checkpoints, late_losses(self._rows))
        self._send(summary["state"]["wandb_id"], [row for row in self._rows[sent:] if LOSS in row])
        places.write_json(self.run.summary, summary)
        self.run.trained.unlink(missing_ok=True)

    def _send(self, run_id: str, rows: Sequence[Row]) -> None:
        """To W&B, what was found when its run was over in the workers."""
        if rows and self.settings.wandb.mode != "disabled":
            config = {"model": self.job.model, self.job.section: self.job.settings}
            wandb = open_wandb(self.run.path, self.job.scratch, run_id, self.settings, config)
            for row in rows:
                wandb.log({"step": row["step"], **numbers_of(row)})
            wandb.finish(0)

    def _watch(self) -> None:
        while not self._end_of_watch.wait(self._seconds):
            try:
                self._step()
            except Superseded:
                return  # who trains finds it out, too
            except Exception as error:  # neither Ray's answers nor a full disk are worth a training
                print(f"warning: validation: {error}", file=sys.stderr, flush=True)
                self._end_of_watch.wait(RETRY_SECONDS)

    def _leave(self) -> None:
        """The thread ends; whoever called goes on alone."""
        self._end_of_watch.set()
        if self._thread.is_alive():
            self._thread.join()

    def _step(self) -> bool:
        """One look at everything; False where there was nothing to do."""
        if self._work is not None:
            self._look(self._work)
        waiting = self._waiting()
        self._pass_over(waiting)
        busy = self._work is not None or bool(waiting)
        if busy and self._group_lacks_room():
            self._end_evaluator()
        elif self._work is None and waiting and time.monotonic() >= self._not_before:
            self._start(waiting[0])
        elif self._work is None:
            self._end_evaluator()  # its room is wanted by others
        return busy

    def _waiting(self) -> list[Place]:
        """Committed checkpoints that need a validation, newest first, without the one that has it now."""
        if not self._has_rows:
            return []
        needs, now = Needs(self.settings, self._rows), self._work.folder if self._work else None
        return [
            folder
            for folder in committed_folders(self.run.checkpoints)
            if folder != now and needs(folder.name, step_of(folder)) and not self._was_validated(folder)
        ]

    def _was_validated(self, folder: Place) -> bool:
        """Whether the workers had validated it themselves, at a start before."""
        if folder.name not in self._own:
            self._own[folder.name] = val_loss_of(folder) is not None
        return self._own[folder.name] and step_of(folder) != self.settings.steps

    def _start(self, folder: Place) -> None:
        there = self._process = self._process or self._new_evaluator()
        step, most = step_of(folder), most_samples(step_of(folder), self.settings)
        self._work = _Work(folder, step, most, there.actor.validate.remote(str(folder), step, most))

    def _new_evaluator(self) -> _Process:
        cpus = self.settings.validation.cpus
        gpus = 1 if self.gpu and ray.available_resources().get("GPU", 0) >= 1 else 0
        made = ray.remote(Evaluator).options(num_cpus=cpus, num_gpus=gpus, max_restarts=0)
        actor = made.remote(vars(self.job), cpus, "cuda" if gpus else "cpu")
        resources = self.share | ({"GPU": 1.0} if gpus else {})
        return _Process(resources, actor, actor.is_there.remote(), time.monotonic())

    def _look(self, work: _Work) -> None:
        """What has become of a validation."""
        there = self._process
        assert there is not None
        if not _is_done(work.result):
            if not there.is_found() and time.monotonic() - there.since > PATIENCE_SECONDS:
                self._tell_of_lack(work, there)
            return
        self._told_of_lack = False
        try:
            found = ray.get(work.result)
        except Exception as error:  # the process died, or what it raised
            self._failed(work, error)
            self._end_evaluator()
        else:
            fault_point("validation.found", step=work.step)
            self._record(work, found)
            say(f"validation of step {work.step}: {_in_words(found)}")
            self._work = None

    def _failed(self, work: _Work, error: Exception) -> None:
        if work.folder not in committed_folders(self.run.checkpoints):
            return  # a rewind or a sweep took it away
        tries = self._tries[work.folder.name] = self._tries.get(work.folder.name, 0) + 1
        why = _why(error)
        self._not_before = time.monotonic() + RETRY_SECONDS
        again = "it is tried again" if tries < TRIES else "it is left out"
        print(
            f"warning: the validation of step {work.step} failed, {again}: {why}", file=sys.stderr, flush=True
        )
        if tries >= TRIES:
            self._record(work, {"failed": why})

    def _pass_over(self, waiting: Sequence[Place]) -> None:
        """Let go of what only waits, and would be swept otherwise. What a start before left is made up."""
        if len(waiting) < 2:
            return
        there = committed_folders(self.run.checkpoints)
        gone = keep_of(self.settings).superfluous([step_of(f) for f in there], [None] * len(there))
        stay = self._at_start | {folder.name for i, folder in enumerate(there) if i not in gone}
        names = passed_over([folder.name for folder in waiting], stay)
        folders = [folder for folder in waiting if folder.name in names]
        for folder in folders:
            self._write({"step": step_of(folder), CHECKPOINT: folder.name, "passed_over": True})
        if folders:
            steps = ", ".join(str(step_of(folder)) for folder in reversed(folders))
            print(
                f"warning: no validation of step {steps}: they take longer than checkpoints come, and the "
                "newest goes first. Raise pretrain.validation.every or validation.cpus, or lower max_samples",
                file=sys.stderr, flush=True,
            )  # fmt: skip

    def _record(self, work: _Work, found: dict[str, Any]) -> None:
        row = {"step": work.step, CHECKPOINT: work.folder.name, "max_samples": work.most, "time": time.time()}
        self._write(row | found)

    def _write(self, row: dict[str, Any]) -> None:
        """Add a line. The file is small, and is written whole: where it lies nothing may be appended to."""
        Pass(**self.job.lease).check()
        rows = [*self._rows, row]
        places.write_bytes(self.run.validation, b"".join(places.to_json(row) for row in rows))
        self._rows = rows

    def _row_of(self, name: str) -> Row | None:
        return next((row for row in reversed(self._rows) if row[CHECKPOINT] == name), None)

    def _unfinished_again(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Without the lines of checkpoints that were given up at an earlier start, and are still there."""
        return [row for row in rows if LOSS in row or row[CHECKPOINT] not in self._at_start]

    def _group_lacks_room(self) -> bool:
        """Whether this job has a reservation that has found no place for a while: the workers'."""
        job = ray.get_runtime_context().get_job_id()
        pending = any(
            number.endswith(job) and group["state"] in ("PENDING", "RESCHEDULING")
            for number, group in placement_group_table().items()
        )
        self._pending_since = (self._pending_since or time.monotonic()) if pending else None
        return pending and time.monotonic() - (self._pending_since or 0.0) > PLACE_SECONDS

    def _tell_of_lack(self, work: _Work, there: _Process) -> None:
        if not self._told_of_lack:
            self._told_of_lack = True
            wanted = ", ".join(f"{amount:g} {name}" for name, amount in there.resources.items())
            print(
                f"waiting: the validation of step {work.step} needs {wanted}, and none is free beside the "
                "workers that train. Training goes on; lower pretrain.workers or pretrain.cpus_per_worker to "
                "make room",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        if "GPU" in there.resources:  # the one that was free is another's: then without
            self._end_evaluator()

    def _end_evaluator(self) -> None:
        """Wherever it is; what it was at waits again, if it has no line."""
        there, self._process, self._work = self._process, None, None
        if there is not None:
            ray.kill(there.actor)


def _is_done(reference: Any) -> bool:
    return bool(ray.wait([reference], timeout=0)[0])


def _why(error: Exception) -> str:
    """In a line; of what the evaluator raised its own words."""
    if "OutOfMemory" in repr(error):
        return "out of memory: it needs room for the weights twice, in fp32"
    if isinstance(error, ray.exceptions.RayActorError):
        return "its process died"
    cause = getattr(error, "cause", None) or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[-1]


def _in_words(found: Row) -> str:
    loss = found.get(LOSS)
    return "not finite" if loss is None else f"loss {loss:.4f}"
