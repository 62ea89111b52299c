"""Linear maps laid out for few rows: the same numbers, one kind of layer exchanged, the model untouched."""

from __future__ import annotations

import pytest
import torch

from llm.finetune_settings import LoraSettings
from llm.model import make_model
from llm.model.lora import add_lora
from llm.model.onednn import can_pack
from llm.model.packed import FEWEST, PackedLinear, packed
from llm.settings import ModelSettings

BIG = {"layers": 1, "width": 512, "heads": 4, "context": 16, "softcap": 5.0, "init_std": 0.1}


@pytest.mark.skipif(not can_pack(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("biases", ["all", "none"])
def test_packed_is_the_model(biases: str) -> None:
    model = make_model(ModelSettings.model_validate(BIG | {"biases": biases}), 700).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    names = [name for name, _ in model.named_parameters()]
    with torch.inference_mode():
        double = packed(model, 1)
        assert double is not model
        found = [name for name, module in double.named_modules() if isinstance(module, PackedLinear)]
        big = [
            name
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and module.weight.numel() >= FEWEST
        ]
        assert found == big and len(big) >= 4
        for shape in ((1, 1), (3, 1), (2, 16)):
            ids = torch.randint(0, 700, shape, generator=torch.Generator().manual_seed(1))
            torch.testing.assert_close(double(ids), model(ids), rtol=0, atol=1e-4)
    assert double.get_parameter("token_embed.weight") is model.get_parameter("token_embed.weight")
    assert [name for name, _ in model.named_parameters()] == names


def test_small_maps_and_other_types_stay_as_they_are() -> None:
    small = make_model(ModelSettings(layers=1, width=16, heads=2, context=8), 40)
    with torch.inference_mode():
        assert not any(isinstance(module, PackedLinear) for module in packed(small, 8).modules())
        half = make_model(ModelSettings.model_validate(BIG), 700).bfloat16()
        assert packed(half, 1) is half


@pytest.mark.skipif(not can_pack(), reason="this torch has no oneDNN")
def test_maps_with_adapters_keep_them() -> None:
    model = make_model(ModelSettings.model_validate(BIG), 700)
    add_lora(model, LoraSettings(rank=4, targets=("q", "v", "up")))
    for name, parameter in model.named_parameters():
        if name.endswith(".lora_b"):
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        double, ids = packed(model.eval(), 1), torch.arange(8)[None]
        assert any(isinstance(module, PackedLinear) for module in double.modules())
        torch.testing.assert_close(double(ids), model(ids), rtol=0, atol=1e-4)
