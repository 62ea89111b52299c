"""Known shapes of models by name, the dial `depth`, and what shapes cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm.settings import ModelSettings

GPT2 = {
    "position": "learned", "norm": "layernorm", "activation": "gelu_tanh", "biases": "all", "context": 1024
}  # fmt: skip
LLAMA = {"norm": "rmsnorm", "activation": "swiglu", "biases": "none", "position": "rotary", "norm_eps": 1e-5}
LLAMA3 = {**LLAMA, "rotary": {"base": 500_000.0}, "context": 8192, "kv_heads": 8, "tied": False}
LLAMA32 = {
    **LLAMA3, "tied": True, "context": 131_072,
    "rotary": {"base": 500_000.0, "scaling": "llama3", "factor": 32.0, "original_context": 8192},
}  # fmt: skip
BERT = {"kind": "bert", "norm_eps": 1e-12, "context": 512}

# Sizes: Radford et al. 2019 (GPT-2), table 2; Grattafiori et al. 2024 (Llama 3), table 3, and the model cards
# of Llama 3.2; Devlin et al. 2019 (BERT), section 3; Turc et al. 2019 (small BERTs); Warner et al. 2024
# (ModernBERT), table 4. The Llamas below 1B have no paper.
PRESETS: dict[str, dict[str, Any]] = {
    "gpt2-124m": {**GPT2, "layers": 12, "width": 768, "heads": 12},
    "gpt2-350m": {**GPT2, "layers": 24, "width": 1024, "heads": 16},
    "gpt2-774m": {**GPT2, "layers": 36, "width": 1280, "heads": 20},
    "gpt2-1.5b": {**GPT2, "layers": 48, "width": 1600, "heads": 25},
    "llama-tiny": {**LLAMA, "layers": 6, "width": 256, "heads": 8, "kv_heads": 4, "hidden": 688},
    "llama-150m": {
        **LLAMA, "layers": 12, "width": 768, "heads": 12, "kv_heads": 4, "hidden": 2048, "context": 2048
    },
    "llama-1b": {**LLAMA32, "layers": 16, "width": 2048, "heads": 32, "hidden": 8192},
    "llama-3b": {**LLAMA32, "layers": 28, "width": 3072, "heads": 24, "hidden": 8192},
    "llama-8b": {**LLAMA3, "layers": 32, "width": 4096, "heads": 32, "hidden": 14_336},
    "bert-tiny": {**BERT, "layers": 2, "width": 128, "heads": 2},
    "bert-base": {**BERT, "layers": 12, "width": 768, "heads": 12},
    "bert-large": {**BERT, "layers": 24, "width": 1024, "heads": 16},
    "modern-bert-base": {
        "kind": "bert", "layers": 22, "width": 768, "heads": 12, "hidden": 1152, "context": 8192,
        "position": "rotary", "rotary": {"base": 160_000.0}, "norm": "layernorm", "norm_at": "pre",
        "norm_eps": 1e-5, "activation": "geglu", "biases": "none", "window": 128, "global_every": 3,
        "next_sentence": False, "init": "scaled",
    },
}  # fmt: skip

# A BERT is the original's, where its fields are not given.
BY_KIND: dict[str, dict[str, Any]] = {
    "bert": {
        "position": "learned", "norm": "layernorm", "norm_at": "post", "activation": "gelu", "biases": "all",
        "init": "normal",
    }
}  # fmt: skip


def of_depth(depth: int) -> dict[str, int]:
    """The fields that the dial sets: width grows with depth, heads of 64 as in GPT-2 and BERT."""
    return {"layers": depth, "width": 64 * depth, "heads": depth}


def fill_in(data: dict[str, Any]) -> dict[str, Any]:
    """Fields as given, over those of the preset, over those of the depth, over those of the kind."""
    preset, depth = data.get("preset"), data.get("depth")
    if preset is not None and (not isinstance(preset, str) or preset not in PRESETS):
        raise ValueError(f"no preset '{preset}'; there are: {', '.join(PRESETS)}")
    shape: dict[str, Any] = {}
    if depth is not None and isinstance(depth, int) and not isinstance(depth, bool) and depth > 0:
        shape |= of_depth(depth)
    if preset is not None:
        shape |= PRESETS[preset]
    rotary = {**shape.get("rotary", {}), **given} if isinstance(given := data.get("rotary"), dict) else given
    shape |= data if rotary is None else {**data, "rotary": rotary}
    kind = shape.get("kind")
    return {**(BY_KIND.get(kind, {}) if isinstance(kind, str) else {}), **shape}


def other_than_preset(model: ModelSettings) -> dict[str, tuple[Any, Any]]:
    """Fields in which a model differs from the preset that it names: (the preset's value, its own)."""
    if model.preset is None:
        return {}
    there = type(model).model_validate({"preset": model.preset})
    return {
        name: (getattr(there, name), getattr(model, name))
        for name in type(model).model_fields
        if getattr(there, name) != getattr(model, name)
    }


def shape_problems(model: ModelSettings) -> list[str]:
    """What cannot be built, one sentence each."""
    problems = []
    if model.depth is not None and model.layers != model.depth:
        problems.append(
            f"depth ({model.depth}) has no effect: layers is {model.layers}, given beside it or by a preset: "
            "leave one out"
        )
    if model.head_size is None and model.width % model.heads:
        problems.append(
            f"heads ({model.heads}) must divide width ({model.width}), or head_size must be given"
        )
    elif model.position == "rotary" and model.head_width % 2:
        problems.append(f"rotary positions need an even head size, it is {model.head_width}")
    if model.heads % model.groups:
        problems.append(f"kv_heads ({model.groups}) must divide heads ({model.heads})")
    if model.window is not None and model.window > model.context:
        problems.append(f"window ({model.window}) is longer than the context ({model.context})")
    if model.global_every is not None and model.window is None:
        problems.append("global_every needs a window: without one each layer sees everything")
    if model.rotary.scaling != "none" and model.position != "rotary":
        problems.append(f"rotary.scaling needs rotary positions, position is {model.position}")
    if model.rotary.scaling == "none" and model.rotary.factor != 1:
        problems.append("rotary.factor needs a scaling: linear, llama3 or yarn")
    if model.rotary.scaling == "llama3" and model.rotary.high_factor <= model.rotary.low_factor:
        problems.append("rotary.high_factor must be above rotary.low_factor")
    return problems
