"""What an engine differentiates: a model's loss, in the run's precision."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from llm.model import BERT, Model
from llm.model.inputs import Inputs

What = Literal["losses", "measures", "logits", "outputs"]
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Objective(nn.Module):
    """Wraps a model so that every engine calls one forward.

    The autocast stands here, inside the module, because DeepSpeed switches off an outer one; so precision is
    the same with every engine, and the weights stay fp32.
    """

    def __init__(self, model: Model, precision: str, z_loss: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.dtype = TYPES.get(precision)
        """Of the matrix products; None: of the weights."""
        if self.dtype is not None:
            # Norms keep fp32 weights under autocast on purpose; torch tells each process once that it has no
            # fused kernel for that.
            warnings.filterwarnings("ignore", "Mismatch dtype between input and weight", UserWarning)
        self.z_loss = z_loss
        self.compiled: Callable[[Inputs, float], Tensor] | None = None
        """The model's `losses`, where they are compiled as a whole (llm.train.compiling)."""

    def forward(self, inputs: Inputs, what: What = "losses") -> Tensor:
        """Sums in the order of the model's `terms` or `measured`; logits; what a task's head says of rows."""
        with torch.autocast(inputs.ids.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            if what == "losses":
                losses = self.compiled or self.model.losses
                return losses(inputs, self.z_loss)
            # Rows of other lengths, now and then: compiling for them would take longer than they do.
            with torch.compiler.set_stance("force_eager"):
                match what:
                    case "measures":
                        return self.model.measures(inputs)
                    case "outputs":
                        assert not isinstance(self.model, BERT), "it has heads of pretraining alone"
                        return self.model.outputs(inputs)
                return self.model(inputs.ids)
