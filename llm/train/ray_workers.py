"""Ray Train starts the workers: the one file that imports ray.train."""

from __future__ import annotations

import faulthandler
import inspect
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.context import TrainContext, get_train_context
from ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client import (
    TrainAutoscalingCoordinatorClient,
)

from cluster import places
from cluster.errors import RunError, UserError
from cluster.places import ObjectPath, Place
from cluster.ray_runtime import is_own_ray
from llm.run_settings import RunSettings
from llm.settings import PretrainSettings
from llm.train.checkpoints.save import committed_folders, step_of
from llm.train.group import Group
from llm.train.job import Job, Worker
from llm.train.out_of_memory import advice
from llm.train.run_folder import RunFolder, is_finished, last_line
from llm.train.validators import Validators
from llm.train.worker import check_device, work

WATCH_SECONDS = 5.0
ROOM_SECONDS = 25.0  # that room must last before it is used: Ray counts its nodes anew every 20 s
TRIES = 3  # to grow, for one set of nodes
PEER_IS_GONE = ("Connection closed by peer", "Connection reset by peer", "remote process exited")
GROW = "grow"  # in the run's stop file


def train_on_ray(job: Job, cpus_per_worker: int) -> None:
    """Run the job on its workers; a lost one restarts the group from the newest checkpoint.

    An elastic group goes on with fewer workers, and is asked for a checkpoint and started anew when there is
    room for more. Ray must be initialised. RunError after `max_failures` + 1 failures without a new
    checkpoint: what counts is progress, and a run on machines that come and go is restarted dozens of times.
    With `validation.where` workers it also waits for the validation of the last checkpoint.
    """
    settings = job.parsed()
    run, gpu = RunFolder(places.at(job.run)), _use_gpu(settings)
    bundle = {"CPU": float(cpus_per_worker)} | ({"GPU": 1.0} if gpu else {})
    start_coordinator()
    if settings.validation.where == "trainer":
        with _Watch(run, settings, bundle):
            _fit_to_the_end(job, run, settings, bundle)
        return
    assert isinstance(settings, PretrainSettings)
    with Validators(job, settings, gpu) as validators:
        with _Watch(run, settings, bundle, validators):
            _fit_to_the_end(job, run, settings, bundle)
        if _is_trained(run, settings):
            validators.finish(lambda: _asked(run) not in ("", GROW))


def start_coordinator() -> None:
    """Of a Ray that was started here: an actor that a controller would start, and wait for, after itself."""
    if is_own_ray():
        _ = TrainAutoscalingCoordinatorClient("manta")._autoscaling_coordinator


def _fit_to_the_end(job: Job, run: RunFolder, settings: RunSettings, bundle: dict[str, float]) -> None:
    """Ray Train again and again, until the last step or a stop."""
    while True:
        before = {folder.name for folder in committed_folders(run.checkpoints)}
        try:
            _fit(job, run, settings, bundle)
        except ray.train.TrainingFailedError as error:
            saved = committed_folders(run.checkpoints)
            if before.issuperset(folder.name for folder in saved):
                gpu, workers = "GPU" in bundle, _workers_now(run, settings)
                words = advice(job, workers, gpu)
                raise _failed(error, settings, saved, words) from error
            continue
        if _asked(run) != GROW or _is_trained(run, settings):
            return
        run.stop.unlink(missing_ok=True)


