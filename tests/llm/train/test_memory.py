"""A worker's memory from settings: against all that torch allocates in steps of real engines."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from llm.model import make_model
from llm.model.inputs import Inputs
from llm.settings import ModelSettings, PretrainSettings
from llm.train.group import Group
from llm.train.memory import memory_of, micro_of
from llm.train.objective import Objective
from llm.train.worker import make_engine
from tests.llm.train.processes import run_workers

VOCAB = 2000
MODELS: dict[str, dict[str, Any]] = {
    "gpt": {"layers": 4, "width": 128, "heads": 4, "context": 64, "norm": "layernorm"},
    "wide": {"layers": 4, "width": 384, "heads": 4, "context": 64, "norm": "layernorm"},
    "untied": {"layers": 4, "width": 128, "heads": 4, "context": 64, "tied": False},
    "bert": {"kind": "bert", "layers": 4, "width": 128, "heads": 4, "context": 64},
}
BASE: dict[str, Any] = {"length": 64, "batch": 8, "micro_batch": 8, "selfcheck": False}
ENGINES: dict[str, dict[str, Any]] = {
    "plain": {"engine": "plain"},
    "zero0": {"zero_stage": 0},
    "zero1": {"zero_stage": 1},
    "zero2": {"zero_stage": 2},
    "zero3": {"zero_stage": 3},
    "zero1-cpu": {"zero_stage": 1, "offload": {"optimizer": "cpu"}},
    "zero3-cpu": {"zero_stage": 3, "offload": {"optimizer": "cpu", "parameters": "cpu"}},
}


def settings_of(engine: str, **changes: Any) -> PretrainSettings:
    return PretrainSettings.model_validate({**BASE, **ENGINES[engine], **changes})


def inputs_of(model: ModelSettings, settings: PretrainSettings, world: int) -> Inputs:
    micro = micro_of(model, settings, world, gpu=False)
    rows, length, guesses = micro.rows, micro.length, micro.guesses
    ids = torch.randint(0, VOCAB, (rows, length))
    if model.kind == "gpt":
        return Inputs(ids, ids, torch.ones(rows, length))
    places = torch.rand(rows, length).argsort(1)[:, :guesses]
    whole = torch.zeros_like(ids)
    return Inputs(
        ids, ids.gather(1, places), torch.ones(rows, guesses), places, whole, whole,
        torch.zeros(rows, dtype=torch.int64), torch.ones(rows),
    )  # fmt: skip


def allocated(rank: int, world: int, model: dict[str, Any], settings: dict[str, Any], steps: int = 3) -> int:
    """Most bytes that torch has allocated at once, from before the model is made to after some steps."""
    shape, pretrain = ModelSettings.model_validate(model), PretrainSettings.model_validate(settings)
    micro = micro_of(shape, pretrain, world, gpu=False)
    count = -(-pretrain.batch // world // micro.rows)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        objective = Objective(make_model(shape, VOCAB), pretrain.precision)
        engine = make_engine(objective, pretrain, Group(rank, world, torch.device("cpu")), micro.rows)
        scales = torch.full((len(objective.model.terms),), 1e-3)
        for _ in range(steps):
            for i in range(count):
                engine.accumulate(inputs_of(shape, pretrain, world), scales, last=i == count - 1)
            engine.norm()
            engine.step(1e-4)
    # Frees in gloo's threads are no events; the total in each event knows of them.
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        prof.export_chrome_trace(file.name)
        events = json.loads(Path(file.name).read_bytes())["traceEvents"]
    memory = [event for event in events if event.get("name") == "[memory]"]
    first = min(memory, key=lambda event: float(event["ts"]))["args"]
    return max(e["args"]["Total Allocated"] for e in memory) - (first["Total Allocated"] - first["Bytes"])


def check(model: str, engine: str, world: int = 1, tolerance: float = 0.05, **changes: Any) -> None:
    settings = settings_of(engine, **changes)
    shape = ModelSettings.model_validate(MODELS[model])
    need = memory_of(shape, settings, VOCAB, world)
    found = max(run_workers(allocated, world, MODELS[model], settings.model_dump(mode="json")))
    assert need.device == pytest.approx(found, rel=tolerance), need.peak


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_allocates_what_is_planned(engine: str) -> None:
    check("gpt", engine)
