"""GPT and BERT: their losses against torch's own on whole logits, and what training rests on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from llm.model import head, make_model
from llm.model.bert import BERT
from llm.model.gpt import GPT
from llm.model.inputs import Inputs
from llm.model.losses import LOSSES
from llm.settings import ModelSettings
from llm.train.objective import Objective

BASE = ModelSettings(layers=2, width=24, heads=2, context=12)
BERT_BASE = ModelSettings(kind="bert", layers=2, width=24, heads=2, context=12)
VARIANTS = [
    BASE,
    BASE.model_copy(update={"position": "learned", "norm": "layernorm", "tied": False}),
    BASE.model_copy(update={"activation": "swiglu", "hidden": 40, "kv_heads": 1, "qk_norm": True}),
    BASE.model_copy(update={"position": "alibi", "biases": "all", "norm_at": "post"}),
    BASE.model_copy(update={"position": "sinusoidal", "window": 4, "global_every": 2}),
    BASE.model_copy(update={"position": "none", "softcap": 3.0}),
]


def draw(*shape: int, below: int = 50, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, below, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("settings", VARIANTS)
def test_no_token_of_a_gpt_sees_a_later_one(settings: ModelSettings) -> None:
    model = GPT(settings, 50, seed=1)
    ids = draw(3, 12)
    changed = ids.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 50
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_each_token_of_a_bert_sees_all() -> None:
    model = BERT(BERT_BASE, 50, seed=1)
    ids = draw(2, 12)
    changed = ids.clone()
    changed[:, 11] = (changed[:, 11] + 1) % 50
    moved = (model(ids) - model(changed)).abs().amax(-1)
    assert (moved > 1e-6).all()


def test_losses_weigh_tokens() -> None:
    model = GPT(BASE, 50, seed=1)
    ids = draw(3, 13)
    weights = torch.zeros(3, 12)
    weights[0, 2], weights[2, 11] = 1, 1
    losses = F.cross_entropy(model(ids[:, :-1]).transpose(1, 2), ids[:, 1:], reduction="none")
    found, extra = model.losses(Inputs(ids[:, :-1], ids[:, 1:], weights))
    torch.testing.assert_close(found, losses[0, 2] + losses[2, 11])
    assert extra == 0


@pytest.mark.parametrize("changes", [{}, {"softcap": 2.0}, {"tied": False}])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("packed_from", [0, 10_000])
def test_chunked_loss_and_gradients_are_the_plain_ones(
    packed_from: int, precision: str, z_loss: float, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against cross_entropy on whole logits, over several chunks, parts of one, and with unequal weights."""
    monkeypatch.setattr(head, "PACKED_FROM", packed_from)
    monkeypatch.setattr(head, "IN_CACHE", 130 * 50)
    monkeypatch.setattr(head, "AT_ONCE", 500 * 50)
    tolerance = 1e-5 if precision == "fp32" else 3e-2
    settings = ModelSettings.model_validate(BASE.model_dump() | changes | {"init_std": 0.2})
    model = Objective(GPT(settings, 50, seed=1), precision, z_loss)
    ids = draw(100, 13)  # 1,200 targets
    weights = torch.rand(100, 12, generator=torch.Generator().manual_seed(0))
    inputs = Inputs(ids[:, :-1], ids[:, 1:], weights)
    found = model(inputs)
    (found.sum() * 0.01).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    logits = model(inputs, "logits").float()
    nats = (F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none") * weights).sum()
    z = z_loss * (logits.logsumexp(-1).square() * weights).sum()
    ((nats + z) * 0.01).backward()
    torch.testing.assert_close(found, torch.stack((nats, z)), rtol=tolerance, atol=1e-6)
    for name, p in model.named_parameters():
        assert p.grad is not None and gradients[name] is not None
        scale = p.grad.abs().max().item()
        torch.testing.assert_close(gradients[name], p.grad, rtol=0, atol=tolerance * scale, msg=name)
    with torch.no_grad():
        assert torch.equal(model(inputs), found)


def bert_inputs(rows: int = 60) -> Inputs:
    """Rows with padding, guesses at some places, and pairs of which some weigh nothing."""
    ids = draw(rows, 12)
    documents = (torch.arange(12) >= draw(rows, 1, below=6, seed=3) + 7).long()
    weights = (torch.rand(rows, 4, generator=torch.Generator().manual_seed(1)) > 0.3).float()
    return Inputs(
        ids, draw(rows, 4, seed=2), weights, torch.argsort(torch.rand(rows, 12), 1)[:, :4], documents,
        (torch.arange(12) >= 5).long().expand(rows, 12), draw(rows, below=2, seed=4),
        (torch.arange(rows) % 5 > 0).float(),
    )  # fmt: skip


def test_bert_losses_and_gradients_are_the_plain_ones() -> None:
    """Guessed places taken before the output layer, against all logits and an ignore index."""
    model, inputs = BERT(BERT_BASE, 50, seed=1), bert_inputs()
    found = model.losses(inputs)
    (found * torch.tensor([0.1, 0.0, 1.0])).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    assert inputs.positions is not None and inputs.targets is not None and inputs.weights is not None
    assert inputs.next_labels is not None and inputs.next_weights is not None
    hidden = model.hidden(inputs.ids, inputs.documents, inputs.segments)
    labels = torch.full((60, 12), -100).scatter(
        1, inputs.positions, inputs.targets.masked_fill(inputs.weights == 0, -100)
    )
    logits = model.lm_head(model.lm_transform(hidden))
    mlm = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    pairs = F.cross_entropy(model.next_logits(hidden), inputs.next_labels, reduction="none")
    nsp = (pairs * inputs.next_weights).sum()
    (mlm * 0.1 + nsp).backward()
    torch.testing.assert_close(found[[0, 2]], torch.stack((mlm, nsp)), rtol=1e-5, atol=0)
    for name, p in model.named_parameters():
        assert p.grad is not None and gradients[name] is not None
        scale = p.grad.abs().max().item()
        torch.testing.assert_close(gradients[name], p.grad, rtol=0, atol=1e-5 * scale, msg=name)
    right = (logits.argmax(-1) == labels).sum()
    followed = ((model.next_logits(hidden).argmax(1) == inputs.next_labels) * inputs.next_weights).sum()
    measured = model.measures(inputs)
    torch.testing.assert_close(measured, torch.stack((mlm, right, nsp, followed)), rtol=1e-5, atol=0)


def test_bert_padding_changes_nothing() -> None:
    model, inputs = BERT(BERT_BASE, 50, seed=1), bert_inputs()
    assert inputs.documents is not None and inputs.segments is not None
    other = torch.where(inputs.documents == 1, (inputs.ids + 7) % 50, inputs.ids)
    a = model.hidden(inputs.ids, inputs.documents, inputs.segments)
    b = model.hidden(other, inputs.documents, inputs.segments)
    real = inputs.documents == 0
    assert torch.equal(a[real], b[real])
    length = int(real[0].sum())
    alone = model.hidden(inputs.ids[:1, :length], None, inputs.segments[:1, :length])
    torch.testing.assert_close(a[0, :length], alone[0], rtol=0, atol=1e-5)


def test_a_bert_without_next_sentence_has_no_such_head() -> None:
    model = make_model(BERT_BASE.model_copy(update={"next_sentence": False}), 50)
    assert isinstance(model, BERT)
    assert not any("pooler" in name or "next" in name for name, _ in model.named_parameters())
    assert model.losses(bert_inputs())[2] == 0


def test_counts_and_tying() -> None:
    tied, untied = GPT(BASE, 50), GPT(BASE.model_copy(update={"tied": False}), 50)
    per_block = 24 * 72 + 24 * 24 + 2 * 24 * 96 + 2 * 24
    assert tied.parameter_count() == 50 * 24 + 2 * per_block + 24
    assert untied.parameter_count() == tied.parameter_count() + 50 * 24
    assert tied.lm_head.weight is tied.token_embed.weight


def test_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="13 tokens are more than the model's context of 12"):
        GPT(BASE, 50)(torch.zeros(1, 13, dtype=torch.long))


