"""What surviving costs: saving while training, coming back after a kill, starting, loading at another world.

The first two are timed in one process, in turns; kills and starts are those of the real command on Ray with
two workers; loading is done by real worker processes on gloo.
"""

from __future__ import annotations

import os
import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.ground import Ground
from benchmarks.machine import cores
from benchmarks.model_pairs import Shape
from benchmarks.process import run_module
from benchmarks.rows import Row
from llm.model import make_model
from llm.model.inputs import Inputs
from llm.settings import ModelSettings
from llm.train.checkpoints.layout import RunState
from llm.train.checkpoints.load import load_newest
from llm.train.checkpoints.retention import Keep
from llm.train.checkpoints.save import CheckpointSaver
from llm.train.engine import Engine
from llm.train.group import Group
from llm.train.objective import Objective
from llm.train.run_folder import read_metrics
from llm.training_settings import OptimizerSettings

SHAPE = Shape(layers=6, width=256, heads=4, vocab=8192, batch=16, length=256)  # 80 MB of state, steps of 1 s
QUICK = Shape(layers=1, width=32, heads=2, vocab=512, batch=2, length=32)
EVERY = 20  # steps between saves
PAIRS = 5
KILL_AT = 12
TIMES = 3


def run(ground: Ground) -> list[Row]:
    """All rows."""
    torch.set_num_threads(cores())
    rows = saving_rows(ground)
    rows += command_rows(ground)
    rows += loading_rows(ground)
    return rows


def saving_rows(ground: Ground) -> list[Row]:
    """Blocks of steps that begin with a save beside blocks that do not; a save's stall beside a bare copy."""
    shape, every, pairs = (QUICK, 2, 1) if ground.quick else (SHAPE, EVERY, PAIRS)
    engine = make_engine("plain", shape, 1)
    saver = CheckpointSaver(ground.fresh("checkpoints"), engine, 0, 1, "ab" * 6, Keep(2), {})
    step = training_step(engine, shape)
    step(), step()
    state_mb = sum(f.values.nbytes for f in engine.held()) / 1e6
    ratios, stalls, copies, seconds = [], [], [], []
    for number in range(pairs):
        without = timed(lambda: [step() for _ in range(every)])
        before = saver.stall_seconds

        def saved(number: int = number) -> None:
            saver.save(RunState(number, 0, 0, "run"))
            for _ in range(every):
                step()

        ratios.append(timed(saved) / without)
        saver.wait()
        stalls.append(saver.stall_seconds - before)
        copies.append(timed(lambda: [f.values.to("cpu", copy=True) for f in engine.held()]))
        seconds.append(without / every)
        ground.say(f"engine saving {number + 1}: {ratios[-1]:.4f}, stall {stalls[-1]:.4f} s")
    saver.finish()
    what = f"state {state_mb:.0f} MB, steps of {statistics.median(seconds):.2f} s, {shape}"
    return [
        Row(
            f"time of {every} steps that begin with a save, over {every} without", "times",
            statistics.median(ratios), None, None, "ours <= 1.03",
            f"{what}; pairs " + " ".join(f"{r:.4f}" for r in sorted(ratios)),
        ),
        Row(
            "stall of a save", "seconds", statistics.median(stalls), statistics.median(copies),
            "a copy of the same state to host memory", "ratio <= 1.1", what,
        ),
    ]  # fmt: skip


def command_rows(ground: Ground) -> list[Row]:
    """The real command: from its start to the first step, from a worker's death to the next new step."""
    started, recovered = [], []
    corpus = ("--pretrain.corpus", str(ground.corpus.path))
    for _ in range(1 if ground.quick else TIMES):
        out, mark = ground.fresh("run"), ground.fresh("killed")
        os.environ |= {
            "MANTA_FAULT": f"train.step:step={KILL_AT}:rank=1",
            "MANTA_FAULT_ONCE": str(mark),
        }
        begin = time.time()
        try:
            run_module(
                ground.log(), "llm.pretrain", ground.recipe_path, *corpus, "--pretrain.out", str(out),
                "--pretrain.workers", "2", "--pretrain.steps", str(KILL_AT + 2), "--pretrain.zero_stage", "1",
                "--pretrain.checkpoint.every", "5", "--pretrain.validation.every", "0",
                "--pretrain.samples.every", "0",
            )  # fmt: skip
        finally:
            del os.environ["MANTA_FAULT"], os.environ["MANTA_FAULT_ONCE"]
        times = {row["step"]: row["time"] for row in read_metrics(out)}
        started.append(times[1] - begin)
        recovered.append(times[KILL_AT] - mark.stat().st_mtime)
        ground.say(f"engine: first step after {started[-1]:.1f} s, back after {recovered[-1]:.1f} s")
    note = "two ZeRO-1 workers on Ray, everything built; "
    return [
        Row(
            "launch to the first step", "seconds", statistics.median(started), None, None, "ours <= 20",
            note + " ".join(f"{s:.1f}" for s in sorted(started)),
        ),
        Row(
            "killed worker to the next new step", "seconds", statistics.median(recovered), None, None,
            "ours <= 15", note + " ".join(f"{s:.1f}" for s in sorted(recovered)),
        ),
    ]  # fmt: skip


