"""A process to weigh: an engine's steps over random tokens, and the most memory that they took.

    python -m benchmarks.memory_process CASE.json --rank 0 --out FILE

FILE gets what it held after its imports, and how much more than that at most, in MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.model_pairs import resident_mib
from llm.model import make_model
from llm.model.inputs import Inputs
from llm.settings import ModelSettings, PretrainSettings
from llm.train.group import Group
from llm.train.objective import Objective
from llm.train.step_sizes import micro_of
from llm.train.worker import make_engine

STEPS = 3


def inputs_of(model: ModelSettings, settings: PretrainSettings, vocab_size: int, world: int) -> Inputs:
    """A full micro-batch of random tokens, of the shapes that the loader gives."""
    micro = micro_of(model, settings, world, gpu=False)
    rows, length, guesses = micro.rows, micro.length, micro.guesses
    ids = torch.randint(0, vocab_size, (rows, length))
    if model.kind == "gpt":
        return Inputs(ids, ids, torch.ones(rows, length))
    positions = torch.rand(rows, length).argsort(1)[:, :guesses]
    whole = torch.zeros_like(ids)
    return Inputs(
        ids, ids.gather(1, positions), torch.ones(rows, guesses), positions, whole, whole,
        torch.zeros(rows, dtype=torch.int64), torch.ones(rows),
    )  # fmt: skip


def train(model: ModelSettings, settings: PretrainSettings, vocab_size: int, group: Group) -> None:
    """Some steps, as the loop takes them."""
    objective = Objective(make_model(model, vocab_size), settings.precision)
    objective.model.activation_checkpointing = settings.activation_checkpointing
    micro = micro_of(model, settings, group.world, gpu=False)
    engine = make_engine(objective, settings, group, micro.rows)
    scales = torch.full((len(objective.model.terms),), 1e-4)
    count = -(-settings.batch // group.world // micro.rows)
    for _ in range(STEPS):
        for i in range(count):
            engine.accumulate(inputs_of(model, settings, vocab_size, group.world), scales, i == count - 1)
        engine.norm()
        engine.step(1e-4)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory_process", description=__doc__)
    parser.add_argument("case", type=Path, help="JSON: model, pretrain, vocab_size, world")
    parser.add_argument("--rank", type=int, required=True, help="this worker's number")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the two numbers")
    options = parser.parse_args(argv)
    case = json.loads(options.case.read_text())
    model, settings = (
        ModelSettings.model_validate(case["model"]),
        PretrainSettings.model_validate(case["pretrain"]),
    )
    world = int(case["world"])
    torch.set_num_threads(max(1, torch.get_num_threads() // world))
    if settings.engine == "deepspeed":
        import llm.train.deepspeed_zero  # noqa: F401 (an import, too)
    before = resident_mib("VmRSS")
    os.environ |= {"RANK": str(options.rank), "LOCAL_RANK": str(options.rank), "WORLD_SIZE": str(world)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    if settings.engine == "deepspeed" or world > 1:
        store = f"file://{options.case.resolve()}.store"
        dist.init_process_group("gloo", init_method=store, rank=options.rank, world_size=world)
    train(model, settings, case["vocab_size"], Group(options.rank, world, torch.device("cpu")))
    options.out.write_text(json.dumps([before, resident_mib("VmHWM") - before]))
    if dist.is_initialized():
        dist.barrier()  # the last to end must not lose its peer
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
