"""A trained model, opened for use: no Ray, no DeepSpeed, no GPU needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster import places
from cluster.errors import UserError
from cluster.places import Place
from data_jobs.tokens.tokenizer import Tokenizer
from llm.exchange.model_folder import is_model_folder, read_imported
from llm.model import Model, make_model
from llm.model.tasks import head_from, lora_from, make_task_model
from llm.settings import ModelSettings
from llm.train.checkpoints.load import CheckpointReader
from llm.train.trained import find_trained


@dataclass(frozen=True)
class Loaded:
    """What `llm.load` gives: the model in evaluation mode, its tokenizer, the run's settings, the step."""

    model: Model
    tokenizer: Tokenizer
    settings: dict[str, Any]
    step: int
    checkpoint: Place


def build(settings: ModelSettings | Mapping[str, Any], vocab_size: int | None = None, seed: int = 0) -> Model:
    """A model with fresh weights: of a run's settings, with its task's head, or of model settings and a
    vocabulary's size."""
    task = None
    if not isinstance(settings, ModelSettings):
        vocab_size, task = vocab_size or settings["corpus"]["vocab_size"], settings.get("task")
        settings = ModelSettings.model_validate(settings["model"])
    if vocab_size is None:
        raise UserError("llm.build: model settings alone do not say vocab_size: give it, or a run's settings")
    if task is None:
        return make_model(settings, vocab_size, seed)
    return make_task_model(settings, vocab_size, head_from(task), seed, lora_from(task))


def load(run: str | Place) -> Loaded:
    """Load a run folder, one of its checkpoints, or an imported model.

    Of a run folder it is the newest good checkpoint, of a finished fine-tuning the best one.

    UserError where the path is none of these, RunError where a file is damaged.
    """
    path = places.at(run)
    if is_model_folder(path):
        imported = read_imported(path)
        model = build(imported.settings, imported.vocab_size)
        imported.fill(model)
        return Loaded(model.eval(), imported.tokenizer, imported.run_settings(), 0, path)
    found = find_trained(path, CheckpointReader.weights)
    model = build(found.record)
    model.load_state_dict(found.taken, strict=True)
    reader = found.reader
    return Loaded(model.eval(), found.tokenizer(), found.record, reader.state.step, reader.folder)
