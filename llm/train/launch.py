"""From a job to its end: here or on Ray, with the live line, and with what a signal or a failure means."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from cluster import places
from cluster.errors import RunError, Stopped, UserError
from cluster.lease import Lease, Superseded
from cluster.places import PlaceError
from cluster.settings import ClusterSettings
from llm.data.batches import padding
from llm.presets import other_than_preset
from llm.run_settings import RunSettings
from llm.settings import ModelSettings, PretrainSettings
from llm.train.checkpoints.load import CheckpointReader
from llm.train.checkpoints.save import committed_folders, step_of
from llm.train.job import Job
from llm.train.progress import Progress, say
from llm.train.run_folder import RunFolder
from llm.train.run_order import check_goes_on, even_micro_batch, make_order, make_rule
from llm.train.worker import work_here

STOP = "stop"
LOST_SECONDS = 10.0
# How long the workers may take for the checkpoint after a signal. A network file system may show them the
# wish a minute late.
STOP_SECONDS = 120.0
RAY_WORKERS = "llm.train.ray_workers"
START_SECONDS = 20.0  # after which an elastic group is planned anew: a lost node may have been counted on


def check_length(model: ModelSettings, settings: RunSettings) -> None:
    """UserError where a sample is longer than what the model can see."""
    if settings.length > model.context:
        raise UserError(
            f"{settings.section}.length is {settings.length} tokens, model.context {model.context}: "
            "a sample must fit"
        )


def check_fits(model: ModelSettings, settings: PretrainSettings, corpus: Any, run: RunFolder) -> None:
    """What can be known before anything starts. UserError names the fields that disagree."""
    check_length(model, settings)
    if other := other_than_preset(model):
        words = ", ".join(f"{name} {own} (preset: {there})" for name, (there, own) in other.items())
        print(f"model.preset {model.preset} with values of its own: {words}", file=sys.stderr)
    for name, wanted in (("packing", settings.packing != "stream"), ("confine", settings.confine)):
        if model.kind == "bert" and wanted:
            raise UserError(f"pretrain.{name} is for a gpt, model.kind is bert: its samples are sentences")
    if model.kind == "bert" and settings.samples.prompts:
        raise UserError("pretrain.samples.prompts are for a gpt: a bert writes no text while it trains")
    if not corpus.sources("train"):
        raise UserError(f"{corpus.path}: its train split is empty")
    if make_rule(corpus, model, settings).name == "stream":  # others read the whole corpus: the workers do
        order = make_order(corpus, settings)  # refuses weights and sources that cannot be mixed
        for newest in committed_folders(run.checkpoints)[:1]:
            with contextlib.suppress(RunError):  # damaged: the workers pass it over, with a warning
                check_goes_on(CheckpointReader(newest), order, settings)
        if len(order.sources) > 1:
            shares = ", ".join(f"{s.name} {w:.4g}" for s, w in zip(order.sources, order.weights, strict=True))
            print(f"samples by source: {shares}", file=sys.stderr)
    tell_of_padding(settings)


def tell_of_padding(settings: RunSettings) -> None:
    """Where a batch does not divide among the workers, what that costs."""
    rows = even_micro_batch(settings.batch, settings.workers.max, settings.micro_batch)
    if wasted := padding(settings.batch, settings.workers.max, rows):
        print(
            f"{wasted:.1%} of the rows computed are padding: {settings.section}.batch {settings.batch} over "
            f"{settings.workers.max} workers in micro-batches of {rows}",
            file=sys.stderr,
        )


def launch(
    job: Job,
    run: RunFolder,
    settings: RunSettings,
    cluster: ClusterSettings,
    out: str,
    begin: Callable[[], None],
    lease: Lease,
) -> None:
    """Train to the end. `begin` makes the run folder, when nothing is left that could refuse it.

    A worker's RunError or UserError is raised here; signals make a checkpoint first."""
    for leftover in (run.stop, run.failure, run.trained):
        leftover.unlink(missing_ok=True)
    cadence = min(settings.steps, max(settings.validation.every, settings.checkpoint.every))
    with Progress(run.metrics, settings.steps, cadence):
        if settings.launch == "here":
            begin()
            _tell_of_start(run, "one worker, in this process")
            _until_done(lambda: work_here(job), run, lease)
        else:
            say("starting Ray" if not cluster.address else f"connecting to Ray at {cluster.address}")
            from cluster.ray_runtime import address_of, check_output_place, cpus_for_each, ray_session

            _set_environment(settings, own=address_of(cluster) is None)
            # It takes a second, and Ray's start is mostly waiting.
            threading.Thread(target=importlib.import_module, args=(RAY_WORKERS,), daemon=True).start()
            with ray_session(cluster):
                from llm.train.ray_workers import train_on_ray

                check_output_place(out, f"{settings.section}.out")
                validation, section = settings.validation, settings.section
                beside = validation.cpus if validation.where == "workers" else 0
                cpus = cpus_for_each(
                    settings.workers.min, settings.workers.max, settings.cpus_per_worker, section, cluster,
                    (f"{section}.validation.cpus", beside),
                )  # fmt: skip
                begin()
                _tell_of_start(run, f"{settings.workers} worker{'s' * (settings.workers.max > 1)}")
                try:
                    _until_done(lambda: train_on_ray(job, cpus), run, lease)
                except Superseded:
                    raise
                except RunError:
                    _raise_failure(run, job)  # what a worker said of it is more than that it failed
                    raise
    _raise_failure(run, job)


