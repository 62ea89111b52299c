"""Low-rank adapters to the files that peft reads: adapter_config.json, adapter_model.safetensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cluster.places import Place
from llm.exchange.architectures import Architecture
from llm.exchange.model_folder import new_folder
from llm.exchange.task_heads import TaskArchitecture
from llm.exchange.tensor_files import Entry, write_file
from llm.exchange.weights import Weight
from llm.settings import ModelSettings

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "base_model.model."
A, B = ".lora_a", ".lora_b"
TASKS = {
    "classification": "SEQ_CLS", "multi_label": "SEQ_CLS", "regression": "SEQ_CLS",
    "token_classification": "TOKEN_CLS", "question_answering": "QUESTION_ANS", "instruction": "CAUSAL_LM",
}  # fmt: skip
Rows = tuple[int, int]
"""First row of a linear map that an adapter moves, and how many."""


def write_adapter(
    out: Place,
    architecture: Architecture,
    kind: str,
    settings: ModelSettings,
    vocab_size: int,
    parts: Mapping[str, Sequence[Rows]],
    rank: int,
    alpha: float,
    read: Callable[[str], Tensor],
) -> list[str]:
    """Write the adapters, and the head, which was trained beside them; returns the names of the tensors.

    `parts`: of each adapted linear map of a block, such as attention.qkv, the rows with an adapter of their
    own; `read`: a tensor of ours by name. Who loads this gives peft the model that the training began with.
    """
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for weight in architecture.weights(settings, vocab_size):
        linear = weight.ours.removesuffix(".weight")
        if linear.startswith("blocks.") and linear.split(".", 2)[2] in parts and linear != weight.ours:
            rows = parts[linear.split(".", 2)[2]]
            for module, a, b in split(weight, rows, read(f"{linear}{A}"), read(f"{linear}{B}")):
                ranks[module] = len(a)
                tensors[f"{BASE}{module}.lora_A.weight"] = a
                tensors[f"{BASE}{module}.lora_B.weight"] = b
    own: list[str] = []
    if isinstance(architecture, TaskArchitecture):
        for weight in architecture.weights(settings, vocab_size):
            if weight.ours.startswith(("head.", "pooler.")):
                tensors |= {f"{BASE}{n}": t for n, t in weight.split(read(weight.ours)).items()}
        own = [architecture.head]
        if any("pooler" in name for name in tensors):
            own.append("pooler")
    config = config_of(kind, architecture.model_type == "gpt2", ranks, rank, alpha, own)
    with new_folder(out, CONFIG) as tmp:
        entries = [Entry(name, tuple(tensor.shape), torch.float32) for name, tensor in tensors.items()]
        write_file(tmp / WEIGHTS, entries, tensors.__getitem__)
        (tmp / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return list(tensors)


def split(weight: Weight, parts: Sequence[Rows], a: Tensor, b: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """(module, A [m r, D], B [its rows, m r]) of each module of theirs in which m parts lie.

    a [n r, D], b [sum of the parts' rows, r] as ours. Several parts in one module (GPT-2 has one map for
    queries, keys and values) are one adapter of m times the rank there, whose B is zero between the parts.
    """
    found, rank, first = [], b.shape[1], 0
    for name, rows in zip(weight.theirs, weight.rows or weight.shape[:1], strict=True):
        blocks: list[tuple[int, Tensor, Tensor]] = []
        at = 0
        for number, (start, count) in enumerate(parts):
            if first <= start < first + rows:
                own = a[number * rank : (number + 1) * rank]
                blocks.append((start - first, own, b[at : at + count]))
            at += count
        if blocks:
            whole = b.new_zeros(rows, rank * len(blocks))
            for number, (start, _, moved) in enumerate(blocks):
                whole[start : start + len(moved), number * rank : (number + 1) * rank] = moved
            module = name.removesuffix(".weight")
            found.append((module, torch.cat([own for _, own, _ in blocks]).contiguous(), whole))
        first += rows
    return found


def config_of(
    kind: str, conv: bool, ranks: Mapping[str, int], rank: int, alpha: float, own: list[str]
) -> dict[str, Any]:
    """adapter_config.json. `ranks`: of each adapted module; `conv`: its weights are [in, out]."""
    other = {module: found for module, found in ranks.items() if found != rank}
    return {
        "peft_type": "LORA",
        "task_type": TASKS[kind],
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": other,
        "alpha_pattern": {module: alpha * found / rank for module, found in other.items()},
        "target_modules": sorted(ranks),
        "modules_to_save": own or None,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": conv,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
    }
