"""Adapters: what they compute, what is merged, and the same as peft with the same weights, both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llm.exchange.adapters import write_adapter
from llm.exchange.task_heads import Task, TaskArchitecture
from llm.finetune_settings import FinetuneSettings, LoraSettings
from llm.model import TaskModel, make_model
from llm.model.inputs import Inputs
from llm.model.lora import A, B, merged, parts_of
from llm.model.task_model import Head
from llm.model.tasks import choose_trainable, make_task_model
from llm.settings import ModelSettings
from llm.train.objective import Objective
from llm.train.plain import PlainEngine
from llm.training_settings import OptimizerSettings
from tests.llm.model.test_tasks import BERT_SETTINGS, VOCAB, inputs_of, transformers_model

ALL = ("q", "k", "v", "o", "up", "down")
GATED = ModelSettings.model_validate(
    {"layers": 2, "width": 24, "heads": 4, "kv_heads": 2, "hidden": 40, "context": 16, "activation": "swiglu"}
)


def adapted(settings: ModelSettings, lora: LoraSettings, outputs: int = 3, seed: int = 4) -> TaskModel:
    """A model whose adapters do something."""
    model = make_task_model(settings, VOCAB, Head("classification", outputs), seed, lora).eval()
    assert isinstance(model, TaskModel)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(B):
                parameter.normal_(std=0.3)
    return model


@pytest.mark.parametrize(
    ("settings", "targets"),
    [
        (BERT_SETTINGS, ("q", "v")),
        (BERT_SETTINGS, ALL),
        (BERT_SETTINGS, ("k",)),
        (GATED, ("q", "k", "v", "gate")),
        (GATED, ("v", "o", "up", "gate", "down")),
    ],
)
def test_merged_weights_compute_the_same(settings: ModelSettings, targets: Any) -> None:
    lora = LoraSettings(rank=3, alpha=7.0, targets=targets)
    model, inputs = adapted(settings, lora), inputs_of()
    plain = make_task_model(settings, VOCAB, Head("classification", 3)).eval()
    before = dict(model.named_parameters())
    plain.load_state_dict(merged(model.state_dict(), settings, lora), strict=True)
    torch.testing.assert_close(plain.outputs(inputs), model.outputs(inputs), rtol=1e-5, atol=1e-5)
    changed = [name for name, p in plain.named_parameters() if not torch.equal(p, before[name])]
    linears = parts_of(settings, lora)
    assert changed == [
        name
        for name, _ in plain.named_parameters()
        if name.endswith(".weight") and name.split(".", 2)[-1].removesuffix(".weight") in linears
    ]
    q, rows = settings.heads * settings.head_width, slice(None)
    if "q" not in targets and "attention.qkv" in linears:  # rows of no target stay as they were
        rows = slice(0, q)
        weight = "blocks.0.attention.qkv.weight"
        assert torch.equal(plain.state_dict()[weight][rows], before[weight][rows])


def test_adapters_begin_as_nothing() -> None:
    """B is zero, A within 1 / sqrt(D) and a function of seed, place and target, not of the other targets."""
    head = Head("classification", 3)
    plain = make_task_model(BERT_SETTINGS, VOCAB, head, 4).eval()
    few, all_ = (
        make_task_model(BERT_SETTINGS, VOCAB, head, 4, LoraSettings(rank=3, targets=targets)).eval()
        for targets in (("v",), ALL)
    )
    assert torch.equal(plain.outputs(inputs_of()), all_.outputs(inputs_of()))
    of_few, of_all = few.state_dict(), all_.state_dict()
    name = f"blocks.1.attention.qkv{A}"
    assert of_all[name].shape == (9, 24) and of_all[f"blocks.1.attention.qkv{B}"].shape == (72, 3)
    assert torch.equal(of_few[name], of_all[name][6:])
    for found in (of_all[name], of_all[f"blocks.0.feed_forward.down{A}"]):
        bound = found.shape[1] ** -0.5
        assert 0.8 * bound < found.abs().max() <= bound and abs(found.mean()) < bound / 3
    assert not torch.equal(of_all[name], of_all[f"blocks.0.attention.qkv{A}"])
    assert {n: t for n, t in of_all.items() if not n.endswith((A, B))}.keys() == plain.state_dict().keys()


def test_only_what_is_wanted_keeps_optimizer_states() -> None:
    """A model of the shape of BERT base, a quarter as wide: states at most 5 % of those of full tuning."""
    shape = {"kind": "bert", "layers": 12, "width": 192, "heads": 12, "context": 64}
    sizes = {}
    for rank in (0, 4):
        settings = FinetuneSettings.model_validate({"lora": {"rank": rank}, "train_only": "all"})
        model = make_task_model(
            ModelSettings.model_validate(shape), 500, Head("token_classification", 5), lora=settings.lora
        )
        choose_trainable(model, settings)
        engine = PlainEngine(Objective(model, "fp32"), OptimizerSettings(), 1)
        sizes[rank] = sum(f.values.numel() for f in engine.held() if f.state != "weight")
        assert sizes[rank] == 2 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert 0 < sizes[4] <= 0.05 * sizes[0]


def test_a_frozen_output_layer_gets_no_gradient() -> None:
    """And what is below it the same one as when it learns."""
    targets, weights = torch.randint(0, VOCAB, (5, 12)), torch.rand(5, 12)
    found = []
    for learns in (True, False):
        model = make_model(GATED.model_copy(update={"tied": False}), VOCAB, seed=3)
        model.lm_head.weight.requires_grad_(learns)
        model.losses(inputs_of(targets=targets, weights=weights)).sum().backward()
        assert (model.lm_head.weight.grad is not None) == learns
        found.append(model.blocks[0].attention.qkv.weight.grad)
    assert found[0].abs().max() > 0 and torch.equal(found[0], found[1])


CASES: list[tuple[str, dict[str, list[str]]]] = [
    ("BertForSequenceClassification", {
        "q": ["query"], "k": ["key"], "v": ["value"], "o": ["attention.output.dense"],
        "up": ["intermediate.dense"], "down": [r"\d.output.dense"],
    }),
    ("GPT2ForSequenceClassification", {
        "q": ["c_attn"], "k": ["c_attn"], "v": ["c_attn"], "o": ["attn.c_proj"], "up": ["c_fc"],
        "down": ["mlp.c_proj"],
    }),
    ("LlamaForSequenceClassification", {
        "q": ["q_proj"], "v": ["v_proj"], "o": ["o_proj"], "gate": ["gate_proj"], "down": ["down_proj"],
    }),
]  # fmt: skip


def base_of(name: str, lora: LoraSettings) -> tuple[Any, TaskModel, TaskArchitecture]:
    """A model of transformers, and ours with the same weights and adapters."""
    from llm.exchange.architectures import Architecture

    theirs, plain = transformers_model(name, "classification", 3)
    base = {"Bert": "BertForPreTraining", "GPT2": "GPT2LMHeadModel", "Llama": "LlamaForCausalLM"}
    found = Architecture(base[name.split("For")[0]])
    ours = adapted(plain.settings, lora)
    missing = ours.load_state_dict(plain.state_dict(), strict=False)
    assert not missing.unexpected_keys and all(key.endswith((A, B)) for key in missing.missing_keys)
    return theirs, ours, TaskArchitecture(found, Task("classification", 3))


def agree(theirs: Any, ours: TaskModel) -> None:
    ids = inputs_of().ids.clamp(min=1)
    with torch.no_grad():
        expected = theirs(ids, attention_mask=torch.ones_like(ids)).logits
        torch.testing.assert_close(ours.outputs(Inputs(ids)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, _ in CASES])
@pytest.mark.parametrize("targets", ["all", "one", "two"])
@pytest.mark.filterwarnings("ignore")
def test_peft_loads_our_adapters(name: str, targets: str, tmp_path: Path) -> None:
    """A trained head, too: it stands beside the adapters in the file."""
    import peft

    known = tuple(dict(CASES)[name])
    wanted = {"all": known, "one": ("v",), "two": ("q", "v")}[targets]
    lora = LoraSettings(rank=4, alpha=6.0, targets=wanted)  # type: ignore[arg-type]
    theirs, ours, architecture = base_of(name, lora)
    with torch.no_grad():
        ours.head.weight.add_(0.2)
        if ours.pooler is not None:
            ours.pooler.weight.mul_(0.5)
    state = ours.state_dict()
    parts = {linear: [part[1:] for part in own] for linear, own in parts_of(ours.settings, lora).items()}
    folder = tmp_path / "adapter"
    write_adapter(
        folder, architecture, "classification", ours.settings, VOCAB, parts, lora.rank, lora.alpha,
        state.__getitem__,
    )  # fmt: skip
    loaded = peft.PeftModel.from_pretrained(theirs, folder).eval()
    agree(loaded, ours)
    missing = peft.get_peft_model_state_dict(loaded).keys()
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        assert set(file.keys()) == set(missing)
    agree(loaded.merge_and_unload(), ours)


@pytest.mark.parametrize(("name", "modules"), CASES, ids=[name for name, _ in CASES])
@pytest.mark.filterwarnings("ignore")
def test_adapters_that_peft_made_compute_the_same_here(name: str, modules: dict[str, list[str]]) -> None:
    import peft

    lora = LoraSettings(rank=4, alpha=6.0, targets=tuple(modules))  # type: ignore[arg-type]
    theirs, ours, architecture = base_of(name, lora)
    pattern = r".*\.(" + "|".join(sorted({module for own in modules.values() for module in own})) + ")"
    config = peft.LoraConfig(r=4, lora_alpha=6.0, target_modules=pattern, task_type="SEQ_CLS")
    made = peft.get_peft_model(theirs, config).eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for key, parameter in made.named_parameters():
            if "lora_" in key:
                parameter.normal_(std=0.2)
    take_over(ours, architecture, peft.get_peft_model_state_dict(made), lora)
    agree(made, ours)


def take_over(ours: TaskModel, architecture: TaskArchitecture, state: dict[str, Tensor], lora: Any) -> None:
    """Adapters of peft into ours. One of queries, keys and values together is three of ours with one A."""
    found = dict(ours.named_parameters())
    parts, used = parts_of(ours.settings, lora), set()
    for weight in architecture.weights(ours.settings, VOCAB):
        linear = weight.ours.removesuffix(".weight")
        if f"{linear}{A}" not in found or linear == weight.ours:
            continue
        ends = [0]
        for rows in weight.rows or weight.shape[:1]:
            ends.append(ends[-1] + rows)
        drawn_a, drawn_b = [], []
        for part in parts[linear.split(".", 2)[2]]:
            index = max(i for i, end in enumerate(ends[:-1]) if end <= part.first)
            key = f"base_model.model.{weight.theirs[index].removesuffix('.weight')}"
            used |= {f"{key}.lora_A.weight", f"{key}.lora_B.weight"}
            drawn_a.append(state[f"{key}.lora_A.weight"])
            drawn_b.append(state[f"{key}.lora_B.weight"][part.first - ends[index] :][: part.rows])
        with torch.no_grad():
            found[f"{linear}{A}"].copy_(torch.cat(drawn_a))
            found[f"{linear}{B}"].copy_(torch.cat(drawn_b))
    assert used == {key for key in state if "lora_" in key}
