"""Which tokens a token looks at, what it takes from them.

Shapes: B batch, T tokens that ask, S tokens that are seen, D width, H heads, G key/value heads, K head size.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from llm.model.positions import rotate
from llm.settings import ModelSettings

# The kernels of attention in the order in which each is tried where there is no mask, on Hopper GPUs. There
# cuDNN's trains 1.7 to 2.3 times as fast as FlashAttention 2, which some releases of torch put first; on
# other GPUs it is the slower one (github.com/huggingface/transformers/issues/48163). Its gradients are not
# equal to the bit each time: it is used where that is not asked for. None: in torch's own order, everywhere.
ON_HOPPER: list[SDPBackend] | None = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


class LayerCache(Protocol):
    """Keys and values of earlier tokens in one layer."""

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append [B, G, T, K] and return all that is there, [B, G, S, K]."""
        ...


@dataclass(frozen=True)
class Runs:
    """Documents of a batch laid end to end, for kernels of variable length."""

    ends: Tensor  # int32 [documents + 1]: where each begins, and the end of the last
    longest: int


@dataclass(frozen=True)
class Sight:
    """What each token may see and where it stands: made once a forward, for all layers.

    A mask is True where a token is seen, or a number that is added to the scores (-inf: not seen); None: the
    kernel's own causal or full attention.
    """

    rotary: tuple[Tensor, Tensor] | None  # cos and sin of the angles, [T, K/2] or [B, 1, T, K/2]
    causal: bool
    wide: Tensor | None  # mask of layers that see everything, [B or 1, H or 1, T, S]
    near: Tensor | None  # mask of layers with a sliding window
    runs: Runs | None = None
    window: int | None = None


def seen(
    asks: Tensor,
    there: Tensor,
    causal: bool,
    window: int | None,
    documents: Tensor | None,
) -> Tensor | None:
    """Bool [B or 1, 1, T, S], True where position `there` [S] is seen from `asks` [T]; None: all are.

    causal: j <= i. window w: i - w < j, and where both sides are seen |i - j| <= w div 2. documents [B, S]:
    equal numbers only.
    """
    distance = asks[:, None] - there[None, :]
    mask = None
    if causal:
        mask = distance >= 0
    if window is not None:
        near = distance < window if causal else distance.abs() <= window // 2
        mask = near if mask is None else mask & near
    if mask is not None:
        mask = mask[None, None]
    if documents is not None:
        same = (documents[:, -len(asks) :, None] == documents[:, None, :])[:, None]
        mask = same if mask is None else mask & same
    return mask


def with_distance(mask: Tensor | None, slopes: Tensor, asks: Tensor, there: Tensor) -> Tensor:
    """ALiBi: -slope * |i - j| [B or 1, H, T, S] where seen, else -inf (Press et al. 2022, section 3)."""
    bias = -slopes[:, None, None] * (asks[:, None] - there[None, :]).abs()
    return bias[None] if mask is None else bias[None].masked_fill(~mask, -torch.inf)


def kernels() -> contextlib.AbstractContextManager[object]:
    """The order of kernels for what is called inside, on the current GPU."""
    if ON_HOPPER is None or must_repeat() or not on_hopper():
        return contextlib.nullcontext()
    return sdpa_kernel(ON_HOPPER, set_priority=True)


@torch.compiler.assume_constant_result
def must_repeat() -> bool:
    """Whether equal calls must have results that are equal to the bit (pretrain.deterministic)."""
    return torch.are_deterministic_algorithms_enabled()


@torch.compiler.assume_constant_result
def on_hopper() -> bool:
    """Whether the current GPU is a Hopper (compute capability 9): H100, H200."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(K) + mask) V for each head (Vaswani et al. 2017, eq. 1).

    Q [B, H, T, K], K and V [B, G, S, K]; each key/value head serves H/G query heads (Ainslie et al. 2023).
    `qkv` gives all three in one product, rows in the order q heads, k heads, v heads. With qk_norm, RMSNorm
    over the K numbers of each head's query and key stands before the rotation (Henry et al. 2020).
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.heads, self.groups, self.size = settings.heads, settings.groups, settings.head_width
        self.dropout = settings.dropout
        rows = (self.heads + 2 * self.groups) * self.size
        self.qkv = nn.Linear(settings.width, rows, bias=settings.has_bias("qkv"))
        self.out = nn.Linear(self.heads * self.size, settings.width, bias=settings.has_bias("attention"))
        eps = settings.norm_eps or 1e-6
        self.q_norm = nn.RMSNorm(self.size, eps=eps) if settings.qk_norm else None
        self.k_norm = nn.RMSNorm(self.size, eps=eps) if settings.qk_norm else None

    def forward(
        self, x_BTD: Tensor, sight: Sight, is_global: bool, cache: LayerCache | None = None
    ) -> Tensor:
        batch, length, _ = x_BTD.shape
        heads = self.qkv(x_BTD).view(batch, length, self.heads + 2 * self.groups, self.size)
        q, k, v = (
            part.transpose(1, 2) for part in heads.split((self.heads, self.groups, self.groups), dim=2)
        )
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if sight.rotary is not None:
            q, k = rotate(q, *sight.rotary), rotate(k, *sight.rotary)
        q, k = q.to(v.dtype), k.to(v.dtype)  # norms give fp32 where autocast is on
        if cache is not None:
            k, v = cache.extend(k, v)
        if sight.runs is not None:
            y = self._attend_runs(q, k, v, sight, sight.runs, is_global)
        else:
            y = self._attend(q, k, v, sight, is_global)
        return self.out(y.transpose(1, 2).reshape(batch, length, self.heads * self.size))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, sight: Sight, is_global: bool) -> Tensor:
        mask = sight.wide if is_global else sight.near
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.to(q.dtype)
        with kernels() if q.is_cuda and mask is None else contextlib.nullcontext():
            return F.scaled_dot_product_attention(
                q, k, v,
                attn_mask=mask,
                dropout_p=self.dropout if self.training else 0.0,
                is_causal=mask is None and sight.causal,
                enable_gqa=self.groups != self.heads,
            )  # fmt: skip

    def _attend_runs(
        self, q: Tensor, k: Tensor, v: Tensor, sight: Sight, runs: Runs, is_global: bool
    ) -> Tensor:
        """Each document for itself, by torch's kernel of variable length (on GPUs, in half precision)."""
        from torch.nn.attention.varlen import varlen_attn

        batch, _, length, _ = q.shape
        q, k, v = (part.transpose(1, 2).reshape(batch * length, -1, self.size) for part in (q, k, v))
        if is_global or sight.window is None:
            window = (-1, 0 if sight.causal else -1)
        else:
            window = (sight.window - 1, 0) if sight.causal else (sight.window // 2,) * 2
        y = varlen_attn(
            q, k, v, runs.ends, runs.ends, runs.longest, runs.longest,
            window_size=window, enable_gqa=self.groups != self.heads,
        )  # fmt: skip
        assert isinstance(y, Tensor)
        return y.view(batch, length, self.heads, self.size).transpose(1, 2)
