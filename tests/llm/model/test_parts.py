"""Every part against torch's own or its formula: activations, norms, positions, initial weights."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.model import make_model
from llm.model.gpt import GPT
from llm.model.parts import FeedForward, activate, make_norm
from llm.model.positions import alibi_slopes, rotary_frequencies, rotary_table, rotate, sinusoid_table
from llm.settings import Activation, ModelSettings, RotarySettings

BASE = ModelSettings(layers=2, width=24, heads=2, context=12)
X = torch.linspace(-6, 6, 201, dtype=torch.float64)
PHI = 0.5 * (1 + torch.erf(X / math.sqrt(2)))
TANH = 0.5 * X * (1 + torch.tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * X**3)))
REFERENCE = {
    "sigmoid": 1 / (1 + torch.exp(-X)),
    "tanh": (torch.exp(2 * X) - 1) / (torch.exp(2 * X) + 1),
    "relu": X.clamp(min=0),
    "leaky_relu": torch.where(X > 0, X, 0.01 * X),
    "relu2": X.clamp(min=0) ** 2,
    "gelu": X * PHI,
    "gelu_tanh": TANH,
    "silu": X / (1 + torch.exp(-X)),
    "swiglu": X / (1 + torch.exp(-X)),
    "geglu": X * PHI,
}


def settings(**changes: object) -> ModelSettings:
    return ModelSettings.model_validate(BASE.model_dump() | changes)


def test_no_activation_is_without_reference() -> None:
    assert set(REFERENCE) == set(get_args(Activation))


@pytest.mark.parametrize("name", REFERENCE)
def test_activations(name: Activation) -> None:
    torch.testing.assert_close(activate(X, name), REFERENCE[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", REFERENCE)
def test_feed_forward(name: Activation) -> None:
    """down(f(up(x))), and down(f(gate(x)) * up(x)) where there is a gate."""
    part = FeedForward(settings(activation=name, biases="feed_forward"))
    x = torch.randn(3, 24)
    up = x @ part.up.weight.T + part.up.bias
    inner = activate(up, name)
    if name in ("swiglu", "geglu"):
        assert part.gate is not None
        inner = activate(x @ part.gate.weight.T + part.gate.bias, name) * up
    torch.testing.assert_close(part(x), inner @ part.down.weight.T + part.down.bias)


@pytest.mark.parametrize(("norm", "eps"), [("rmsnorm", None), ("rmsnorm", 0.1), ("layernorm", None)])
def test_norms(norm: str, eps: float | None) -> None:
    part = make_norm(settings(norm=norm, norm_eps=eps, biases="all"))
    x = torch.randn(3, 24) * 0.3 + 1
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.copy_(torch.randn(24))
    weight = part.get_parameter("weight")
    if norm == "rmsnorm":
        expected = x / (x.square().mean(-1, keepdim=True) + (eps or 1e-6)).sqrt() * weight
    else:
        centred = x - x.mean(-1, keepdim=True)
        expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight
        expected = expected + part.get_parameter("bias")
    torch.testing.assert_close(part(x), expected)


def test_pre_and_post_norm_blocks() -> None:
    """x + f(norm(x)) and norm(x + f(x)), written out."""
    ids = torch.randint(0, 50, (2, 6))
    for norm_at in ("pre", "post"):
        model = GPT(settings(layers=1, position="none", norm_at=norm_at), 50)
        block: nn.Module = model.blocks[0]
        a, f, n1, n2 = (
            block.get_submodule(name)
            for name in ("attention", "feed_forward", "attention_norm", "feed_forward_norm")
        )
        x = model.token_embed(ids)
        sight = model._sight(torch.arange(6), torch.arange(6), torch.arange(6), None, x)
        if norm_at == "pre":
            x = x + a(n1(x), sight, True)
            x = x + f(n2(x))
            assert model.final_norm is not None
            expected = model.final_norm(x)
        else:
            x = n1(x + a(x, sight, True))
            expected = n2(x + f(x))
            assert model.final_norm is None
        torch.testing.assert_close(model.hidden(ids), expected)


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    cos, sin = rotary_table(32, 8, RotarySettings())
    q, k = torch.randn(8), torch.randn(8)
    turned_q, turned_k = rotate(q.expand(32, 8), cos, sin), rotate(k.expand(32, 8), cos, sin)
    scores = turned_q @ turned_k.T
    for distance in (0, 3, 11):
        line = scores.diagonal(distance)
        torch.testing.assert_close(line, line[:1].expand_as(line), rtol=0, atol=1e-4)
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(32))


def test_rotary_is_a_turn_of_complex_numbers() -> None:
    cos, sin = rotary_table(16, 8, RotarySettings(base=500.0))
    x = torch.randn(16, 8)
    turned = torch.complex(x[:, :4], x[:, 4:]) * torch.exp(
        1j * torch.arange(16)[:, None] * 500.0 ** (-torch.arange(4) / 4)
    )
    torch.testing.assert_close(
        rotate(x, cos, sin), torch.cat((turned.real, turned.imag), -1).float(), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("scaling", ["linear", "llama3", "yarn"])
def test_rotary_scaling_is_that_of_transformers(scaling: str) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rotary = RotarySettings.model_validate(
        {"base": 10_000.0, "scaling": scaling, "factor": 4.0, "original_context": 64}
    )
    parameters = {
        "rope_type": scaling, "rope_theta": 10_000.0, "factor": 4.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    }  # fmt: skip
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=2, max_position_embeddings=256, rope_parameters=parameters
    )
    theirs, scale = ROPE_INIT_FUNCTIONS[scaling](config, torch.device("cpu"))
    ours = rotary_frequencies(32, rotary)
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-5, atol=0)
    cos, _ = rotary_table(3, 32, rotary)
    torch.testing.assert_close(cos[0], torch.full((16,), float(scale)))


def test_sinusoids() -> None:
    table = sinusoid_table(20, 6)
    for position in (0, 7, 19):
        for i in range(3):
            angle = position / 10_000 ** (2 * i / 6)
            assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize("heads", [1, 8, 6, 12])
def test_alibi_slopes_are_those_of_transformers(heads: int) -> None:
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    theirs: Tensor = build_alibi_tensor(torch.ones(1, 5), heads, torch.float32)
    torch.testing.assert_close(alibi_slopes(heads), theirs.reshape(heads, 5)[:, 1])


SCHEMES = {
    "normal": lambda fan_in, fan_out: 0.02,
    "xavier_uniform": lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),
    "xavier_normal": lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),
    "he_uniform": lambda fan_in, fan_out: math.sqrt(2 / fan_in),
    "he_normal": lambda fan_in, fan_out: math.sqrt(2 / fan_in),
}
IS_THEIRS = {
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "he_uniform": lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu"),
    "he_normal": lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"),
}


@pytest.mark.parametrize("scheme", [*SCHEMES, "scaled"])
def test_initial_weights_have_the_mean_and_variance_of_their_scheme(scheme: str) -> None:
    """Over 8 seeds, within 4 standard errors; uniform ones in their bounds; as torch.nn.init draws."""
    shape = settings(width=64, heads=2, hidden=96, layers=3, init=scheme)
    models = [GPT(shape, 300, seed=seed) for seed in range(8)]
    for name in ("attention.qkv.weight", "attention.out.weight", "feed_forward.down.weight"):
        values = torch.stack([m.get_parameter(f"blocks.1.{name}").detach() for m in models])
        _, fan_out, fan_in = values.shape
        if scheme == "scaled":
            std = 0.02 if "qkv" in name else 0.02 / math.sqrt(6)
        else:
            std = SCHEMES[scheme](fan_in, fan_out)
        count = values.numel()
        assert abs(values.mean().item()) < 4 * std / math.sqrt(count)
        assert values.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * count))
        if scheme in IS_THEIRS:
            theirs = torch.stack([IS_THEIRS[scheme](torch.empty(fan_out, fan_in)) for _ in range(8)])
            assert values.var().item() == pytest.approx(theirs.var().item(), rel=0.04)
        if scheme.endswith("uniform"):
            assert values.abs().max().item() <= math.sqrt(3) * std
            assert values.abs().max().item() > 0.999 * math.sqrt(3) * std
        else:  # the fourth moment tells a normal from a uniform distribution: 3 and 1.8
            assert ((values / std) ** 4).mean().item() == pytest.approx(3, rel=0.1)
    embeds = torch.stack([m.token_embed.weight.detach() for m in models])
    assert embeds.std().item() == pytest.approx(0.02, rel=0.01)


def test_initial_weights_hang_on_seed_and_name_alone() -> None:
    """A deeper model has the same first block; another seed another one; norms are 1, biases 0."""
    a, b = GPT(settings(init="normal"), 50, seed=1), GPT(settings(init="normal", layers=3), 60, seed=1)
    name = "blocks.0.attention.qkv.weight"
    assert torch.equal(a.get_parameter(name), b.get_parameter(name))
    assert not torch.equal(a.get_parameter(name), GPT(BASE, 50, seed=2).get_parameter(name))
    bert = make_model(settings(kind="bert", biases="all", norm="layernorm"), 50)
    for key, parameter in bert.named_parameters():
        if parameter.dim() < 2:
            assert torch.equal(parameter, torch.full_like(parameter, not key.endswith("bias"))), key


def test_xavier_leaves_embeddings_normal_and_a_free_output_layer_not() -> None:
    model = GPT(settings(init="xavier_uniform", tied=False), 5000)
    limit = math.sqrt(6 / (24 + 5000))
    assert model.lm_head.weight.abs().max().item() <= limit < model.token_embed.weight.abs().max().item()


def test_leaky_slope_is_torchs() -> None:
    torch.testing.assert_close(activate(X, "leaky_relu"), F.leaky_relu(X))
