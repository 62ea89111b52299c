"""Fields of a config.json, read with a sentence for what cannot be read."""

from __future__ import annotations

from typing import Any

from cluster.errors import UserError
from llm.settings import GATED, ModelSettings

Config = dict[str, Any]
Fits = dict[str, tuple[bool, str]]
"""Our fields of a model: does an architecture have their value, and the values that it has."""

_PLAIN = {
    "sigmoid": "sigmoid", "tanh": "tanh", "relu": "relu", "leaky_relu": "leaky_relu", "relu2": "relu2",
    "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "silu": "silu", "swish": "silu",
}  # fmt: skip
_GATED = {"silu": "swiglu", "swish": "swiglu", "gelu": "geglu", "gelu_python": "geglu"}

UNGATED = "one without a gate, e.g. 'gelu'"
"""What an architecture without a gate asks of `activation`."""


def need(config: Config, name: str, default: Any = None) -> Any:
    """A field that must be there (null counts as absent), or its architecture's default."""
    value = config.get(name)
    value = default if value is None else value
    if value is None:
        raise UserError(f"config.json: {name} is missing")
    return value


def refuse_where(config: Config, wanted: dict[str, Any]) -> None:
    """UserError naming the fields that are there with another value than the one that our models have."""
    wrong = [
        f"{name} is {config[name]!r}, only {value!r} can be imported"
        for name, value in wanted.items()
        if config.get(name) is not None and config[name] != value
    ]
    if wrong:
        raise UserError(f"config.json: {'; '.join(wrong)}")


def activation_from(name: str, gated: bool) -> str:
    """Our name of an activation, or of the gate that it makes."""
    known = _GATED if gated else _PLAIN
    if name not in known:
        raise UserError(
            f"config.json: the activation '{name}' cannot be imported; known are {', '.join(known)}"
        )
    return known[name]


def activation_to(name: str) -> str:
    """Their name of an activation of ours."""
    return {"swiglu": "silu", "geglu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}.get(name, name)


def fits_classic(settings: ModelSettings, norm_at: str) -> Fits:
    """Of the fields that GPT-2 and BERT fix alike; the side of the norm is their one difference."""
    return {
        "position": (settings.position == "learned", "'learned'"),
        "norm": (settings.norm == "layernorm", "'layernorm'"),
        "norm_at": (settings.norm_at == norm_at, repr(norm_at)),
        "activation": (settings.activation not in GATED, UNGATED),
        "biases": (settings.biases == "all", "'all'"),
        "kv_heads": (settings.groups == settings.heads, str(settings.heads)),
        "head_size": (settings.head_width * settings.heads == settings.width, "width / heads"),
        "qk_norm": (not settings.qk_norm, "False"),
        "window": (settings.window is None, "None"),
    }
