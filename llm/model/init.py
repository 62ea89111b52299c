"""Initial weights as a function of (seed, parameter name): the same on any worker, at any ZeRO stage."""

from __future__ import annotations

import math

import torch
from torch import nn

from data_jobs.hashes import h64
from llm.settings import ModelSettings

WRITE_TO_STREAM = ("attention.out.weight", "feed_forward.down.weight")


def initialise(model: nn.Module, seed: int, settings: ModelSettings) -> None:
    """Fill every matrix; vectors keep their start (ones of norms) or are zero (biases).

    normal: N(0, init_std^2). scaled: the same, with those that write to the residual stream divided by
    sqrt(2 layers) (Radford et al. 2019, GPT-2, section 2.3). xavier: variance 2 / (fan_in + fan_out)
    (Glorot and Bengio 2010, eq. 16), he: 2 / fan_in (He et al. 2015, eq. 10), each normal or uniform.
    Embeddings, and an output layer tied to one, are normal in every scheme.
    """
    embeds = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                if name.endswith("bias"):
                    parameter.zero_()
                continue
            generator = torch.Generator().manual_seed(h64(seed, "init", name) >> 1)
            scheme = "normal" if id(parameter) in embeds else settings.init
            fan_out, fan_in = parameter.shape
            std = deviation(scheme, name, fan_in, fan_out, settings)
            if scheme.endswith("uniform"):
                values = torch.rand(parameter.shape, generator=generator) * 2 - 1
                values *= std * math.sqrt(3)  # the variance of U(-a, a) is a^2 / 3
            else:
                values = torch.randn(parameter.shape, generator=generator) * std
            parameter.copy_(values)


def deviation(scheme: str, name: str, fan_in: int, fan_out: int, settings: ModelSettings) -> float:
    """The standard deviation of a matrix [fan_out, fan_in]."""
    if scheme.startswith("xavier"):
        return math.sqrt(2 / (fan_in + fan_out))
    if scheme.startswith("he"):
        return math.sqrt(2 / fan_in)
    if scheme == "scaled" and name.endswith(WRITE_TO_STREAM):
        return settings.init_std / math.sqrt(2 * settings.layers)
    return settings.init_std