def loading_rows(ground: Ground) -> list[Row]:
    """Two ZeRO-1 workers load what 1, 3 and 4 have written, beside what 2 have; and how much they hold."""
    shape = QUICK if ground.quick else SHAPE
    folders = {
        world: ground.fresh(f"saved-by-{world}") for world in ((2, 1) if ground.quick else (2, 1, 3, 4))
    }
    for world, folder in folders.items():
        in_processes(world, _save, folder, shape)
    times = {world: list[float]() for world in folders}
    held = {world: list[tuple[float, float]]() for world in folders}
    for _ in range(1 if ground.quick else PAIRS):
        for world, folder in folders.items():
            seconds, peak, part = in_processes(2, _load, folder, shape)
            times[world].append(seconds)
            held[world].append((peak, part))
    same = statistics.median(times[2])
    rows = []
    for world in folders:
        took = statistics.median(times[world])
        ground.say(f"engine loading what {world} saved: {took:.3f} s")
        if world != 2:
            what = f"two workers load what {world} saved"
            note = f"ZeRO-1, {shape}; real processes on gloo"
            rows.append(Row(what, "seconds", took, same, "what two saved", "ratio <= 1.5", note))
        peak, part = max(held[world])
        what = f"most that a worker holds while it loads what {world} saved"
        peer = "its own part and the largest file's part in it"
        rows.append(Row(what, "MiB", peak, part, peer, "ratio <= 1.1", f"ZeRO-1, {shape}"))
    return rows


def make_engine(kind: str, shape: Shape, world: int) -> Engine:
    """An engine over a GPT of the shape."""
    settings = ModelSettings(layers=shape.layers, width=shape.width, heads=shape.heads, context=shape.length)
    objective = Objective(make_model(settings, shape.vocab, 0), "fp32", 0.0)
    if kind == "plain":
        from llm.train.plain import PlainEngine

        return PlainEngine(objective, OptimizerSettings(), world)
    from llm.train.deepspeed_zero import ZeroEngine

    return ZeroEngine(objective, OptimizerSettings(), world, 1, shape.batch, 1)


def training_step(engine: Engine, shape: Shape) -> Callable[[], None]:
    ids = torch.randint(0, shape.vocab, (shape.batch, shape.length + 1))
    inputs = Inputs(ids[:, :-1], ids[:, 1:], torch.ones(shape.batch, shape.length))
    scales = torch.full((len(engine.objective.model.terms),), 1 / ids[:, 1:].numel())

    def step() -> None:
        engine.accumulate(inputs, scales, True)
        engine.norm()
        engine.step(1e-4)

    return step


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def in_processes(world: int, work: Callable[..., Any], *args: Any) -> Any:
    """What the slowest or largest of `world` workers says of `work(group, *args)`, element by element."""
    queue = mp.get_context("spawn").SimpleQueue()
    store = f"/tmp/manta-bench-{os.getpid()}-{time.monotonic_ns()}"
    mp.start_processes(_enter, (world, store, queue, work, args), nprocs=world, start_method="spawn")
    Path(store).unlink(missing_ok=True)
    found = [queue.get() for _ in range(world)]
    return None if found[0] is None else tuple(max(values) for values in zip(*found, strict=True))


def _enter(rank: int, world: int, store: str, queue: Any, work: Callable[..., Any], args: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    queue.put(work(Group(rank, world, torch.device("cpu")), *args))
    dist.barrier()
    dist.destroy_process_group()


def _save(group: Group, folder: Path, shape: Shape) -> None:
    saver = CheckpointSaver(
        folder, make_engine("zero", shape, group.world), group.rank, group.world, "cd" * 6, Keep(2), {}
    )
    saver.save(RunState(1, 0, 0, "run"))
    saver.finish()


def _load(group: Group, folder: Path, shape: Shape) -> tuple[float, float, float]:
    """Seconds; most MiB that loading allocates, and MiB of its own part and of the largest file's part in it.

    Allocations are traced in a second load, which that makes slow. torch's own are not among them: those of
    the engine are there before.
    """
    engine = make_engine("zero", shape, group.world)
    part = sum(f.values.nbytes for f in engine.held()) / 2**20
    largest = max(file.stat().st_size for file in folder.glob("*/*.safetensors")) / 2**20
    dist.barrier()
    seconds = timed(lambda: load_newest(folder, engine, group, lambda reader: None))
    tracemalloc.start()
    assert load_newest(folder, engine, group, lambda reader: None) is not None
    _, peak = (
        tracemalloc.get_traced_memory()
    )  # not stopped: other threads allocate, and Python 3.11 may crash
    return seconds, peak / 2**20, part + min(largest, part)
