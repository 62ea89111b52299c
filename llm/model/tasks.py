"""Which model a task needs, with whose weights it begins, what of it trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cluster.errors import RunError, UserError
from llm.finetune_settings import FinetuneSettings, LoraSettings
from llm.model.gpt import GPT
from llm.model.lora import A, B, add_lora, parts_of
from llm.model.task_model import Head, TaskModel
from llm.model.transformer import Transformer
from llm.settings import ModelSettings

OWN = ("head.", "pooler.")
"""Beginnings of the names of a head's parameters: what stands on the body."""
EMBEDDINGS = ("token_embed.", "position_embed.", "segment_embed.", "embed_norm.")


def make_task_model(
    settings: ModelSettings,
    vocab_size: int,
    head: Head | None,
    seed: int = 0,
    lora: LoraSettings | None = None,
) -> GPT | TaskModel:
    """A model for a task with fresh weights, a function of these values.

    `head` None: the GPT itself. With `lora` (and a rank above 0) its linear maps have adapters.
    """
    assert head is not None or settings.kind == "gpt", "check_task refuses it"
    model: GPT | TaskModel = (
        GPT(settings, vocab_size, seed) if head is None else TaskModel(settings, vocab_size, head, seed)
    )
    if lora is not None and lora.rank:
        add_lora(model, lora, seed)
    return model


def head_from(task: Mapping[str, Any]) -> Head | None:
    """The head of a run's record."""
    return Head(**task["head"]) if task.get("head") else None


def lora_from(task: Mapping[str, Any] | None) -> LoraSettings | None:
    """The adapters of a run's record; None where it has none."""
    return LoraSettings.model_validate(task["lora"]) if task and task.get("lora") else None


def fill_body(model: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Copy what another model has of the body, and its pooler; returns the names that stay fresh.

    Those are of the head and of adapters: a head learned something else. RunError where a tensor of the body
    is missing or has another shape.
    """
    fresh, problems = [], []
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # a tied one once
            found = weights.get(name)
            own = name.startswith("head.") or name.endswith((A, B))
            if own or (found is None and name.startswith("pooler.")):
                fresh.append(name)
            elif found is None:
                problems.append(f"{name} is missing")
            elif found.shape != parameter.shape:
                problems.append(f"{name} is {list(found.shape)}, should be {list(parameter.shape)}")
            else:
                parameter.copy_(found)
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise RunError(f"the start's weights do not fit the model: {'; '.join(problems[:4])}{more}")
    return fresh


def check_task(model: ModelSettings, settings: FinetuneSettings) -> None:
    """UserError where this model cannot learn the task, or not in this way."""
    kind, only = settings.task.kind, settings.train_only
    if kind == "instruction" and model.kind != "gpt":
        raise UserError("finetune.task.kind instruction is for a gpt, this model is a bert")
    if kind == "instruction" and only == "head":
        raise UserError(
            "finetune.train_only head: instruction has no head of its own; set it to last or all, or "
            "lora.rank above 0"
        )
    if only == "last" and settings.last_layers > model.layers:
        raise UserError(
            f"finetune.last_layers is {settings.last_layers}, the model has {model.layers} blocks"
        )
    if settings.lora.rank:
        parts_of(model, settings.lora)


def choose_trainable(model: Transformer, settings: FinetuneSettings) -> list[str]:
    """Freeze all parameters but those that the settings name; returns the names of those that train.

    head: the task's head, and a BERT's pooler, which stands below it for rows. last: these, the last blocks,
    and the norm after them. lora: adapters and head. UserError as of `check_task`.
    """
    check_task(model.settings, settings)
    chosen = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_trains(name, settings, model.settings.layers))
        if parameter.requires_grad:
            chosen.append(name)
    return chosen


def _trains(name: str, settings: FinetuneSettings, layers: int) -> bool:
    if name.startswith(OWN):
        return True
    if settings.lora.rank:
        return name.endswith((A, B))
    if settings.train_only == "last":
        block = _block(name)
        above = name.startswith("final_norm.")
        return above or (block is not None and block >= layers - settings.last_layers)
    return settings.train_only == "all"


def rate_of(name: str, settings: FinetuneSettings, layers: int) -> float:
    """A parameter's share of the learning rate: layer_decay once for each layer that stands above it.

    1 for the head and what stands on the blocks, d for the last block, d^2 for that before it, d^(layers + 1)
    for the embeddings (Howard and Ruder 2018, ULMFiT, section 3.2; Bao et al. 2022, BEiT, appendix).
    """
    if name.startswith(EMBEDDINGS):
        return float(settings.layer_decay ** (layers + 1))
    block = _block(name)
    return 1.0 if block is None else float(settings.layer_decay ** (layers - block))


def _block(name: str) -> int | None:
    """The number of the block that a parameter is in; None: it is in none."""
    return int(name.split(".")[1]) if name.startswith("blocks.") else None
