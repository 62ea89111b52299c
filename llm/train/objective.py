"""What an engine differentiates: a model's loss, in the run's precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llm.model.gpt import GPT


class Objective(nn.Module):
    """Wraps a model so that every engine calls one forward.

    The autocast stands here, inside the module, because DeepSpeed switches off an outer one; so precision is
    the same with every engine, and the weights stay fp32.
    """

    def __init__(self, model: GPT, precision: str) -> None:
        super().__init__()
        self.model = model
        self.bf16 = precision == "bf16"

    def forward(
        self, ids_BT: Tensor, targets_BT: Tensor | None = None, weights_BT: Tensor | None = None
    ) -> Tensor:
        """Summed loss where targets are given, else logits."""
        with torch.autocast(ids_BT.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            if targets_BT is None or weights_BT is None:
                return self.model(ids_BT)
            return self.model.loss_sum(ids_BT, targets_BT, weights_BT)
