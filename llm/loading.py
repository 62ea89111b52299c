"""A trained model, opened for use: no Ray, no DeepSpeed, no GPU needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import UserError
from data_jobs.tokenizer import Tokenizer, load_tokenizer
from llm.model.gpt import GPT
from llm.settings import ModelSettings
from llm.train.checkpoints.load import CheckpointReader, newest_reader
from llm.train.run_folder import RunFolder


@dataclass(frozen=True)
class Loaded:
    """What `llm.load` gives: the model in evaluation mode, its tokenizer, the run's settings, the step."""

    model: GPT
    tokenizer: Tokenizer
    settings: dict[str, Any]
    step: int
    checkpoint: Path


def build(settings: ModelSettings, vocab_size: int, seed: int = 0) -> GPT:
    """A model with fresh weights."""
    return GPT(settings, vocab_size, seed)


def load(run: str | Path) -> Loaded:
    """Load a run folder (its newest good checkpoint) or one of its checkpoints.

    UserError where the path is neither, RunError where a checkpoint is damaged.
    """
    path = Path(run)
    if (path / "index.json").exists():
        folder, reader = RunFolder(path.parent.parent), CheckpointReader(path)
    else:
        folder = RunFolder(path)
        folder.read_settings()
        if not folder.checkpoints.is_dir():
            raise UserError(f"{path}: has no checkpoint yet; train it first: python -m llm.pretrain")
        reader = newest_reader(folder.checkpoints)
    record = folder.read_settings()
    model = build(ModelSettings.model_validate(record["model"]), record["corpus"]["vocab_size"])
    model.load_state_dict(reader.weights(), strict=True)
    return Loaded(model.eval(), load_tokenizer(folder.tokenizer), record, reader.state.step, reader.folder)