def test_dropout_drops_in_training_alone() -> None:
    model = GPT(BASE.model_copy(update={"dropout": 0.5}), 50, seed=1)
    plain = GPT(BASE, 50, seed=1)
    assert not torch.allclose(model(draw(2, 12)), plain(draw(2, 12)))
    assert torch.equal(model.eval()(draw(2, 12)), plain(draw(2, 12)))


def test_named_losses() -> None:
    """Cross-entropy and MSE against torch's; hinge written out."""
    logits, labels = torch.randn(7, 4), draw(7, below=4)
    weights = torch.rand(7)
    torch.testing.assert_close(
        LOSSES["cross_entropy"](logits, labels, weights),
        (F.cross_entropy(logits, labels, reduction="none") * weights).sum(),
    )
    torch.testing.assert_close(
        LOSSES["mse"](logits[:, 0], logits[:, 1], weights),
        (F.mse_loss(logits[:, 0], logits[:, 1], reduction="none") * weights).sum(),
    )
    expected = 0.0
    for row, label, weight in zip(logits.tolist(), labels.tolist(), weights.tolist(), strict=True):
        others = [value for i, value in enumerate(row) if i != label]
        expected += weight * max(0.0, 1 - row[label] + max(others))
    torch.testing.assert_close(LOSSES["hinge"](logits, labels, weights).item(), expected, rtol=1e-5, atol=0)
    two = torch.randn(5, 2)
    torch.testing.assert_close(  # torch's hinge takes the mean over classes: twice it, for two
        LOSSES["hinge"](two, labels[:5] % 2, torch.ones(5)),
        2 * F.multi_margin_loss(two, labels[:5] % 2, reduction="sum"),
    )
