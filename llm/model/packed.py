"""A model's linear maps laid out for few rows at a time, as in writing one token after another.

What it gives stands in the generation rows of `python -m benchmarks models`.
"""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import Tensor, nn

from llm.model import onednn
from llm.model.head import LMHead, capped

FEWEST = 1 << 17  # rows times weights from which the 13 us that a call costs more are won back
NARROW = 512  # maps from fewer inputs are faster in the layout for any number of rows, up to a quarter

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class PackedLinear(nn.Module):
    """x W^T + b, with W in the blocks that oneDNN's kernels read."""

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        meant_for = None if linear.in_features < NARROW else rows
        self.weight = onednn.pack(linear.weight, meant_for)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.softcap = linear.softcap if isinstance(linear, LMHead) else None

    def forward(self, x: Tensor) -> Tensor:
        return capped(onednn.product(x, self.weight, self.bias), self.softcap)


def packed(model: AnyModule, rows: int) -> AnyModule:
    """A copy of the model for inference with `rows` rows a product; the model itself where that has no use.

    The copy shares what is no linear map, and holds those twice while it lives. It does not follow later
    changes of the weights. Only on CPUs of x86 and in fp32: elsewhere torch's own product is the fast one.
    """
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    if not onednn.can_pack(*weights):
        return model
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    double = copy.deepcopy(model, shared)
    for module in list(double.modules()):
        for name, child in list(module.named_children()):
            # Exactly these: one with adapters is more than its weight.
            if (
                isinstance(child, nn.Linear)
                and type(child) in (nn.Linear, LMHead)
                and child.weight.numel() * rows >= FEWEST
            ):
                setattr(module, name, PackedLinear(child, rows))
    return double
