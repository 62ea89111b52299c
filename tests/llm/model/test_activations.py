"""Bytes of activations from settings: against the tensors that autograd keeps of real models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from llm.model import make_model
from llm.model.activations import Micro, activations
from llm.model.inputs import Inputs
from llm.settings import ModelSettings
from llm.train.objective import Objective

VOCAB, ROWS, LENGTH, GUESSES = 300, 3, 40, 6
SHAPE: dict[str, Any] = {"layers": 2, "width": 48, "heads": 4, "hidden": 112, "context": LENGTH}
GPT2 = {"position": "learned", "norm": "layernorm", "activation": "gelu_tanh", "biases": "all"}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gpt2": GPT2,
    "llama": {"activation": "swiglu", "kv_heads": 2, "norm_eps": 1e-5},
    "geglu": {**GPT2, "activation": "geglu"},
    "post": {**GPT2, "norm_at": "post"},
    "post-rms": {"norm_at": "post"},
    "relu": {"activation": "relu"},
    "relu2": {"activation": "relu2"},
    "silu": {"activation": "silu"},
    "sigmoid": {"activation": "sigmoid"},
    "tanh": {"activation": "tanh"},
    "leaky": {"activation": "leaky_relu"},
    "qk": {"qk_norm": True},
    "qk-learned": {"qk_norm": True, "position": "learned"},
    "none": {"position": "none"},
    "sinusoidal": {"position": "sinusoidal"},
    "alibi": {"position": "alibi"},
    "window": {"window": 8, "global_every": 2},
    "dropout": {"dropout": 0.1},
    "dropout-groups": {**GPT2, "dropout": 0.1, "kv_heads": 2},
    "untied": {"tied": False, "softcap": 30.0},
    "wide-heads": {"head_size": 24},
    "bert": {"kind": "bert"},
    "bert-pre": {
        "kind": "bert",
        "norm_at": "pre",
        "next_sentence": False,
        "activation": "geglu",
        "window": 8,
    },
    "bert-dropout": {"kind": "bert", "dropout": 0.1},
}


def settings_of(name: str) -> ModelSettings:
    return ModelSettings.model_validate({**SHAPE, **VARIANTS[name]})


def inputs_of(settings: ModelSettings, confined: bool) -> Inputs:
    ids = torch.randint(0, VOCAB, (ROWS, LENGTH))
    documents = (torch.arange(LENGTH) // 11).expand(ROWS, -1).contiguous()
    if settings.kind == "gpt":
        return Inputs(ids, ids, torch.ones(ROWS, LENGTH), documents=documents if confined else None)
    places = torch.rand(ROWS, LENGTH).argsort(1)[:, :GUESSES]
    return Inputs(
        ids, ids.gather(1, places), torch.ones(ROWS, GUESSES), places, documents, documents % 2,
        torch.zeros(ROWS, dtype=torch.int64), torch.ones(ROWS),
    )  # fmt: skip


def kept_by_autograd(settings: ModelSettings, precision: str, confined: bool) -> int:
    """Bytes of all memory that autograd keeps for the backward, but that of parameters and constants."""
    model = make_model(settings, VOCAB)
    held: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        held.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        sums = Objective(model, precision)(inputs_of(settings, confined))
    fixed = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    assert sums.requires_grad
    return sum(t.untyped_storage().nbytes() for at, t in held.items() if at not in fixed)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", VARIANTS)
def test_what_a_forward_keeps(name: str, precision: str) -> None:
    """Within 1 %: what is left out are cast biases and a BERT's few numbers a row."""
    settings = settings_of(name)
    bert = settings.kind == "bert"
    micro = Micro(ROWS, LENGTH, precision == "bf16", bert, GUESSES if bert else 0)
    found = activations(settings, VOCAB, micro)
    kept = kept_by_autograd(settings, precision, False)
    assert found.ends + found.blocks + found.casts + found.loss == pytest.approx(kept, rel=0.01)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_confined_gpt_keeps_a_mask_a_layer(precision: str) -> None:
    settings = settings_of("plain")
    found = activations(settings, VOCAB, Micro(ROWS, LENGTH, precision == "bf16", True))
    kept = kept_by_autograd(settings, precision, True)
    assert found.ends + found.blocks + found.casts + found.loss == pytest.approx(kept, rel=0.01)
    plain = activations(settings, VOCAB, Micro(ROWS, LENGTH, precision == "bf16"))
    assert found.blocks > plain.blocks
