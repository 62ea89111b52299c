"""Tiny random models of transformers, each as a folder with its weights and a tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data_jobs.tokens.tokenizer import Tokenizer
from data_jobs.tokens.tokenizer_settings import TokenizerSettings
from data_jobs.tokens.tokenizer_training import train_tokenizer
from llm.exchange.tokenizer_files import write_tokenizer
from tests.data_jobs.conftest import make_texts

CONTEXT = 48
Save = Callable[..., Path]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(make_texts(50), TokenizerSettings(vocab_size=400))


def config_of(name: str, vocab_size: int, **changes: Any) -> Any:
    """The configuration of a tiny model of an architecture."""
    import transformers

    kind = name
    for end in (
        "LMHeadModel",
        "ForCausalLM",
        "ForPreTraining",
        "ForMaskedLM",
        "ForSequenceClassification",
        "ForTokenClassification",
        "ForQuestionAnswering",
        "Model",
    ):
        kind = kind.removesuffix(end)
    common = {"vocab_size": vocab_size, "bos_token_id": 3, "eos_token_id": 3}
    if kind == "GPT2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}
    else:
        sizes = {
            "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT,
        }  # fmt: skip
    if kind not in ("GPT2", "Bert"):
        sizes["num_key_value_heads"] = 2
    return getattr(transformers, f"{kind}Config")(**{**common, **sizes, **changes})


def random_model(name: str, vocab_size: int, **changes: Any) -> Any:
    """A model whose every weight is random, norms and biases too; in evaluation mode."""
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, name)(config_of(name, vocab_size, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


@pytest.fixture
def save(tmp_path: Path, tokenizer: Tokenizer) -> Save:
    """Write a model as transformers does, with our tokenizer beside it; returns the folder."""

    def write(model: Any, name: str = "theirs", **options: Any) -> Path:
        folder = tmp_path / name
        model.save_pretrained(folder, **options)
        write_tokenizer(tokenizer, folder, "bert" if model.config.model_type == "bert" else "gpt", CONTEXT)
        return folder

    return write
