"""What an engine differentiates: a model's loss, in the run's precision."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from llm.model import Model
from llm.model.inputs import Inputs

What = Literal["losses", "measures", "logits"]


class Objective(nn.Module):
    """Wraps a model so that every engine calls one forward.

    The autocast stands here, inside the module, because DeepSpeed switches off an outer one; so precision is
    the same with every engine, and the weights stay fp32.
    """

    def __init__(self, model: Model, precision: str, z_loss: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.bf16 = precision == "bf16"
        if self.bf16:
            # Norms keep fp32 weights under autocast on purpose; torch tells each process once that it has no
            # fused kernel for that.
            warnings.filterwarnings("ignore", "Mismatch dtype between input and weight", UserWarning)
        self.z_loss = z_loss

    def forward(self, inputs: Inputs, what: What = "losses") -> Tensor:
        """Sums in the order of the model's `terms` or `measured`, or logits."""
        with torch.autocast(inputs.ids.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            if what == "losses":
                return self.model.losses(inputs, self.z_loss)
            if what == "measures":
                return self.model.measures(inputs)
            return self.model(inputs.ids)