class _Trainer(TorchTrainer):
    """Ray's trainer without two actors that nothing here needs and that take seconds to start.

    One hands out Ray datasets. The other asks Ray's State API each second whether the controller lives, to
    free its workers' places; these go with the driver, and it has ended healthy runs whose answer was late.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unneeded = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [c for c in super()._create_default_callbacks() if not isinstance(c, unneeded)]


def _fit(job: Job, run: RunFolder, settings: RunSettings, bundle: dict[str, float]) -> None:
    gpu, workers = "GPU" in bundle, settings.workers
    # Ray's own folder. For a run in an object store it is one of this machine: nothing of it is needed.
    storage = job.scratch if isinstance(run.path, ObjectPath) else run.path
    trainer = _Trainer(
        _worker,
        train_loop_config={"job": vars(job), "cpus": int(bundle["CPU"]), "hang": settings.hang_seconds},
        torch_config=_Config(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=(workers.min, workers.max) if workers.elastic else workers.max,
            use_gpu=gpu,
            resources_per_worker=bundle,
            # Growing is ours (_Watch): Ray would throw away what was done since the last checkpoint.
            elastic_resize_monitor_interval_s=float("inf"),
        ),
        run_config=RunConfig(
            name=storage.name,
            storage_path=str(storage.parent),
            failure_config=FailureConfig(max_failures=settings.max_failures),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    # Ray keeps a list of the checkpoints that it was told of, and refuses to start where one of them was
    # swept. The storage is the truth, its list a copy that nothing needs.
    (storage / "checkpoint_manager_snapshot.json").unlink(missing_ok=True)
    trainer.fit()


def _failed(error: BaseException, settings: RunSettings, saved: Sequence[Place], memory: str) -> RunError:
    good = (
        f"the checkpoint of step {step_of(saved[0])} is the last good one" if saved else "there is none yet"
    )
    most = settings.max_failures
    times = "1 time" if most == 0 else f"{most + 1} times in a row"
    return RunError(
        f"the workers failed {times} without a new checkpoint ({settings.section}.max_failures {most}); "
        f"{good}, and the same command continues. The last failure: {_cause(error, memory)}"
    )


def _workers_now(run: RunFolder, settings: RunSettings) -> int:
    """How many there were last: an elastic group's are in its metrics."""
    line = last_line(run.metrics)
    return int(line.get("workers", settings.workers.max)) if line else settings.workers.max


def _is_trained(run: RunFolder, settings: RunSettings) -> bool:
    """Whether the last step was taken, and the workers have said what there is to say."""
    summary = run.read_summary()
    return is_finished(summary, settings) or run.trained.exists()


class _Watch:
    """Beside a training, in the driver: says what the cluster lacks, and when there is room to grow."""

    def __init__(
        self,
        run: RunFolder,
        settings: RunSettings,
        bundle: dict[str, float],
        validators: Validators | None = None,
    ) -> None:
        self.run, self.workers, self.bundle, self.validators = run, settings.workers, bundle, validators
        self.section = settings.section
        self._tried: dict[frozenset[str], int] = {}
        self._room: tuple[float, Any] | None = None
        """Since when there is room, and the line of metrics at that time."""
        self._told = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="cluster watch", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(WATCH_SECONDS):
            try:
                self._tell_of_lack()
                if self.workers.elastic:
                    self._grow()
            except Exception as error:  # the cluster's answers are not worth a training
                print(f"warning: the cluster was not asked: {error}", file=sys.stderr, flush=True)

    def _tell_of_lack(self) -> None:
        fits = _bundles(ray.cluster_resources(), self.bundle)
        if fits >= self.workers.min:
            self._told = False
        elif not self._told:
            self._told = True
            wanted = ", ".join(f"{amount:g} {name}" for name, amount in self.bundle.items())
            print(
                f"waiting: {self.section}.workers {self.workers} with {wanted} each; the cluster has room "
                f"for {fits} now. It goes on when nodes come; else lower {self.section}.workers",
                file=sys.stderr,
                flush=True,
            )

    def _grow(self) -> None:
        """Ask for a checkpoint and a new start where there was room for one more worker for a while.

        How many there are says a line that was written meanwhile: the last one may be of a group before.
        """
        nodes = frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])
        line = last_line(self.run.metrics)
        now = line.get("workers", self.workers.max) if line else self.workers.max
        room = _bundles(self._free(), self.bundle)
        tries = self._tried.get(nodes, 0)
        if now >= self.workers.max or not room or tries >= TRIES or self.run.stop.exists():
            self._room = None
            return
        if self._room is None:
            self._room = time.monotonic(), line
        if time.monotonic() - self._room[0] < ROOM_SECONDS or line == self._room[1]:
            return
        self._room, self._tried[nodes] = None, tries + 1
        more = min(room, self.workers.max - now)
        print(f"room for {more} more workers beside {now}: a checkpoint, then a new start", file=sys.stderr)
        places.create(self.run.stop, GROW.encode())  # a stop that was asked for meanwhile goes first

    def _free(self) -> dict[str, float]:
        """What more workers could have.

        The CPUs of the validation beside are its own, at work or not; a GPU that it has would be given up.
        """
        free: dict[str, float] = ray.available_resources()
        if self.validators is not None:
            held = self.validators.held()
            for name in {*held, *self.validators.share}:
                free[name] = free.get(name, 0.0) + held.get(name, 0.0) - self.validators.share.get(name, 0.0)
        return free


