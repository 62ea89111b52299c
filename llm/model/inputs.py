"""The tensors that a model takes: what crosses from a micro-batch to its loss.

Shapes: B rows, T tokens of a row, K targets of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Inputs(NamedTuple):
    """One forward with its targets. An absent part is None; missing rows and tokens have weight 0."""

    ids: Tensor  # int64 [B, T]
    targets: Tensor | None = None  # int64 [B, K]
    weights: Tensor | None = None  # fp32 [B, K]
    positions: Tensor | None = None  # int64 [B, K]: where in the row the targets stand; None: K = T, at each
    documents: Tensor | None = None  # int64 [B, T]: equal numbers see each other; None: all do
    segments: Tensor | None = None  # int64 [B, T]: 0 first part, 1 second part of a pair
    next_labels: Tensor | None = None  # int64 [B]: 0 the second part follows the first, 1 it is another's
    next_weights: Tensor | None = None  # fp32 [B]
    values: Tensor | None = None  # fp32 [B, K]: targets that are numbers, of a regression

    def to(self, device: torch.device) -> Inputs:
        """The same on a device."""
        moved = (None if part is None else part.to(device, non_blocking=True) for part in self)
        return Inputs._make(moved)
