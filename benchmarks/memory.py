"""The plan's memory of a worker beside what fresh processes take, over models, ZeRO stages and precisions.

Measured is the most resident memory (VmHWM) of a process that makes the model and its engine and takes three
steps, less what it held after its imports; of several workers the one that takes most.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks.ground import Ground
from benchmarks.process import end, start_module
from benchmarks.rows import Row
from cluster.errors import RunError
from llm.settings import ModelSettings, PretrainSettings
from llm.train.memory import memory_of
from llm.train.planning import name_of

MIB = 2**20
PEER = "peak resident memory of a fresh process"
GOAL = "0.9 <= ratio <= 1.1"
DEEP = "gpt of depth 10"
# Each has 500 MB of weights and optimizer states, or more.
MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "gpt2-124m": ({"preset": "gpt2-124m"}, 50_257),
    "llama-150m": ({"preset": "llama-150m"}, 32_000),
    "bert-base": ({"preset": "bert-base"}, 30_522),
    DEEP: ({"depth": 10, "context": 512}, 16_384),
}


class Case(NamedTuple):
    """A setting to weigh."""

    model: str
    engine: dict[str, Any]
    precision: str
    batch: int = 4
    length: int = 64
    workers: int = 1


PLAIN = {"engine": "plain"}
CASES = (
    Case("gpt2-124m", PLAIN, "fp32"),
    Case("gpt2-124m", {"zero_stage": 1}, "bf16"),
    Case("llama-150m", PLAIN, "bf16"),
    Case("llama-150m", {"zero_stage": 1}, "fp32"),
    Case("bert-base", PLAIN, "fp32"),
    Case("bert-base", {"zero_stage": 1}, "bf16"),
    Case("bert-base", {"zero_stage": 2}, "fp32"),
    Case(DEEP, {"zero_stage": 0}, "fp32"),
    Case(DEEP, {"zero_stage": 2, "micro_batch": 2}, "bf16"),
    Case(DEEP, {"zero_stage": 3}, "fp32"),
    Case(DEEP, {"zero_stage": 3}, "bf16"),
    Case(DEEP, PLAIN, "fp32", 2, 512),
    Case(DEEP, {**PLAIN, "activation_checkpointing": True}, "fp32", 2, 512),
    Case(DEEP, {"zero_stage": 1}, "fp32", workers=2),
    Case(DEEP, {"zero_stage": 3}, "fp32", workers=2),
)
TINY = "a tiny gpt"
MODELS[TINY] = ({"layers": 1, "width": 32, "heads": 2, "context": 64}, 512)
LIBRARIES = (Case(TINY, PLAIN, "fp32"), Case(TINY, PLAIN, "bf16"), Case(TINY, {"zero_stage": 1}, "fp32"))
"""What is measured of these is what libraries take when they are first called."""


def run(ground: Ground) -> list[Row]:
    """A row for each case."""
    cases = LIBRARIES[::2] if ground.quick else (*CASES, *LIBRARIES)
    rows = []
    for case in cases:
        rows.append(weigh(ground, case))
        ground.say(f"memory {rows[-1].what}: {rows[-1].ratio:.3f}")
    return rows


def weigh(ground: Ground, case: Case) -> Row:
    """Planned and measured MiB."""
    shape, vocab_size = MODELS[case.model]
    model = ModelSettings.model_validate(shape)
    settings = PretrainSettings.model_validate(
        {"batch": case.batch, "micro_batch": case.batch, "length": case.length, "precision": case.precision,
         "selfcheck": False, "workers": case.workers, **case.engine}
    )  # fmt: skip
    need = memory_of(model, settings, vocab_size, case.workers)
    found = list(processes(ground, model, settings, vocab_size, case.workers))
    at_once = f", {settings.micro_batch} at once" if settings.micro_batch < case.batch else ""
    saved = ", activation checkpointing" if settings.activation_checkpointing else ""
    workers = f", {case.workers} workers" if case.workers > 1 else ""
    parts = ", ".join(f"{name} {size / MIB:.0f}" for name, size in need.peak.parts.items())
    held = max(before for before, _ in found)
    return Row(
        f"{case.model}, {name_of(settings)}, {case.precision}{workers}{saved}", "MiB",
        need.device / MIB, max(most for _, most in found), PEER, None if case.model == TINY else GOAL,
        f"batch {case.batch} x {case.length}{at_once}; planned at {need.peak.name}: {parts}; {held:.0f} held "
        "after the imports",
    )  # fmt: skip


def processes(
    ground: Ground, model: ModelSettings, settings: PretrainSettings, vocab_size: int, world: int
) -> Iterator[tuple[float, float]]:
    """What each worker's process held after its imports and at most beside it, in MiB."""
    case = ground.fresh("case.json")
    case.write_text(
        json.dumps(
            {"model": model.model_dump(mode="json"), "pretrain": settings.model_dump(mode="json"),
             "vocab_size": vocab_size, "world": world}
        )
    )  # fmt: skip
    outs, logs = [ground.fresh("held") for _ in range(world)], [ground.log() for _ in range(world)]
    children = [
        start_module(log, "benchmarks.memory_process", str(case), "--rank", str(rank), "--out", str(out))
        for rank, (log, out) in enumerate(zip(logs, outs, strict=True))
    ]
    try:
        for child, log in zip(children, logs, strict=True):
            if status := child.wait():
                raise RunError(f"{log} ended with status {status}:\n{log.read_text(errors='replace')[-800:]}")
    finally:
        for child in children:
            end(child)
    for out in outs:
        before, most = json.loads(out.read_text())
        yield before, most
