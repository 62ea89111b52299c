"""Several processes of this machine that measure together (gloo); each has its share of the threads."""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cluster.errors import RunError, UserError
from llm.data.batches import worker_slice
from llm.train.group import Group

T = TypeVar("T")
CPU = torch.device("cpu")


def run_together(function: Callable[..., Any], workers: int, *args: Any) -> Any:
    """What `function(group, *args)` returns on the first of `workers` processes; with one, in this one.

    `function` is one of a module, `args` and what it returns are plain values. Its UserError and RunError are
    raised here. The others are ended where one fails.
    """
    if workers < 1:
        raise UserError(f"--workers must be at least 1, it is {workers}")
    if workers == 1:
        return function(Group(0, 1, CPU), *args)
    context = mp.get_context("spawn")
    results = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        meet = (Path(folder) / "meet").as_uri()
        threads = max(1, (os.cpu_count() or 1) // workers)
        processes = [
            context.Process(
                target=_serve, args=(rank, workers, meet, threads, results, function, args), daemon=True
            )
            for rank in range(workers)
        ]
        try:
            for process in processes:
                process.start()
            return _result(results, processes)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _result(results: Any, processes: Sequence[Any]) -> Any:
    """The first word that comes: the first worker's result, or any one's failure."""
    while results.empty():
        _look_for_ended(processes, 0.05, results)
    kind, value = results.get()
    match kind:
        case "result":
            return value
        case "UserError":
            raise UserError(value)
        case "RunError":
            raise RunError(value)
    _look_for_ended(processes, 1.0)  # who lost another says so, and the loss is what matters
    raise RuntimeError(f"in a worker:\n{value}")


def _look_for_ended(processes: Sequence[Any], seconds: float, results: Any = None) -> None:
    """RunError where one ended without a word; each is waited for so long."""
    for rank, process in enumerate(processes):
        process.join(seconds)
        if process.exitcode and (results is None or results.empty()):
            raise RunError(f"worker {rank} of {len(processes)} ended with status {process.exitcode}")


def _serve(
    rank: int, world: int, meet: str, threads: int, results: Any, function: Callable[..., Any], args: Any
) -> None:
    torch.set_num_threads(threads)
    try:
        dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=world)
        found = function(Group(rank, world, CPU), *args)
        dist.barrier()  # nobody leaves before the others have what they wait for
        if rank == 0:
            results.put(("result", found))
    except (UserError, RunError) as error:
        results.put((type(error).__name__, str(error)))
    except BaseException:
        results.put(("error", traceback.format_exc()))


def share_of(items: Sequence[T], group: Group) -> Sequence[T]:
    """This worker's part of them: neighbours, in order."""
    return items[worker_slice(len(items), group.rank, group.world)]
