"""Fine-tuned runs as the trainer leaves them, without a training: tiny models with fresh weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llm.model import make_model
from llm.model.tasks import make_task_model
from llm.settings import ModelSettings
from llm.tasks.examples import open_examples, prepare_examples
from llm.tasks.heads import head_of
from llm.train.checkpoints.layout import RunState
from llm.train.checkpoints.retention import Keep
from llm.train.checkpoints.save import CheckpointSaver
from llm.train.objective import Objective
from llm.train.plain import PlainEngine
from llm.train.run_folder import FORMAT
from llm.training_settings import OptimizerSettings
from tests.llm.tasks.example_sets import settings_of, shape, tokenizer

CLEAN = {"form": "none", "control_characters": "keep"}


def finetuned(kind: str, folder: Path, model: str = "gpt", count: int = 30, **task: Any) -> Path:
    """A run at step 5 of a task with examples in parts train and test."""
    settings = settings_of(kind, folder, count, **task)
    examples = folder / "examples"
    record = prepare_examples(settings, tokenizer(), shape(model), examples)
    head = head_of(record, settings.task)
    made = make_task_model(shape(model), tokenizer().vocab_size, head, seed=3)
    facts = {
        "finetune": settings.model_dump(mode="json"),
        "examples": {"path": str(examples), "digest": open_examples(examples).record["digest"]},
        "task": {
            "kind": kind, "labels": record["labels"], "head": None if head is None else asdict(head),
            "lora": None,
        },
    }  # fmt: skip
    return write_run(folder / "run", shape(model), made, facts)


def pretrained(folder: Path, model: ModelSettings, length: int, path: str | None = None) -> Path:
    """A run at step 5 of a corpus that nobody opens."""
    facts = {"pretrain": {"length": length}}
    return write_run(folder, model, make_model(model, tokenizer().vocab_size, seed=3), facts, path)


def write_run(
    run: Path, settings: ModelSettings, model: Any, facts: dict[str, Any], path: str | None = None
) -> Path:
    tokenizer().save(run / "tokenizer")
    record = {
        "format": FORMAT,
        "run_id": "run-1",
        "model": settings.model_dump(mode="json"),
        "corpus": {
            "tokenizer": tokenizer().fingerprint, "vocab_size": tokenizer().vocab_size, "path": path,
            "clean": CLEAN,
        },
        **facts,
    }  # fmt: skip
    (run / "settings.json").write_text(json.dumps(record), encoding="utf-8")
    engine = PlainEngine(Objective(model, "fp32"), OptimizerSettings(), 1)
    saver = CheckpointSaver(run / "checkpoints", engine, 0, 1, f"{5:012x}", Keep(2), {})
    saver.save(RunState(5, 0, 0, ""))
    saver.finish()
    return run
