"""The parts of a transformer block.

Shapes: B batch, T tokens, D width, H heads, K head size (D = H*K), F inner size of the feed-forward part.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.settings import ModelSettings


def make_norm(settings: ModelSettings) -> nn.Module:
    """The normalisation before each part (RMSNorm: Zhang and Sennrich 2019; LayerNorm: Ba et al. 2016)."""
    if settings.norm == "rmsnorm":
        return nn.RMSNorm(settings.width, eps=1e-6)
    return nn.LayerNorm(settings.width)


def rotary_table(length: int, head_size: int, base: float = 10000.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, K/2] of the angles position * base^(-2i/K) (Su et al. 2021, RoFormer, eq. 15)."""
    frequency = base ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency)
    return angle.cos().float(), angle.sin().float()


def rotate(x_BHTK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Turn each pair (x_i, x_{i+K/2}) of a head by its position's angle."""
    first, second = x_BHTK.chunk(2, dim=-1)
    cos, sin = cos_TK.to(x_BHTK.dtype), sin_TK.to(x_BHTK.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Attention(nn.Module):
    """Causal self-attention: softmax(Q K^T / sqrt(K)) V for each head (Vaswani et al. 2017, eq. 1)."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.heads = settings.heads
        self.dropout = settings.dropout
        self.qkv = nn.Linear(settings.width, 3 * settings.width, bias=False)
        self.out = nn.Linear(settings.width, settings.width, bias=False)

    def forward(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        batch, length, width = x_BTD.shape
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2) for part in self.qkv(x_BTD).chunk(3, -1)
        )
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        dropout = self.dropout if self.training else 0.0
        y_BHTK = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.out(y_BHTK.transpose(1, 2).reshape(batch, length, width))


class FeedForward(nn.Module):
    """Two matrices with an activation between; swiglu has a gate beside it (Shazeer 2020)."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        inner = settings.hidden or 4 * settings.width
        self.activation = settings.activation
        self.up = nn.Linear(settings.width, inner, bias=False)
        self.gate = nn.Linear(settings.width, inner, bias=False) if settings.activation == "swiglu" else None
        self.down = nn.Linear(inner, settings.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        up_BTF = self.up(x_BTD)
        if self.gate is not None:
            return self.down(F.silu(self.gate(x_BTD)) * up_BTF)
        if self.activation == "relu2":
            return self.down(F.relu(up_BTF).square())
        return self.down(F.gelu(up_BTF))


class Block(nn.Module):
    """Pre-norm block: x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.attention_norm = make_norm(settings)
        self.attention = Attention(settings)
        self.feed_forward_norm = make_norm(settings)
        self.feed_forward = FeedForward(settings)
        self.dropout = settings.dropout

    def forward(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        x_BTD = x_BTD + self._drop(self.attention(self.attention_norm(x_BTD), rotary))
        return x_BTD + self._drop(self.feed_forward(self.feed_forward_norm(x_BTD)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x
