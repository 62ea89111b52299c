"""Heads of tasks and their losses against transformers and torch: same weights, same logits, same losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cluster.errors import RunError, UserError
from llm.finetune_settings import FinetuneSettings, LoraSettings
from llm.model import BERT, GPT, TaskModel, make_model
from llm.model.inputs import Inputs
from llm.model.losses import LOSSES
from llm.model.task_model import Head
from llm.model.tasks import choose_trainable, fill_body, make_task_model, rate_of
from llm.settings import ModelSettings

SHAPE = {"layers": 3, "width": 24, "heads": 4, "hidden": 40, "context": 16}
BERT_SETTINGS = ModelSettings.model_validate({"kind": "bert", **SHAPE})
GPT_SETTINGS = ModelSettings.model_validate({"kind": "gpt", **SHAPE})
VOCAB, ROWS, LENGTH = 60, 5, 12
WHOLE = {"rtol": 1e-5, "atol": 1e-6}


def model_of(kind: str, outputs: int, settings: ModelSettings = BERT_SETTINGS, **changes: Any) -> TaskModel:
    model = make_task_model(settings, VOCAB, Head(kind, outputs, **changes), seed=4)  # type: ignore[arg-type]
    assert isinstance(model, TaskModel)
    return model.eval()


def inputs_of(**parts: Tensor) -> Inputs:
    torch.manual_seed(0)
    return Inputs(torch.randint(1, VOCAB, (ROWS, LENGTH)), **parts)


def test_classification_with_weights() -> None:
    """Sum and weights give what torch's weighted mean gives."""
    model, of_class = model_of("classification", 3), torch.tensor([0.5, 2.0, 1.0])
    labels = torch.tensor([0, 1, 2, 1, 1])
    inputs = inputs_of(targets=labels[:, None], weights=of_class[labels][:, None])
    logits = model.outputs(inputs)
    assert logits.shape == (ROWS, 3) and logits.dtype == torch.float32
    loss = model.losses(inputs)[0] / of_class[labels].sum()
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels, of_class), **WHOLE)
    assert torch.equal(model.measures(inputs), model.losses(inputs, z_loss=1.0))


def test_hinge_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import hinge_loss

    model, labels = model_of("classification", 4, loss="hinge"), torch.tensor([0, 1, 2, 3, 1])
    inputs = inputs_of(targets=labels[:, None], weights=torch.ones(ROWS, 1))
    logits = model.outputs(inputs).detach()
    expected = hinge_loss(labels.numpy(), logits.double().numpy(), labels=[0, 1, 2, 3])
    assert model.losses(inputs).item() / ROWS == pytest.approx(expected, rel=1e-5)
    # torch's own adds up all rivals, so it is asked about the true class and its first rival alone.
    own = logits.gather(1, labels[:, None])[:, 0]
    rival = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    margin = F.multi_margin_loss(torch.stack([own, rival], 1), torch.zeros(ROWS, dtype=torch.long))
    assert model.losses(inputs).item() / ROWS == pytest.approx(2 * margin.item(), rel=1e-5)


def test_multi_label() -> None:
    there = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0]])
    weights = torch.ones(ROWS, 3)
    weights[4] = 0
    inputs = inputs_of(targets=there, weights=weights)
    model = model_of("multi_label", 3)
    logits = model.outputs(inputs)
    expected = F.binary_cross_entropy_with_logits(logits[:4], there[:4].float())
    torch.testing.assert_close(model.losses(inputs)[0] / weights.sum(), expected, **WHOLE)
    model = model_of("multi_label", 3, loss="hinge")
    signs = torch.where(there == 1, 1.0, -1.0)[:4]
    expected = F.hinge_embedding_loss(  # of torch: max(0, margin - x) where its label is -1
        signs * logits[:4], -torch.ones(4, 3), margin=1.0, reduction="sum"
    )
    torch.testing.assert_close(model.losses(inputs)[0], expected, **WHOLE)


def test_regression() -> None:
    values = torch.tensor([[1.5], [-2.0], [0.0], [3.25], [9.0]])
    weights = torch.tensor([[1.0], [1.0], [1.0], [1.0], [0.0]])
    model = model_of("regression", 1)
    inputs = inputs_of(targets=torch.zeros(ROWS, 1, dtype=torch.long), weights=weights, values=values)
    expected = F.mse_loss(model.outputs(inputs)[:4], values[:4])
    torch.testing.assert_close(model.losses(inputs)[0] / 4, expected, **WHOLE)


