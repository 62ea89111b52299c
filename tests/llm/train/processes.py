"""Real worker processes on gloo, for whatever communicates.

They stay for the next test: most of what a start costs is importing torch and DeepSpeed.
"""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


@dataclass(frozen=True)
class Workers:
    """The processes of one process group, and the pipes to them."""

    processes: list[Any]
    pipes: list[Connection]

    def kill(self) -> None:
        for process in self.processes:
            process.kill()


_groups: dict[int, Workers] = {}


def run_workers(
    function: Callable[..., Any], world: int, *args: Any, timeout: float = 240, own: bool = False
) -> list[Any]:
    """Run `function(rank, world, *args)` in `world` processes; what each returned, by rank.

    Where one fails, all are ended, and the next call has new ones. `own`: for this call alone, since it
    leaves its processes changed, or needs the environment as it is now.
    """
    if own and world in _groups:
        _groups.pop(world).kill()
    workers = _groups.setdefault(world, _groups.get(world) or _start(world))
    kept = False
    try:
        for pipe in workers.pipes:
            pipe.send((function, args))
        results = _results(workers, time.monotonic() + timeout)
        kept = not own
        return results
    finally:
        if not kept:
            del _groups[world]
            workers.kill()


def _results(workers: Workers, end: float) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(workers.pipes):
        for rank, pipe in enumerate(workers.pipes):
            if rank not in results and pipe.poll(0.02):
                ok, value = pipe.recv()
                if not ok:
                    raise AssertionError(f"worker {rank}:\n{value}")
                results[rank] = value
        assert time.monotonic() < end, f"only workers {sorted(results)} of {len(workers.pipes)} came back"
    return [results[rank] for rank in range(len(workers.pipes))]


def _start(world: int) -> Workers:
    context = mp.get_context("spawn")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    processes, pipes = [], []
    for rank in range(world):
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(rank, world, port, theirs), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        pipes.append(ours)
    return Workers(processes, pipes)


def _serve(rank: int, world: int, port: int, pipe: Connection) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:  # the tests are over
            os._exit(0)
        try:
            value = function(rank, world, *args)
            dist.barrier()
            pipe.send((True, value))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
