"""Where a token stands, as numbers: rotary angles, sinusoids, and ALiBi's slopes.

Shapes: T positions, K head size, D width, H heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llm.settings import RotarySettings


def rotary_frequencies(head_size: int, rotary: RotarySettings) -> Tensor:
    """Radians a position, fp64 [K/2]: base^(-2i/K) (Su et al. 2021, RoFormer, eq. 15), scaled where wanted.

    linear: all / factor (Chen et al. 2023). llama3: those that turn less than `low_factor` times in the
    original context / factor, those above `high_factor` as they are, between them a mixture (Llama 3.1).
    yarn: the mixture is linear in the dimension, between those that turn `fast_turns` and `slow_turns` times
    (Peng et al. 2023, section 3.2).
    """
    frequency = rotary.base ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    if rotary.scaling == "none":
        return frequency
    slow = frequency / rotary.factor
    if rotary.scaling == "linear":
        return slow
    if rotary.scaling == "llama3":
        turns = rotary.original_context * frequency / (2 * math.pi)
        keep = (turns - rotary.low_factor) / (rotary.high_factor - rotary.low_factor)
    else:
        first = max(math.floor(_dimension_of(rotary.fast_turns, head_size, rotary)), 0)
        last = min(math.ceil(_dimension_of(rotary.slow_turns, head_size, rotary)), head_size - 1)
        keep = 1 - (torch.arange(head_size // 2, dtype=torch.float64) - first) / max(last - first, 0.001)
    keep = keep.clamp(0, 1)
    return slow * (1 - keep) + frequency * keep


def _dimension_of(turns: float, head_size: int, rotary: RotarySettings) -> float:
    """The pair of dimensions that turns so many times in the original context."""
    angle = rotary.original_context / (turns * 2 * math.pi)
    return head_size * math.log(angle) / (2 * math.log(rotary.base))


def rotary_table(length: int, head_size: int, rotary: RotarySettings) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, K/2] of the angle position * frequency.

    yarn lengthens queries and keys by 0.1 ln(factor) + 1, which makes the softmax sharper.
    """
    positions = torch.arange(length, dtype=torch.float64)
    angle = torch.outer(positions, rotary_frequencies(head_size, rotary))
    scale = 0.1 * math.log(rotary.factor) + 1 if rotary.scaling == "yarn" else 1.0
    return (angle.cos() * scale).float(), (angle.sin() * scale).float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x_i, x_{i+K/2}) of heads [B, H, T, K] by its angle, [T, K/2] or [B, 1, T, K/2]."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def sinusoid_table(length: int, width: int) -> Tensor:
    """[T, D]: sin(position * 10000^(-2i/D)) in even places, cos in odd ones (Vaswani 2017, sec. 3.5)."""
    frequency = 10_000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency)
    table = torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)
    return table[:, :width].float()


def alibi_slopes(heads: int) -> Tensor:
    """[H]: 2^(-8h/H) for h = 1..H (Press et al. 2022, section 3).

    H that is no power of two: those of the power below, then every second one of twice that power, as in the
    authors' code.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    slopes += [2 ** (-4 * h / power) for h in range(1, 2 * (heads - power) + 1, 2)]
    return torch.tensor(slopes)
