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


def binary_cross_entropy(logits_NC: Tensor, labels_NC: Tensor, weights_NC: Tensor) -> Tensor:
    """sum w * (log(1 + exp(z)) - label * z), in nats, of classes that are each there (1) or not (0)."""
    nats = F.binary_cross_entropy_with_logits(logits_NC.float(), labels_NC.float(), reduction="none")
    return (nats * weights_NC).sum()


def binary_hinge(logits_NC: Tensor, labels_NC: Tensor, weights_NC: Tensor) -> Tensor:
    """sum w * max(0, 1 - y z) with y = 1 where the class is there, else -1 (Cortes and Vapnik 1995)."""
    signs_NC = 2 * labels_NC.float() - 1
    return ((1 - signs_NC * logits_NC.float()).clamp(min=0) * weights_NC).sum()


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "mse": mse,
    "hinge": hinge,
    "binary_cross_entropy": binary_cross_entropy,
    "binary_hinge": binary_hinge,
}
