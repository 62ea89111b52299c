"""Real worker processes on gloo, for whatever communicates."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_workers(function: Callable[..., Any], world: int, *args: Any, timeout: float = 240) -> list[Any]:
    """Run `function(rank, world, *args)` in `world` processes; what each returned, by rank."""
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    processes = [
        context.Process(target=_enter, args=(function, rank, world, port, queue, args), daemon=True)
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    results: dict[int, Any] = {}
    for process in processes:
        process.join(timeout)
    while not queue.empty():
        rank, ok, value = queue.get()
        if not ok:
            raise AssertionError(f"worker {rank}:\n{value}")
        results[rank] = value
    for process in processes:
        if process.is_alive():
            process.kill()
    assert len(results) == world, f"only workers {sorted(results)} of {world} came back"
    return [results[rank] for rank in range(world)]


def _enter(function: Callable[..., Any], rank: int, world: int, port: int, queue: Any, args: Any) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", rank=rank, world_size=world)
        value = function(rank, world, *args)
        dist.barrier()
        queue.put((rank, True, value))
    except BaseException:
        queue.put((rank, False, traceback.format_exc()))
        raise
    finally:
        dist.destroy_process_group()
