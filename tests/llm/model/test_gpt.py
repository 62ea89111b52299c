"""The GPT against torch's own formulas, and the properties that training rests on."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from llm.model.gpt import GPT
from llm.model.parts import Attention, rotary_table, rotate
from llm.settings import ModelSettings
from llm.train.objective import Objective

BASE = ModelSettings(layers=2, width=24, heads=2, context=12)
VARIANTS = [
    BASE,
    BASE.model_copy(update={"position": "learned", "norm": "layernorm", "tied": False}),
    BASE.model_copy(update={"activation": "swiglu", "hidden": 40}),
    BASE.model_copy(update={"activation": "relu2"}),
]


@pytest.mark.parametrize("settings", VARIANTS)
def test_no_token_sees_a_later_one(settings: ModelSettings) -> None:
    model = GPT(settings, 50, seed=1)
    ids = torch.randint(0, 50, (3, 12), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 50
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_attention_is_the_formula() -> None:
    """softmax(Q K^T / sqrt(K)) V written out, heads one by one."""
    torch.manual_seed(0)
    attention, x = Attention(BASE), torch.randn(2, 5, 24)
    rotary = rotary_table(5, 12)
    q, k, v = attention.qkv(x).split(24, -1)
    heads = []
    for h in range(2):
        a, b, c = (t[..., h * 12 : h * 12 + 12] for t in (q, k, v))
        scores = rotate(a, *rotary) @ rotate(b, *rotary).transpose(1, 2) / math.sqrt(12)
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
        heads.append(scores.softmax(-1) @ c)
    torch.testing.assert_close(attention(x, rotary), attention.out(torch.cat(heads, -1)))


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    cos, sin = rotary_table(32, 8)
    q, k = torch.randn(8), torch.randn(8)
    turned_q, turned_k = rotate(q.expand(32, 8), cos, sin), rotate(k.expand(32, 8), cos, sin)
    scores = turned_q @ turned_k.T
    for distance in (0, 3, 11):
        line = scores.diagonal(distance)
        torch.testing.assert_close(line, line[:1].expand_as(line), rtol=0, atol=1e-4)
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(32))


def test_loss_sum_weighs_tokens() -> None:
    model = GPT(BASE, 50, seed=1)
    ids = torch.randint(0, 50, (3, 13), generator=torch.Generator().manual_seed(0))
    weights = torch.zeros(3, 12)
    weights[0, 2], weights[2, 11] = 1, 1
    losses = F.cross_entropy(model(ids[:, :-1]).transpose(1, 2), ids[:, 1:], reduction="none")
    found = model.loss_sum(ids[:, :-1], ids[:, 1:], weights)
    torch.testing.assert_close(found, losses[0, 2] + losses[2, 11])


def test_initial_weights_hang_on_seed_and_name_alone() -> None:
    """A deeper model has the same first block; another seed another one; spreads are as published."""
    a, b = GPT(BASE, 50, seed=1), GPT(BASE.model_copy(update={"layers": 3}), 60, seed=1)
    name = "blocks.0.attention.qkv.weight"
    assert torch.equal(a.get_parameter(name), b.get_parameter(name))
    assert not torch.equal(a.get_parameter(name), GPT(BASE, 50, seed=2).get_parameter(name))
    big = GPT(ModelSettings(layers=8, width=256, heads=4, context=8), 512)
    assert big.get_parameter(name).std().item() == pytest.approx(0.02, rel=0.02)
    out = big.get_parameter("blocks.3.feed_forward.down.weight")
    assert out.std().item() == pytest.approx(0.02 / math.sqrt(16), rel=0.02)
    assert torch.equal(big.get_parameter("final_norm.weight"), torch.ones(256))


def test_counts_and_tying() -> None:
    tied, untied = GPT(BASE, 50), GPT(BASE.model_copy(update={"tied": False}), 50)
    per_block = 24 * 72 + 24 * 24 + 2 * 24 * 96 + 2 * 24
    assert tied.parameter_count() == 50 * 24 + 2 * per_block + 24
    assert untied.parameter_count() == tied.parameter_count() + 50 * 24
    assert tied.lm_head.weight is tied.token_embed.weight


def test_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="13 tokens are more than the model's context of 12"):
        GPT(BASE, 50)(torch.zeros(1, 13, dtype=torch.long))


@pytest.mark.parametrize(("field", "value"), [("heads", 5), ("width", 23), ("heads", 8)])
def test_impossible_shapes(field: str, value: int) -> None:
    with pytest.raises(ValueError, match="heads|head size"):
        ModelSettings.model_validate(BASE.model_dump() | {field: value})


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 3e-2)])
def test_chunked_loss_and_gradients_are_the_plain_ones(precision: str, tolerance: float) -> None:
    """Against cross_entropy on whole logits, over several chunks and with unequal weights."""
    model = Objective(GPT(BASE, 50, seed=1), precision)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 50, (100, 13), generator=generator)  # 1,200 targets: more than two chunks
    weights = torch.rand(100, 12, generator=generator)
    found = model(ids[:, :-1], ids[:, 1:], weights) * 0.01
    found.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    logits = model(ids[:, :-1]).float()
    losses = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    truth = (losses * weights).sum() * 0.01
    truth.backward()
    torch.testing.assert_close(found, truth, rtol=tolerance, atol=0)
    for name, p in model.named_parameters():
        assert p.grad is not None and gradients[name] is not None
        scale = p.grad.abs().max().item()
        torch.testing.assert_close(gradients[name], p.grad, rtol=0, atol=tolerance * scale, msg=name)
    with torch.no_grad():
        assert torch.equal(model(ids[:, :-1], ids[:, 1:], weights) * 0.01, found)
