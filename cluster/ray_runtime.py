"""Ray for the length of a command: started on this machine, or the cluster that is named."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private.ray_logging import global_worker_stdstream_dispatcher

from cluster import places
from cluster.errors import UserError
from cluster.recipe import ROOT
from cluster.settings import ClusterSettings

# Lines of Ray's own that read like errors and are none. The first comes with each group of workers: it warns
# of a restart of the actor that watches for preemption, which is made anew with the next group anyway.
NO_ERRORS = ("Actor with class name: 'PreemptionWatcher' and ID:",)
_own = False
PRINTER = "ray_print_logs"  # Ray's name for the driver's handler of its workers' lines
# Of a Ray that is started here, whose own processes share the cores with the work. Its workers wait for any
# other process by default (niceness 15); nobody sees its metrics and its list of tasks.
OWN_RAY = {
    "RAY_worker_niceness": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
END_SECONDS = 3.0  # what Ray's processes may take to end after the session


@contextmanager
def ray_session(
    settings: ClusterSettings, shows: Callable[[str], bool] = lambda line: True
) -> Iterator[None]:
    """Ray, initialised; ended when the block ends. Inside a running session it does nothing.

    The cluster is `cluster.address`, else RAY_ADDRESS (set inside a `ray job`), else a new one here. `shows`:
    which lines of the workers are printed.
    """
    global _own
    if ray.is_initialized():
        yield
        return
    address = address_of(settings)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # no notice about a coming default
    if not sys.stderr.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    # A job brings its working directory itself.
    shipped = {} if address else {"env_vars": {"PYTHONPATH": _python_path()}}
    try:
        if address:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=True)
        else:
            _own = True
            for name, value in OWN_RAY.items():
                os.environ.setdefault(name, value)
            # The dashboard stays on: Ray asks it about itself in places.
            ray.init(
                address="local",
                num_cpus=settings.num_cpus,
                include_dashboard=True,
                logging_level=logging.ERROR,
                log_to_driver=True,
                runtime_env=shipped,
            )
    except (ConnectionError, ValueError) as error:  # nobody there; no address at all
        raise UserError(f"cluster.address {address!r}: no Ray cluster answers there: {error}") from None
    _leave_out_no_errors(shows)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # ray.init puts its own there, which just exits
    raylets = _raylets()
    try:
        yield
    finally:
        _own = False
        ray.shutdown()
        end_workers(raylets, END_SECONDS)


def _raylets() -> set[int]:
    """Process ids of the raylets that this process has started."""
    return {child.pid for child in psutil.Process().children() if child.name() == "raylet"}


def end_workers(raylets: set[int], seconds: float) -> list[int]:
    """Kill those of these raylets' workers that are still there after some seconds; their process ids.

    Now and then a worker, mostly the train controller, hangs in its own exit when its raylet is gone; it
    would stay for ever, with half a gigabyte.
    """
    until = time.monotonic() + seconds
    while (left := _workers_of(raylets)) and time.monotonic() < until:
        time.sleep(0.05)
    for worker in left:
        worker.kill()
    return [worker.pid for worker in left]


def _workers_of(raylets: set[int]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter() if raylets else ():
        try:
            if (
                process.name().startswith("ray::")
                and int(process.environ().get("RAY_RAYLET_PID", 0)) in raylets
            ):
                found.append(process)
        except (psutil.Error, OSError):  # gone meanwhile, or somebody else's
            continue
    return found


def is_own_ray() -> bool:
    """Whether the session is a Ray that was started here for it, on this one machine."""
    return _own


def _leave_out_no_errors(shows: Callable[[str], bool]) -> None:
    """Put a filter before the handler that prints the workers' lines here. In their files they stay."""
    found = [handle for name, handle in global_worker_stdstream_dispatcher.handlers if name == PRINTER]
    global_worker_stdstream_dispatcher.remove_handler(PRINTER)
    for handle in found:
        global_worker_stdstream_dispatcher.add_handler(PRINTER, without_no_errors(handle, shows))


def without_no_errors(
    handle: Callable[[dict[str, Any]], None], shows: Callable[[str], bool] = lambda line: True
) -> Callable[[dict[str, Any]], None]:
    """A handler of Ray's batches of lines that passes on those that it `shows`, but for NO_ERRORS."""

    def filtered(batch: dict[str, Any]) -> None:
        lines = [
            line for line in batch["lines"] if shows(line) and not any(words in line for words in NO_ERRORS)
        ]
        if lines or not batch["lines"]:
            handle({**batch, "lines": lines})

    return filtered


def cpus_for_each(
    fewest: int,
    most: int,
    wanted: int | None,
    section: str,
    settings: ClusterSettings,
    beside: tuple[str, int] = ("", 0),
) -> int:
    """CPUs of each worker: as wanted, else an equal share of the most, which must fit on one node.

    `beside`: a setting that wants CPUs, too, and how many. UserError where the fewest cannot fit into a Ray
    that was started here; another cluster may still grow.
    """
    key, taken = beside
    total = int(ray.cluster_resources().get("CPU", 0)) - taken
    largest = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
    cpus = wanted or max(1, min(largest, total // most))
    if address_of(settings) is None and cpus * fewest > total:
        raise UserError(
            f"{section}.workers {fewest} with {cpus} CPUs each do not fit into the {total + taken} CPUs of "
            f"this machine{f', of which {key} takes {taken}' if taken else ''}: lower {section}.workers or "
            f"{section}.cpus_per_worker"
        )
    return cpus


def address_of(settings: ClusterSettings) -> str | None:
    """Of the cluster to connect to; None: Ray is started here."""
    return settings.address or os.environ.get("RAY_ADDRESS")


def is_many_nodes() -> bool:
    """Whether the session spans several nodes."""
    return sum(1 for node in ray.nodes() if node["Alive"]) > 1


def check_output_place(path: str, key: str) -> None:
    """UserError for a relative path in a job over several nodes: each would write to its own folder."""
    place = places.at(path)
    if isinstance(place, Path) and not place.is_absolute() and is_many_nodes():
        raise UserError(
            f"{key}: '{path}' is relative, and this job runs on several nodes: set --{key} to an absolute "
            "path on storage that every node shares, or to s3://bucket/name"
        )


def check_one_node(path: str, key: str) -> None:
    """UserError for an object store in a job over several nodes, where the work goes through one's disk."""
    if places.is_remote(path) and is_many_nodes():
        raise UserError(
            f"{key}: {path} is written by way of one machine's disk, and this job runs on several nodes: set "
            f"--{key} to an absolute path on storage that every node shares, and copy the folder from there"
        )


def _python_path() -> str:
    """The repository's root first, so that workers import the code that the driver runs."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
