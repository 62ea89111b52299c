"""Loss on held-out text: summed over every token, and what it is a byte."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from llm.data.validation import Validation
from llm.train.group import Group

Forward = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class TextLoss:
    """Summed loss in nats over `tokens` tokens, and the UTF-8 bytes of cleaned text that they stand for."""

    loss_sum: float
    tokens: int
    bytes: float

    @property
    def loss(self) -> float:
        """Mean nats a token."""
        return self.loss_sum / self.tokens

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """Summed nats of every token, document ends included, / ln 2 / bytes of the cleaned text."""
        return self.loss_sum / math.log(2) / self.bytes


def text_loss(forward: Forward, rows: Validation, all_tokens: int, all_bytes: int, group: Group) -> TextLoss:
    """Evaluate `rows` on all workers together. A part of the split counts its share of the split's bytes."""
    total = torch.zeros((), dtype=torch.float64)
    for micro in rows:
        tensors = (torch.from_numpy(a).to(group.device) for a in (micro.inputs, micro.targets, micro.weights))
        total += forward(*tensors).double().cpu()
    loss_sum = group.sum([float(total)])[0]
    return TextLoss(loss_sum, rows.tokens, all_bytes * rows.tokens / all_tokens)