def _bundles(resources: dict[str, float], bundle: dict[str, float]) -> int:
    return int(min(resources.get(name, 0.0) // amount for name, amount in bundle.items()))


def _asked(run: RunFolder) -> str:
    try:
        return run.stop.read_bytes().decode()
    except FileNotFoundError:
        return ""


def _use_gpu(settings: RunSettings) -> bool:
    """By what the cluster has, since the driver often stands on a node without a GPU."""
    gpus, fewest = int(ray.cluster_resources().get("GPU", 0)), settings.workers.min
    if settings.device == "cuda" and gpus < fewest:
        raise UserError(
            f"{settings.section}.device is cuda and its workers {settings.workers}, the cluster has {gpus} "
            "GPUs: lower workers, or set device to cpu"
        )
    use = settings.device == "cuda" or (settings.device == "auto" and gpus >= fewest)
    check_device(settings, use)
    return use


class _Config(TorchConfig):
    """Ray's process group, and a worker that hears of its machine's end."""

    @property
    def backend_cls(self) -> type:
        return _Backend


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_start(worker_group, backend_config)
        worker_group.execute(_listen)


_sigterm = threading.Event()


def _listen() -> None:
    """In a worker's main thread: the first SIGTERM asks for a checkpoint, a second one ends the process."""

    def note(signum: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, before)
        _sigterm.set()

    before = signal.signal(signal.SIGTERM, note)


def _notice() -> Callable[[], bool]:
    """Asks whether this worker was told since the last time that its machine goes: by SIGTERM or by Ray."""
    answered: list[Any] = [None]

    def noticed() -> bool:
        info = get_train_context().preemption_context.preemption_info
        if _sigterm.is_set():
            _sigterm.clear()
            return True
        if info is not None and info != answered[0]:
            answered[0] = info
            return True
        return False

    return noticed


def _worker(config: dict[str, Any]) -> None:
    """Runs in each worker process, with torch.distributed initialised by Ray."""
    # It tells of every report, through a logger that it names after its file.
    logging.getLogger(inspect.getfile(TrainContext)).setLevel(logging.WARNING)
    context = ray.train.get_context()
    os.environ.setdefault("OMP_NUM_THREADS", str(config["cpus"]))
    torch.set_num_threads(config["cpus"])
    device = ray.train.torch.get_device()
    group = Group(context.get_world_rank(), context.get_world_size(), device)

    def beat() -> None:
        """Whoever is not heard of for so long prints where it stands and dies; Ray restarts the group."""
        faulthandler.dump_traceback_later(config["hang"], exit=True, file=sys.stderr.fileno())

    try:
        work(Job(**config["job"]), group, Worker(_report, _notice(), beat))
    finally:
        faulthandler.cancel_dump_traceback_later()


def _report(folder: str, metrics: dict[str, Any]) -> None:
    """Tell Ray Train of a checkpoint that lies in its place already: nothing is uploaded."""
    if places.is_remote(folder):  # its list would need a file system of its own
        return
    ray.train.report(
        metrics,
        checkpoint=Checkpoint(folder),
        checkpoint_dir_name=f"checkpoints/{Path(folder).name}",
        checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
    )


def _cause(error: BaseException, memory: str) -> str:
    """The last line of a worker's error; of one that did not merely lose its peers, if there is one.

    `memory`: what is said instead where memory was not enough.
    """
    failures = getattr(error, "worker_failures", None) or {}
    if not failures:
        return _last_line(error)
    rank = min(failures, key=lambda r: (any(word in str(failures[r]) for word in PEER_IS_GONE), r))
    what = memory if "OutOfMemory" in repr(failures[rank]) else _last_line(failures[rank])
    return f"worker {rank}: {what}"


def _last_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[-1] if text else type(error).__name__
