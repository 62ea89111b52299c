"""Initial weights as a function of (seed, parameter name): the same on any worker, at any ZeRO stage."""

from __future__ import annotations

import math

import torch
from torch import nn

from data_jobs.hashes import h64


def initialise(model: nn.Module, seed: int, std: float, layers: int) -> None:
    """Normal(0, std) for matrices; those that write to the residual stream divided by sqrt(2 layers).

    Source: Radford et al. 2019 (GPT-2), section 2.3. Vectors keep their module's own start (ones, zeros).
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                continue
            generator = torch.Generator().manual_seed(h64(seed, "init", name) >> 1)
            residual = name.endswith(("attention.out.weight", "feed_forward.down.weight"))
            scale = std / math.sqrt(2 * layers) if residual else std
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
