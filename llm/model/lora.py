"""Low-rank adapters of linear maps (Hu et al. 2022): y = W x + (alpha / rank) B A x, W as it was.

Shapes: R rows of the linear map, D its columns, r rank, n maps within it that are adapted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cluster.errors import UserError
from data_jobs.hashes import h64
from llm.finetune_settings import LORA_TARGETS, LoraSettings
from llm.model.transformer import Transformer
from llm.settings import GATED, ModelSettings

A, B = ".lora_a", ".lora_b"


class Part(NamedTuple):
    """Rows [first, first + rows) of a linear map, which an adapter of their own moves."""

    target: str
    """Of `LORA_TARGETS`."""
    first: int
    rows: int


def parts_of(settings: ModelSettings, lora: LoraSettings) -> dict[str, list[Part]]:
    """Each adapted linear map of a block to the parts of it. UserError where the model has not got one.

    Queries, keys and values are rows of one map here, with an adapter each.
    """
    if not lora.targets:
        raise UserError("finetune.lora.targets is empty: name the linear maps that get an adapter")
    if "gate" in lora.targets and settings.activation not in GATED:
        raise UserError(
            f"finetune.lora.targets: gate: this model's feed-forward part has none (model.activation is "
            f"{settings.activation}); leave it out"
        )
    q, kv = settings.heads * settings.head_width, settings.groups * settings.head_width
    inner, width = settings.inner, settings.width
    places = {
        "q": ("attention.qkv", 0, q),
        "k": ("attention.qkv", q, kv),
        "v": ("attention.qkv", q + kv, kv),
        "o": ("attention.out", 0, width),
        "up": ("feed_forward.up", 0, inner),
        "gate": ("feed_forward.gate", 0, inner),
        "down": ("feed_forward.down", 0, width),
    }
    found: dict[str, list[Part]] = {}
    for target in LORA_TARGETS:
        if target in lora.targets:
            linear, first, rows = places[target]
            found.setdefault(linear, []).append(Part(target, first, rows))
    return found


def spread(b: Tensor, parts: list[Part], rows: int) -> Tensor:
    """B of all parts, one after the other [sum of their rows, r], as one matrix [R, n r].

    Part i has its rows and columns [i r, (i + 1) r); all else is zero, so that with A [n r, D] one product
    does for all.
    """
    rank, at = b.shape[1], 0
    if len(parts) == 1 and parts[0].rows == rows:
        return b
    whole = b.new_zeros(rows, len(parts) * rank)
    for number, part in enumerate(parts):
        own = b[at : at + part.rows]
        whole[part.first : part.first + part.rows, number * rank : (number + 1) * rank] = own
        at += part.rows
    return whole


class LoraLinear(nn.Linear):
    """A linear map with adapters. `lora_a` [n r, D], `lora_b` [sum of the parts' rows, r]."""

    def __init__(
        self, linear: nn.Linear, parts: list[Part], lora: LoraSettings, name: str, seed: int
    ) -> None:
        """In place of `linear`, whose weights it takes. A is drawn as a function of (seed, name, target),
        uniformly within 1 / sqrt(D) (Kaiming's with a = sqrt(5), as peft has it); B is zero."""
        columns, rows = linear.in_features, linear.out_features
        super().__init__(columns, rows, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.parts, self.scale = parts, lora.alpha / lora.rank
        drawn = []
        for part in parts:
            generator = torch.Generator().manual_seed(h64(seed, "init", f"{name}{A}", part.target) >> 1)
            drawn.append(torch.rand(lora.rank, columns, generator=generator) * 2 - 1)
        self.lora_a = nn.Parameter(torch.cat(drawn) / math.sqrt(columns))
        self.lora_b = nn.Parameter(torch.zeros(sum(part.rows for part in parts), lora.rank))

    def forward(self, x: Tensor) -> Tensor:
        low = self.scale * F.linear(x, self.lora_a)  # scaled where it is small
        moved = F.linear(low, spread(self.lora_b, self.parts, self.out_features))
        return F.linear(x, self.weight, self.bias) + moved


def add_lora(model: Transformer, lora: LoraSettings, seed: int = 0) -> None:
    """Give each block's target maps their adapters, in place. UserError where the model has not got one."""
    for linear, parts in parts_of(model.settings, lora).items():
        part_name, own = linear.split(".")
        for layer, block in enumerate(model.blocks):
            holder = getattr(block, part_name)
            name = f"blocks.{layer}.{linear}"
            setattr(holder, own, LoraLinear(getattr(holder, own), parts, lora, name, seed))


def delta(name: str, a: Tensor, b: Tensor, settings: ModelSettings, lora: LoraSettings) -> Tensor:
    """What the adapters of a linear map, such as `blocks.0.attention.qkv`, add to its weight, [R, D]."""
    parts = parts_of(settings, lora)[name.split(".", 2)[2]]
    rows = {"attention.qkv": (settings.heads + 2 * settings.groups) * settings.head_width}
    whole = rows.get(name.split(".", 2)[2], parts[0].rows)
    return lora.alpha / lora.rank * (spread(b, parts, whole) @ a)


def merged(
    weights: Mapping[str, Tensor], settings: ModelSettings, lora: LoraSettings | None
) -> dict[str, Tensor]:
    """The weights of a model without adapters that computes the same: W + (alpha / rank) B A."""
    found = {name: tensor for name, tensor in weights.items() if not name.endswith((A, B))}
    if lora is None:
        return found
    for name in [name.removesuffix(A) for name in weights if name.endswith(A)]:
        weight = f"{name}.weight"
        own = delta(name, weights[f"{name}{A}"], weights[f"{name}{B}"], settings, lora)
        found[weight] = found[weight] + own
    return found
