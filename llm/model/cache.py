"""Keys and values of the tokens that a model has already seen.

Shapes: B rows, T new tokens, S tokens so far, G key/value heads, K head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 256  # tokens; the room is doubled from there, so that all copies together cost less than one more


class KeyValues:
    """One layer's keys and values, in memory that is taken before it is needed."""

    def __init__(self, context: int) -> None:
        """`context`: tokens that there can be at most."""
        self.context, self.length = context, 0
        self._keys = self._values = torch.empty(0)

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append [B, G, T, K] and return views of all that is there, [B, G, S, K]."""
        start, end = self.length, self.length + k.shape[2]
        if start == 0 or end > self._keys.shape[2]:
            self._grow(k, v, end)
        self._keys[:, :, start:end] = k
        self._values[:, :, start:end] = v
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]

    def keep(self, rows: Tensor) -> None:
        """Forget all but these rows (int64)."""
        self._keys, self._values = self._keys[rows], self._values[rows]

    def _grow(self, k: Tensor, v: Tensor, needed: int) -> None:
        if needed > self.context:
            raise ValueError(f"{needed} tokens are more than the cache's context of {self.context}")
        room = max(-(-needed // BLOCK) * BLOCK, 2 * self.length)
        batch, groups, _, size = k.shape
        keys = k.new_empty(batch, groups, min(room, self.context), size)
        values = torch.empty_like(keys)
        if self.length:
            keys[:, :, : self.length] = self._keys[:, :, : self.length]
            values[:, :, : self.length] = self._values[:, :, : self.length]
        self._keys, self._values = keys, values
