"""A worker whose memory is not enough: what it says, with the plan's numbers."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any, ClassVar

import ray.exceptions

from cluster.errors import RunError
from llm.settings import ModelSettings
from llm.train.memory import memory_of
from llm.train.planning import GIB
from llm.train.ray_workers import _cause
from llm.train.run_folder import RunFolder
from tests.llm.train import runs
from tests.llm.train.processes import run_workers

WIDE = {**runs.MODEL, "width": 2048, "hidden": 8192}  # 50 million parameters in its block
LEFT = 400 << 20  # less than these take with their optimizer's states


def starved(rank: int, world: int, corpus: str, run: Path) -> str:
    """What a worker says that may have only so much more address space than it has now."""
    runs.MODEL.update(WIDE)
    lines = Path("/proc/self/status").read_text().splitlines()
    size = next(int(line.split()[1]) for line in lines if line.startswith("VmSize:")) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size + LEFT, resource.RLIM_INFINITY))
    try:
        runs.train(rank, world, corpus, run)
    except RunError as error:
        return str(error)
    return "it had enough"


def test_a_worker_that_gets_no_memory_says_what_to_lower(corpus: str, tmp_path: Path) -> None:
    (said,) = run_workers(starved, 1, corpus, tmp_path / "run", own=True)
    model = ModelSettings.model_validate(WIDE)
    settings = runs.settings_of("plain", 1)
    need = memory_of(model, settings, 400, 1)
    assert said.startswith("worker 0: out of memory: by the plan the one worker takes ")
    assert f"takes {need.device / GIB:.2f} GiB at {need.peak.name} (weights 0.19" in said
    assert "What would take less: pretrain.selfcheck false: 0." in said and "torch says: " in said
    failure: dict[str, Any] = json.loads(RunFolder(tmp_path / "run").failure.read_bytes())
    assert failure["message"] == said  # what the driver prints


def test_a_worker_that_ray_ends_for_its_memory_says_the_same() -> None:
    class Failed(Exception):
        worker_failures: ClassVar = {1: ray.exceptions.OutOfMemoryError("the node is full")}

    assert _cause(Failed(), "the plan's words") == "worker 1: the plan's words"
