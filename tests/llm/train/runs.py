"""Whole runs of the trainer in this process, as one of its workers: no driver, no Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cluster.lease import hold
from data_jobs import open_corpus
from llm.settings import ModelSettings, PretrainSettings
from llm.train.group import Group
from llm.train.job import Job, Worker
from llm.train.run_folder import RunFolder, read_lines
from llm.train.worker import work

MODEL = {"layers": 1, "width": 24, "heads": 2, "hidden": 36, "context": 16}
PRETRAIN: dict[str, Any] = {
    "steps": 16, "batch": 4, "length": 16, "micro_batch": 1, "optimizer": {"lr": 1e-3},
    "schedule": {"kind": "constant", "warmup_steps": 4}, "validation": {"every": 0, "max_samples": 2},
    "checkpoint": {"every": 5, "keep": 9}, "wandb": {"mode": "disabled"},
}  # fmt: skip


def settings_of(kind: str, world: int, **changes: Any) -> PretrainSettings:
    """`kind`: as in test_engines.KINDS."""
    engine: dict[str, Any] = {"engine": "plain"}
    if kind != "plain":
        engine = {"zero_stage": int(kind[4])}
    if kind.endswith("cpu"):
        engine["offload"] = {"optimizer": "cpu", "parameters": "cpu" if kind[4] == "3" else "none"}
    return PretrainSettings.model_validate({**PRETRAIN, **engine, "workers": world, **changes})


def train(
    rank: int,
    world: int,
    corpus: str,
    run: Path,
    kind: str = "plain",
    fault: str = "",
    dropout: float = 0.0,
    around: Worker | None = None,
    **changes: Any,
) -> None:
    """Train a run folder as one worker of it, on from its checkpoints; `fault` is MANTA_FAULT."""
    settings = settings_of(kind, world, **changes)
    found = open_corpus(corpus, "read")
    group = Group(rank, world, torch.device("cpu"))
    run.mkdir(parents=True, exist_ok=True)
    with _environment(MANTA_FAULT=fault), _lease(run, group) as lease:
        job = Job(
            model=ModelSettings.model_validate({**MODEL, "dropout": dropout}).model_dump(mode="json"),
            section="pretrain",
            settings=settings.model_dump(mode="json"),
            data=corpus,
            vocab_size=found.tokenizer.vocab_size,
            start=None,
            run=str(run),
            run_id="run-1",
            launch=f"launch-{lease.get('generation')}",
            lease=lease,
        )
        work(job, group, around or Worker())


def rows_of(run: Path) -> list[dict[str, Any]]:
    """The lines of its metrics.jsonl."""
    return list(read_lines(RunFolder(run).metrics))


def losses_of(run: Path) -> dict[int, Any]:
    """Step to its loss, bit by bit, and the digest of its samples."""
    return {
        row["step"]: (None if row["loss"] is None else row["loss"].hex(), row["sample_digest"])
        for row in rows_of(run)
        if "loss" in row
    }


@contextmanager
def _lease(run: Path, group: Group) -> Iterator[dict[str, Any]]:
    """The first worker holds it; the others never ask."""
    if group.rank > 0:
        yield {"folder": str(run), "generation": 0, "token": ""}
        return
    with hold(run) as lease:
        yield asdict(lease.of_workers)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
