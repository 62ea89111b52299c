"""Counts from settings: against built models, published numbers and torch's own counter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llm.model import Model, make_model
from llm.model.attention import seen
from llm.model.counts import describe, forward_flops, mean_seen, parameters, training_flops
from llm.presets import PRESETS
from llm.settings import ModelSettings

# (vocabulary, parameters) as published: the weights of openai-community/gpt2*, meta-llama/Llama-3.2-1B, -3B,
# Meta-Llama-3-8B, and transformers' BertForPreTraining of the BERT sizes.
PUBLISHED = {
    "gpt2-124m": (50_257, 124_439_808),
    "gpt2-350m": (50_257, 354_823_168),
    "gpt2-774m": (50_257, 774_030_080),
    "gpt2-1.5b": (50_257, 1_557_611_200),
    "llama-1b": (128_256, 1_235_814_400),
    "llama-3b": (128_256, 3_212_749_824),
    "llama-8b": (128_256, 8_030_261_248),
    "bert-tiny": (30_522, 4_433_468),
    "bert-base": (30_522, 110_106_428),
    "bert-large": (30_522, 336_226_108),
}
TINY: dict[str, Any] = {"layers": 3, "width": 24, "heads": 4, "context": 20}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"kv_heads": 2, "activation": "swiglu", "hidden": 40},
    {"position": "learned", "norm": "layernorm", "biases": "all", "tied": False},
    {"qk_norm": True, "biases": "qkv", "head_size": 10, "position": "alibi"},
    {"norm_at": "post", "norm": "layernorm", "biases": "feed_forward"},
    {"biases": "attention", "window": 5, "global_every": 2},
    {"kind": "bert"},
    {"kind": "bert", "next_sentence": False},
    {"kind": "bert", "next_sentence": False, "position": "rotary", "biases": "none", "activation": "geglu"},
    {"kind": "bert", "norm_at": "pre", "tied": False, "window": 6},
]


def of_preset(name: str) -> ModelSettings:
    return ModelSettings.model_validate({"preset": name})


def shapes_of(settings: ModelSettings, vocab_size: int) -> Model:
    """The model without memory: shapes alone."""
    with torch.device("meta"):
        return make_model(settings, vocab_size)


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_published_parameters(name: str) -> None:
    vocab_size, published = PUBLISHED[name]
    assert sum(parameters(of_preset(name), vocab_size).values()) == published


def test_modern_bert_has_about_the_published_parameters() -> None:
    """149 million (Warner et al. 2024, section 2.1). Ours has a norm more, before the first attention."""
    assert sum(parameters(of_preset("modern-bert-base"), 50_368).values()) / 1e6 == pytest.approx(
        149, rel=0.01
    )


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_parameters_of_the_built_model(name: str) -> None:
    model = shapes_of(of_preset(name), 32_000)
    assert sum(parameters(of_preset(name), 32_000).values()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_parts_are_those_of_the_built_model(variant: dict[str, Any]) -> None:
    """Part by part, by the parameters' names."""
    settings = ModelSettings.model_validate(TINY | variant)
    places = {
        "token_embed": "token_embedding", "position_embed": "position_embedding",
        "segment_embed": "segment_embedding", "attention": "attention", "feed_forward": "feed_forward",
        "attention_norm": "norms", "feed_forward_norm": "norms", "final_norm": "norms", "embed_norm": "norms",
        "lm_head": "head", "lm_transform": "head", "pooler": "next_sentence", "next_head": "next_sentence",
    }  # fmt: skip
    found = dict.fromkeys(parameters(settings, 50), 0)
    for name, parameter in shapes_of(settings, 50).named_parameters():
        parts = name.split(".")
        found[places[parts[2] if parts[0] == "blocks" else parts[0]]] += parameter.numel()
    assert parameters(settings, 50) == found


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_flops_are_those_that_torch_counts(variant: dict[str, Any]) -> None:
    """torch's counter takes every pair of an attention, whatever the mask."""
    settings = ModelSettings.model_validate(TINY | variant)
    model = shapes_of(settings, 50)
    ids = torch.zeros(2, 16, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(ids)
        if settings.kind == "bert" and settings.next_sentence:
            model.next_logits(torch.empty(2, 16, 24, device="meta"))
    expected = sum(forward_flops(settings, 50, 16, every_pair=True).values())
    assert counter.get_total_flops() == pytest.approx(expected * 32)


@pytest.mark.parametrize("window", [None, 1, 4, 5, 16])
@pytest.mark.parametrize("kind", ["gpt", "bert"])
@pytest.mark.parametrize("length", [1, 6, 16])
def test_what_a_token_sees_is_what_the_mask_lets_through(kind: str, window: int | None, length: int) -> None:
    settings = ModelSettings.model_validate(TINY | {"kind": kind, "window": window})
    places = torch.arange(length)
    mask = seen(places, places, settings.causal, window, None)
    expected = length if mask is None else mask.sum().item() / length
    assert mean_seen(settings, length, is_global=False) == pytest.approx(expected)


def test_training_flops_are_the_formula_of_palm() -> None:
    """6N + 12LHKT with all pairs, N without the embeddings' look-up; half the scores where causal."""
    settings, (vocab_size, whole) = of_preset("gpt2-124m"), PUBLISHED["gpt2-124m"]
    parts = forward_flops(settings, vocab_size, 1024)
    biases_and_norms = 12 * (3 * 768 + 768 + 4 * 768 + 768 + 4 * 768) + 2 * 768
    matrices = whole - 1024 * 768 - biases_and_norms
    found = training_flops(settings, vocab_size, 1024, every_pair=True)
    assert found == 6 * matrices + 12 * 12 * 12 * 64 * 1024
    assert parts["attention_scores"] == pytest.approx(4 * 12 * 768 * 1025 / 2)
    few = forward_flops(of_preset("bert-base"), 30_522, 512, guessed=0.15)["head"]
    assert few == pytest.approx(0.15 * 2 * (768 * 30_522 + 768 * 768))


def test_describe() -> None:
    found = describe(of_preset("llama-1b"), 128_256, length=2048)
    assert found["parameters"] == sum(found["parameters_by_part"].values()) == PUBLISHED["llama-1b"][1]
    assert found["parameters_without_embeddings"] == 1_235_814_400 - 128_256 * 2048
    assert found["cached_numbers_per_token"] == 2 * 16 * 8 * 64
    assert found["training_flops_per_token"] == 3 * found["forward_flops_per_token"]
    assert describe(of_preset("llama-1b"), 128_256)["length"] == 131_072