def test_token_classification() -> None:
    tags = torch.randint(0, 5, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    first = (torch.arange(LENGTH) % 3 == 1).expand(ROWS, LENGTH)
    model = model_of("token_classification", 5)
    inputs = inputs_of(targets=tags, weights=first.float())
    logits = model.outputs(inputs)
    assert logits.shape == (ROWS, LENGTH, 5)
    expected = F.cross_entropy(logits.transpose(1, 2), tags.masked_fill(~first, -100))
    torch.testing.assert_close(model.losses(inputs)[0] / first.sum(), expected, **WHOLE)


def test_an_answer_is_not_sought_in_the_padding() -> None:
    """The loss of a row is the same however far it is padded, and only where a target has weight."""
    model = model_of("question_answering", 2)
    spans = torch.tensor([[2, 4], [0, 0], [7, 7], [1, 5], [3, 6]])
    weights = torch.ones(ROWS, 2)
    weights[3] = 0
    whole = inputs_of(targets=spans, weights=weights)
    short = whole._replace(ids=whole.ids[:, :8])
    logits = model.outputs(short)
    start, end = (F.cross_entropy(logits[..., i], spans[:, i], reduction="none") for i in (0, 1))
    expected = ((start + end) / 2 * weights[:, 0]).sum() / weights[:, 0].sum()
    torch.testing.assert_close(model.losses(short)[0] / weights.sum(), expected, **WHOLE)
    padding = (torch.arange(LENGTH) >= 8).long().expand(ROWS, LENGTH)
    padded = model.losses(whole._replace(documents=padding))
    torch.testing.assert_close(padded, model.losses(short), **WHOLE)
    assert not torch.allclose(model.losses(whole), padded), "the padding is seen where nothing marks it"
    beyond = torch.where(weights == 0, torch.full_like(spans, LENGTH - 1), spans)
    assert torch.isfinite(model.losses(whole._replace(documents=padding, targets=beyond))).all()


def test_a_gpt_reads_its_last_token() -> None:
    model = model_of("classification", 3, GPT_SETTINGS)
    assert model.head.bias is None and model.pooler is None
    inputs = inputs_of(positions=torch.full((ROWS, 1), 7))
    padding = (torch.arange(LENGTH) > 7).long().expand(ROWS, LENGTH)
    logits = model.outputs(inputs._replace(documents=padding))
    torch.testing.assert_close(logits, model(inputs.ids[:, :8]), **WHOLE)
    changed = inputs.ids.clone()
    changed[:, 7] = (changed[:, 7] + 1) % VOCAB
    assert not torch.allclose(logits, model.outputs(inputs._replace(ids=changed, documents=padding)))


def test_what_enters_a_head_is_dropped_in_training() -> None:
    model, inputs = model_of("classification", 3, dropout=0.5), inputs_of()
    assert torch.equal(model.outputs(inputs), model.outputs(inputs))
    model.train()
    assert not torch.equal(model.outputs(inputs), model.outputs(inputs))


def test_logits_are_fp32_where_products_are_not() -> None:
    model, inputs = model_of("regression", 1), inputs_of()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model.outputs(inputs)
    assert outputs.dtype == torch.float32
    assert not torch.equal(outputs, outputs.bfloat16().float()), "rounded to 16 bits on the way"


def test_an_instruction_model_tells_of_each_token() -> None:
    """Nats and hits of each target, as the loss adds them up; in chunks, as the vocabulary asks."""
    model = make_task_model(GPT_SETTINGS, VOCAB, None, seed=2)
    assert isinstance(model, GPT)
    targets, weights = torch.randint(0, VOCAB, (ROWS, LENGTH)), (torch.rand(ROWS, LENGTH) > 0.4).float()
    inputs = inputs_of(targets=targets, weights=weights)
    each = model.outputs(inputs)
    assert each.shape == (ROWS, LENGTH, 2) and not each.requires_grad
    torch.testing.assert_close((each[..., 0] * weights).sum(), model.measures(inputs)[0], **WHOLE)
    right = model(inputs.ids).argmax(2) == targets
    assert torch.equal(each[..., 1], right.float())


def test_initial_weights_hang_on_seed_and_name_alone() -> None:
    """So the body begins as in pretraining, whatever head stands on it."""
    found, other = model_of("classification", 3), model_of("token_classification", 3)
    plain = dict(make_model(BERT_SETTINGS, VOCAB, seed=4).named_parameters())
    for name, parameter in found.named_parameters():
        if not name.startswith("head."):
            assert torch.equal(parameter, plain[name]), name
    assert torch.equal(found.head.weight, other.head.weight) and found.head.weight.std() > 0
    assert other.pooler is None and not found.head.bias.any()


def test_the_body_of_another_model() -> None:
    source = make_model(BERT_SETTINGS, VOCAB, seed=9)
    weights = source.state_dict()
    model = model_of("classification", 3)
    assert fill_body(model, weights) == ["head.weight", "head.bias"]
    assert isinstance(source, BERT)
    ids = inputs_of().ids
    torch.testing.assert_close(model.hidden(ids), source.eval().hidden(ids))
    without = {name: tensor for name, tensor in weights.items() if not name.startswith("pooler.")}
    fresh = fill_body(model_of("regression", 1), without)
    assert fresh == ["pooler.weight", "pooler.bias", "head.weight", "head.bias"]
    again = model_of("classification", 3)
    assert fill_body(again, model.state_dict() | {"head.weight": torch.ones(3, 24)}) == fresh[2:]
    assert not torch.equal(again.head.weight, torch.ones(3, 24)), "a head learned something else"


def test_a_body_that_does_not_fit() -> None:
    weights = dict(make_model(BERT_SETTINGS, VOCAB + 1).state_dict())
    del weights["embed_norm.bias"]
    with pytest.raises(RunError, match=r"token_embed.weight is \[61, 24\], should be \[60, 24\]; embed_norm"):
        fill_body(model_of("classification", 3), weights)


def chosen(settings: ModelSettings = BERT_SETTINGS, kind: str = "classification", **fields: Any) -> set[str]:
    task = FinetuneSettings.model_validate({"task": {"kind": kind}, **fields})
    head = None if kind == "instruction" else Head(task.task.kind, 3)
    model = make_task_model(settings, VOCAB, head, lora=task.lora)
    names = set(choose_trainable(model, task))
    assert names == {name for name, p in model.named_parameters() if p.requires_grad}
    return names


def test_what_trains() -> None:
    head = {"head.weight", "head.bias", "pooler.weight", "pooler.bias"}
    every = {name for name, _ in model_of("classification", 3).named_parameters()}
    assert chosen() == every
    assert chosen(train_only="head") == head
    last = chosen(train_only="last", last_layers=2)
    assert last == head | {name for name in every if name.startswith(("blocks.1.", "blocks.2."))}
    adapters = chosen(lora={"rank": 2, "targets": ["q", "o"]}) - head
    assert adapters == {
        f"blocks.{i}.attention.{part}.lora_{end}" for i in range(3) for part in ("qkv", "out") for end in "ab"
    }
    gpt = chosen(GPT_SETTINGS, "instruction", train_only="last")
    assert "final_norm.weight" in gpt and {n.split(".")[0] for n in gpt} == {"blocks", "final_norm"}


@pytest.mark.parametrize(
    ("settings", "fields", "message"),
    [
        (GPT_SETTINGS, {"kind": "instruction", "train_only": "head"}, "instruction has no head of its own"),
        (BERT_SETTINGS, {"train_only": "last", "last_layers": 4}, "last_layers is 4, the model has 3 blocks"),
        (BERT_SETTINGS, {"lora": {"rank": 2, "targets": ["gate"]}}, "lora.targets: gate"),
    ],
)
def test_what_cannot_train(settings: ModelSettings, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        chosen(settings, **fields)


def test_rates_fall_from_the_head_down() -> None:
    settings = FinetuneSettings(layer_decay=0.5, lora=LoraSettings(rank=2))
    names = ["head.weight", "pooler.bias", "final_norm.weight", "blocks.2.attention.qkv.lora_a"]
    names += ["blocks.0.feed_forward.up.weight", "token_embed.weight", "embed_norm.bias"]
    assert [rate_of(name, settings, 3) for name in names] == [1, 1, 1, 0.5, 0.125, 0.0625, 0.0625]
    assert rate_of("token_embed.weight", FinetuneSettings(), 3) == 1


def transformers_model(name: str, kind: str, outputs: int) -> tuple[Any, TaskModel]:
    """A random model of transformers, and ours with its weights."""
    from llm.exchange.architectures import Architecture, architecture_of
    from llm.exchange.task_heads import Task, TaskArchitecture
    from tests.llm.exchange.conftest import random_model
    from tests.llm.exchange.test_models import LLAMA3

    changes: dict[str, Any] = {"hidden_act": "silu", "rope_parameters": LLAMA3} if "Apertus" in name else {}
    theirs = random_model(name, VOCAB, num_labels=outputs, pad_token_id=0, **changes)
    base = {"Bert": "BertForPreTraining", "GPT2": "GPT2LMHeadModel"}
    found = Architecture(base.get(name.split("For")[0], f"{name.split('For')[0]}ForCausalLM"))
    config = theirs.config.to_dict() | {"architectures": [found.name]}
    assert architecture_of(config, ()).name == found.name
    settings = ModelSettings.model_validate(found.settings(config))
    architecture = TaskArchitecture(found, Task(kind, outputs))
    assert architecture.name == name
    state, ours = theirs.state_dict(), model_of(kind, outputs, settings)
    weights = architecture.weights(settings, VOCAB)
    assert {weight.ours for weight in weights} == {n for n, _ in ours.named_parameters()}
    ours.load_state_dict({w.ours: w.join([state[n] for n in w.theirs]) for w in weights})
    return theirs, ours


CASES = [
    ("BertForSequenceClassification", "classification", 3),
    ("BertForSequenceClassification", "multi_label", 3),
    ("BertForSequenceClassification", "regression", 1),
    ("BertForTokenClassification", "token_classification", 4),
    ("BertForQuestionAnswering", "question_answering", 2),
    ("GPT2ForSequenceClassification", "classification", 3),
    ("GPT2ForTokenClassification", "token_classification", 4),
    ("GPT2ForQuestionAnswering", "question_answering", 2),
    ("LlamaForSequenceClassification", "multi_label", 3),
    ("LlamaForQuestionAnswering", "question_answering", 2),
    ("MistralForQuestionAnswering", "question_answering", 2),
    ("Qwen2ForTokenClassification", "token_classification", 4),
    ("Qwen3ForSequenceClassification", "regression", 1),
    ("ArceeForSequenceClassification", "classification", 3),
    ("ApertusForTokenClassification", "token_classification", 4),
]


@pytest.mark.parametrize(("name", "kind", "outputs"), CASES, ids=[f"{n}-{k}" for n, k, _ in CASES])
def test_each_class_of_transformers(name: str, kind: str, outputs: int) -> None:
    """Logits and loss within 1e-5, rows of other lengths among them."""
    theirs, ours = transformers_model(name, kind, outputs)
    lengths = torch.tensor([LENGTH, 9, 5, LENGTH, 7])
    there = torch.arange(LENGTH) < lengths[:, None]
    ids = torch.where(there, inputs_of().ids, 0)  # 0 is their padding
    inputs = Inputs(ids, documents=(~there).long())
    if ours.settings.kind == "gpt":
        inputs = inputs._replace(positions=lengths[:, None] - 1)
    labels, inputs, options = labelled(kind, outputs, inputs, there)
    found = theirs(ids, attention_mask=there.long(), **options)
    outputs_ = ours.outputs(inputs)
    if kind == "question_answering":
        expected = torch.stack((found.start_logits, found.end_logits), 2)
    else:
        expected = found.logits
    shown = there if outputs_.dim() == 3 else slice(None)
    torch.testing.assert_close(outputs_[shown], expected[shown], rtol=1e-5, atol=1e-5)
    assert inputs.weights is not None
    loss = ours.losses(inputs)[0] / inputs.weights.sum()
    if kind != "question_answering":  # theirs looks for the answer in the padding, too
        torch.testing.assert_close(loss, found.loss, rtol=1e-5, atol=1e-5)
        return
    whole = theirs(ids[::3], start_positions=labels[::3, 0], end_positions=labels[::3, 1])  # without padding
    parts = Inputs._make(None if part is None else part[::3] for part in inputs)
    torch.testing.assert_close(ours.losses(parts)[0] / 4, whole.loss, rtol=1e-5, atol=1e-5)


def labelled(kind: str, outputs: int, inputs: Inputs, there: Tensor) -> tuple[Tensor, Inputs, dict[str, Any]]:
    """Labels, our inputs with them, and transformers' arguments with them."""
    torch.manual_seed(3)
    ones = torch.ones(ROWS, 1)
    match kind:
        case "classification":
            labels = torch.randint(0, outputs, (ROWS,))
            return labels, inputs._replace(targets=labels[:, None], weights=ones), {"labels": labels}
        case "multi_label":
            labels = torch.randint(0, 2, (ROWS, outputs))
            inputs = inputs._replace(targets=labels, weights=torch.ones(ROWS, outputs))
            return labels, inputs, {"labels": labels.float()}
        case "regression":
            labels = torch.randn(ROWS)
            zeros = torch.zeros(ROWS, 1, dtype=torch.long)
            inputs = inputs._replace(targets=zeros, weights=ones, values=labels[:, None])
            return labels, inputs, {"labels": labels}
        case "token_classification":
            labels = torch.randint(0, outputs, (ROWS, LENGTH))
            inputs = inputs._replace(targets=labels, weights=there.float())
            return labels, inputs, {"labels": labels.masked_fill(~there, -100)}
    labels = torch.tensor([[2, 4], [0, 0], [1, 3], [5, 9], [3, 6]])
    return labels, inputs._replace(targets=labels, weights=torch.ones(ROWS, 2)), {}


def test_losses_have_names() -> None:
    assert {Head(kind, 2, loss).loss_name for kind in ("classification", "multi_label", "regression")  # type: ignore[arg-type]
            for loss in ("cross_entropy", "hinge")} == set(LOSSES)  # fmt: skip
