"""Shapes by name, by the dial, and shapes that cannot be."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from llm.presets import PRESETS, other_than_preset
from llm.settings import ModelSettings

BASE: dict[str, Any] = {"layers": 2, "width": 24, "heads": 4, "context": 12}


def make(**fields: Any) -> ModelSettings:
    return ModelSettings.model_validate(fields)


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_is_a_model(name: str) -> None:
    model = make(preset=name)
    dumped = model.model_dump()
    for field, value in PRESETS[name].items():
        given = value if field != "rotary" else model.rotary.model_dump() | value
        assert dumped[field] == given, field
    assert ModelSettings.model_validate(dumped) == model  # what is saved with a run says all of it


@pytest.mark.parametrize("depth", [1, 4, 12, 20])
def test_the_dial_is_so_many_layers_with_heads_of_64(depth: int) -> None:
    model = make(depth=depth)
    assert (model.layers, model.width, model.heads, model.head_width) == (depth, 64 * depth, depth, 64)
    assert model.model_copy(update={"depth": None}) == make(layers=depth, width=64 * depth, heads=depth)


def test_what_is_given_wins_over_preset_over_depth_over_kind() -> None:
    assert make(depth=4, width=512).width == 512
    with pytest.raises(ValueError, match=r"depth \(4\) has no effect: layers is 12"):
        make(depth=4, preset="gpt2-124m")
    assert other_than_preset(make(preset="gpt2-124m", layers=2)) == {"layers": (12, 2)}
    model = make(preset="bert-base", layers=3, activation="silu")
    assert (model.layers, model.width, model.activation, model.norm_at) == (3, 768, "silu", "post")
    assert make(kind="bert", norm_at="pre").norm_at == "pre"
    assert make(kind="bert").position == "learned" != make().position
    assert make(kind="bert", depth=2).norm == "layernorm"


def test_a_rotary_field_leaves_the_presets_others() -> None:
    rotary = make(preset="llama-1b", rotary={"factor": 8.0}).rotary
    assert (rotary.factor, rotary.base, rotary.scaling) == (8.0, 500_000.0, "llama3")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 5}, r"heads \(5\) must divide width \(24\), or head_size must be given"),
        ({"width": 23}, r"heads \(4\) must divide width \(23\)"),
        ({"kv_heads": 3}, r"kv_heads \(3\) must divide heads \(4\)"),
        ({"kv_heads": 8}, r"kv_heads \(8\) must divide heads \(4\)"),
        ({"window": 13}, r"window \(13\) is longer than the context \(12\)"),
        ({"width": 12}, "rotary positions need an even head size, it is 3"),
        ({"head_size": 7}, "rotary positions need an even head size, it is 7"),
        ({"global_every": 2}, "global_every needs a window"),
        ({"position": "alibi", "rotary": {"scaling": "linear", "factor": 2}}, "rotary.scaling needs rotary"),
        ({"rotary": {"factor": 2}}, "rotary.factor needs a scaling"),
        (
            {"rotary": {"scaling": "llama3", "factor": 2, "low_factor": 4, "high_factor": 4}},
            "rotary.high_factor must be above rotary.low_factor",
        ),
        ({"preset": "gpt3"}, "no preset 'gpt3'; there are: gpt2-124m, "),
        ({"depth": 0}, "depth"),
    ],
)  # fmt: skip
def test_impossible_shapes_are_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make(**BASE | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"heads": 5, "head_size": 6},
        {"width": 12, "position": "learned"},  # heads of 3
        {"kv_heads": 1},
        {"window": 12, "global_every": 5},
        {"rotary": {"scaling": "yarn", "factor": 4}},
    ],
)
def test_shapes_that_can_be(fields: dict[str, Any]) -> None:
    make(**BASE | fields)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ValidationError, match=r"heads \(5\).*kv_heads \(2\).*window \(13\).*"):
        make(**BASE | {"heads": 5, "kv_heads": 2, "window": 13})
