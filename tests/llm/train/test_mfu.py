"""MFU: the formula by hand, what it is measured by, what is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llm.model.counts import training_flops
from llm.settings import ModelSettings, PretrainSettings
from llm.train.group import Group
from llm.train.mfu import FORMULA, Utilisation, measure_by

CPU = Group(0, 1, torch.device("cpu"))
GPT = {"layers": 2, "width": 32, "heads": 2, "context": 64}
VOCAB = 512


def measured(model: dict[str, Any], **pretrain: Any) -> Utilisation:
    settings = PretrainSettings.model_validate({"batch": 4, **pretrain})
    shape = ModelSettings.model_validate(model)
    guessed = settings.masking.share if shape.kind == "bert" else 1.0
    return measure_by(shape, VOCAB, settings, CPU, guessed)


def test_the_formula_by_hand() -> None:
    """12 D^2 weights a layer and the head's D V; half of T tokens are seen; 2 forward, 4 backward each."""
    found = measured(GPT, length=64, peak_tflops=0.5)
    weights = 2 * 12 * 32 * 32 + 32 * VOCAB
    attention = 2 * 4 * 32 * (64 + 1) / 2
    flops = 3 * (2 * weights + attention)
    assert found.flops_per_token == pytest.approx(flops)
    assert found.values(1000.0) == pytest.approx(
        {"flops_per_second": 1000 * flops, "mfu": flops * 1000 / 5e11}
    )


def test_the_length_trained_counts_and_not_the_context() -> None:
    assert measured(GPT, length=32).flops_per_token < measured(GPT, length=64).flops_per_token


def test_a_bert_makes_logits_of_the_guessed_tokens() -> None:
    model = {**GPT, "kind": "bert"}
    settings = ModelSettings.model_validate(model)
    found = measured(model, length=64, masking={"share": 0.25})
    assert found.flops_per_token == training_flops(settings, VOCAB, 64, guessed=0.25)
    assert found.flops_per_token < training_flops(settings, VOCAB, 64)


def test_a_cpu_has_no_published_peak() -> None:
    found = measured(GPT)
    assert found.peak is None and set(found.values(10.0)) == {"flops_per_second"}
    assert "No mfu" in str(found) and "pretrain.peak_tflops" in str(found) and "CPU" in str(found)
    assert found.describe()["peak_tflops"] is None


def test_the_peak_of_all_workers_counts() -> None:
    one = measured(GPT, peak_tflops=2.0)
    two = Utilisation(one.flops_per_token, 256, (2e12, 2e12), "a GPU", "bf16", "a data sheet")
    assert two.peak == 4e12 and two.values(100.0)["mfu"] == one.values(100.0)["mfu"] / 2
    mixed = Utilisation(1.0, 256, (2e12, 3e12), "a GPU", "bf16", "a data sheet")
    assert mixed.values(1e12)["mfu"] == 0.2 and "peak 2 or 3 TFLOP/s" in str(mixed)


def test_formula_and_peak_are_said() -> None:
    found = measured(GPT, peak_tflops=2.5)
    assert FORMULA in str(found) and "peak 2.5 TFLOP/s (pretrain.peak_tflops) x 1" in str(found)
    told = found.describe()
    assert told["formula"] == FORMULA and told["peak_tflops"] == [2.5]
    assert told["training_flops_per_token"] == found.flops_per_token and told["length"] == 256
