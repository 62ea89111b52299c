"""Losses by name: outputs of a head and what they should be, to a weighted sum.

Shapes: N examples, C classes. Sums, not means: they add up over micro-batches and workers, and are divided
once by the weights of the whole batch. A language model's cross-entropy over its vocabulary is in head.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def cross_entropy(logits_NC: Tensor, labels_N: Tensor, weights_N: Tensor) -> Tensor:
    """sum w * (logsumexp(z) - z[label]), in nats."""
    nats: Tensor = F.cross_entropy(logits_NC.float(), labels_N, reduction="none")
    return (nats * weights_N).sum()


def mse(values_N: Tensor, targets_N: Tensor, weights_N: Tensor) -> Tensor:
    """sum w * (value - target)^2."""
    return ((values_N.float() - targets_N).square() * weights_N).sum()


def hinge(logits_NC: Tensor, labels_N: Tensor, weights_N: Tensor) -> Tensor:
    """sum w * max(0, 1 - (z[label] - highest other z)) (Crammer and Singer 2001, section 3)."""
    logits_NC = logits_NC.float()
    own = logits_NC.gather(1, labels_N[:, None])
    others = logits_NC.scatter(1, labels_N[:, None], -torch.inf).max(1).values
    return ((1 - own[:, 0] + others).clamp(min=0) * weights_N).sum()


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "mse": mse, "hinge": hinge}
