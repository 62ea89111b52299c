"""The model whose weights are a training's first: a run, a checkpoint or an imported folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from cluster.errors import UserError
from cluster.fields import values_of_kind
from llm.exchange.model_folder import is_model_folder, read_imported
from llm.settings import ModelSettings
from llm.train.checkpoints.load import CheckpointReader, newest_weights
from llm.train.run_folder import RunFolder

# What may differ from the model that is started from: it changes no tensor.
MAY_DIFFER = ("dropout", "init", "init_std")


@dataclass(frozen=True)
class Start:
    """A model's shape, its tokenizer's fingerprint, and how its weights get into a fresh model."""

    settings: ModelSettings
    vocab_size: int
    tokenizer: str
    fill: Callable[[nn.Module], None]


def open_start(path: str) -> Start:
    """UserError where there is no model, RunError where it is damaged."""
    folder = Path(path)
    if is_model_folder(folder):
        found = read_imported(folder)
        return Start(found.settings, found.vocab_size, found.tokenizer.fingerprint, found.fill)
    checkpoint = (folder / "index.json").exists()
    run = RunFolder(folder.parent.parent if checkpoint else folder)
    record = run.read_settings()
    if not checkpoint and not run.checkpoints.is_dir():
        raise UserError(f"pretrain.start_from {path}: has no checkpoint yet")

    def fill(model: nn.Module) -> None:
        if checkpoint:
            weights = CheckpointReader(folder, weights_only=True).weights()
        else:
            _, weights = newest_weights(run.checkpoints)
        model.load_state_dict(weights, strict=True)

    corpus = record["corpus"]
    return Start(
        ModelSettings.model_validate(record["model"]), corpus["vocab_size"], corpus["tokenizer"], fill
    )


def check_start(start: Start, path: str, model: ModelSettings, tokenizer: str) -> None:
    """UserError where these settings or this tokenizer cannot take the weights."""
    theirs, ours = values_of_kind(start.settings, "identity"), values_of_kind(model, "identity")
    differing = [
        f"model.{name} is {ours[name]!r}, there {theirs[name]!r}"
        for name in ours
        if ours[name] != theirs[name] and name not in MAY_DIFFER
    ]
    if start.tokenizer != tokenizer:
        differing.append(
            f"the corpus was prepared with tokenizer {tokenizer}, the model has {start.tokenizer}: prepare "
            "it with --corpus.tokenizer.path"
        )
    if differing:
        raise UserError(f"pretrain.start_from {path}: another model: " + "; ".join(differing))
