"""Products with a weight in the blocks that oneDNN's kernels read, on CPUs of x86 and in fp32.

torch's own product goes to MKL, which for one row never uses a second thread, and which for some hundred rows
is slower by a tenth to a half where the outputs are many. `python -m benchmarks models` has what that gives.
These are the kernels of torch.compile; they have no public name.
"""

from __future__ import annotations

import torch
from torch import Tensor


def can_pack(*weights: Tensor) -> bool:
    """Whether this torch has the kernels, and they can take these weights."""
    return (
        bool(torch.backends.mkldnn.is_available())
        and all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
        and all(weight.device.type == "cpu" and weight.dtype == torch.float32 for weight in weights)
    )


def pack(weight: Tensor, rows: int | None) -> Tensor:
    """A copy of the weight [out, in] laid out for products with so many rows, or with any number."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)


def product(x: Tensor, packed: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b for W as `pack` gave it: [..., in] to [..., out]."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