def _set_environment(settings: RunSettings, own: bool) -> None:
    """Ray Train's settings, which it has from the environment alone. `own`: Ray is started for this run."""
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(settings.hang_seconds)
    # The controller asks its workers this often; the default of 2 s is felt at start and end.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    if settings.workers.elastic:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_SECONDS))
    if own:  # nobody drains the one node; its watcher takes a processor from the workers' start
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")


def _tell_of_start(run: RunFolder, workers: str) -> None:
    for newest in committed_folders(run.checkpoints)[:1]:
        say(f"continuing at step {step_of(newest)} from {newest.name}")
    say(f"starting {workers}: each reads its data, then its gradients are checked")


def _until_done(train: Callable[[], None], run: RunFolder, lease: Lease) -> None:
    """Run `train` in a thread, so that this one can answer signals: ask for a checkpoint, wait, pass on."""
    errors: list[BaseException] = []
    # Not Thread.join: an exception out of a signal handler makes it take the thread for ended (Python 3.11).
    ended = threading.Event()

    def body() -> None:
        try:
            train()
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    threading.Thread(target=body, daemon=True).start()
    try:
        while not ended.wait(0.2):
            if lease.lost.is_set():
                ended.wait(LOST_SECONDS)  # the workers find out by themselves, at their next line of metrics
                lease.of_workers.check()
    except (KeyboardInterrupt, Stopped):
        print("stopping: the workers make a checkpoint at this step ...", file=sys.stderr, flush=True)
        with contextlib.suppress(PlaceError):  # then the run goes on from its last checkpoint
            places.write_bytes(run.stop, STOP.encode())
        ended.wait(STOP_SECONDS)
        if errors:
            print(f"no checkpoint was made: {errors[0]}", file=sys.stderr)
        elif not ended.is_set():
            print(
                f"no checkpoint within {STOP_SECONDS:.0f} s: the run continues from the one before",
                file=sys.stderr,
            )
        raise
    if errors:
        raise errors[0]


def _raise_failure(run: RunFolder, job: Job) -> None:
    try:
        failure = json.loads(run.failure.read_bytes())
    except FileNotFoundError:
        return
    if failure["launch"] == job.launch:
        raise (UserError if failure["kind"] == "user" else RunError)(failure["message"])
