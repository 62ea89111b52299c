"""The parts of a transformer block beside attention: norms, activations, the feed-forward part.

Shapes: B batch, T tokens, D width, F inner size of the feed-forward part.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from llm.model.attention import Attention, LayerCache, Sight
from llm.settings import GATED, Activation, ModelSettings


def make_norm(settings: ModelSettings) -> nn.Module:
    """RMSNorm, x / sqrt(mean(x^2) + eps) * w (Zhang and Sennrich 2019), or LayerNorm,
    (x - mean) / sqrt(var + eps) * w + b (Ba et al. 2016), over D; w starts at 1, b at 0."""
    if settings.norm == "rmsnorm":
        return nn.RMSNorm(settings.width, eps=settings.norm_eps or 1e-6)
    return nn.LayerNorm(settings.width, eps=settings.norm_eps or 1e-5, bias=settings.has_bias("norm"))


def activate(x: Tensor, name: Activation) -> Tensor:
    """The activation itself; of a gated one, that of its gate.

    relu2: relu(x)^2 (So et al. 2021). gelu: x * Phi(x), gelu_tanh: its approximation by tanh (Hendrycks and
    Gimpel 2016). silu: x * sigmoid(x), the gate of swiglu; gelu is that of geglu (Shazeer 2020).
    """
    match name:
        case "sigmoid":
            return x.sigmoid()
        case "tanh":
            return x.tanh()
        case "relu":
            return F.relu(x)
        case "leaky_relu":
            return F.leaky_relu(x)
        case "relu2":
            return F.relu(x).square()
        case "gelu" | "geglu":
            return F.gelu(x)
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")
        case "silu" | "swiglu":
            return F.silu(x)


class FeedForward(nn.Module):
    """down(activation(up(x))); with a gate down(activation(gate(x)) * up(x)) (Shazeer 2020, eq. 6)."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        bias = settings.has_bias("feed_forward")
        self.activation = settings.activation
        self.up = nn.Linear(settings.width, settings.inner, bias=bias)
        self.gate = nn.Linear(settings.width, settings.inner, bias=bias) if self.activation in GATED else None
        self.down = nn.Linear(settings.inner, settings.width, bias=bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        if self.gate is not None:
            return self.down(activate(self.gate(x_BTD), self.activation) * self.up(x_BTD))
        return self.down(activate(self.up(x_BTD), self.activation))


class Block(nn.Module):
    """Attention, then the feed-forward part, each added to the stream.

    pre: x + part(norm(x)) (Xiong et al. 2020); post: norm(x + part(x)) (Vaswani et al. 2017).
    """

    def __init__(self, settings: ModelSettings, layer: int) -> None:
        super().__init__()
        self.attention_norm = make_norm(settings)
        self.attention = Attention(settings)
        self.feed_forward_norm = make_norm(settings)
        self.feed_forward = FeedForward(settings)
        self.dropout = settings.dropout
        self.is_global = settings.is_global(layer)
        self.norm_first = settings.norm_at == "pre"

    def forward(self, x_BTD: Tensor, sight: Sight, cache: LayerCache | None = None) -> Tensor:
        if self.norm_first:
            x_BTD = x_BTD + self._drop(
                self.attention(self.attention_norm(x_BTD), sight, self.is_global, cache)
            )
            return x_BTD + self._drop(self.feed_forward(self.feed_forward_norm(x_BTD)))
        x_BTD = self.attention_norm(x_BTD + self._drop(self.attention(x_BTD, sight, self.is_global, cache)))
        return self.feed_forward_norm(x_BTD + self._drop(self.feed_forward(x_BTD)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x
