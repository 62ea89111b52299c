"""LlamaForCausalLM and its kin: RMSNorm before each part, rotary positions.

They differ in a gate, in biases, in norms of queries and keys, in a sliding window: one row of `KIN` each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cluster.errors import UserError
from llm.exchange.fields import UNGATED, Config, Fits, activation_from, activation_to, need
from llm.exchange.rope import rotary_from, rotary_to
from llm.exchange.weights import Weight, linear, norm, qkv
from llm.settings import GATED, ModelSettings

PREFIX = "model."
PASSED_OVER = r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"


@dataclass(frozen=True)
class Kin:
    """What sets one of them apart."""

    gated: bool = True
    biases: tuple[str, ...] = ("none",)
    """Values of our `biases` that it has."""
    qk_norm: bool = False
    windows: str = "none"
    """none; all: every layer has it; some: each layer says whether."""
    eps: float = 1e-6
    context: int = 2048
    head_size: int | None = None
    whole_heads: bool = False
    """Must the heads divide the width?"""
    norms: tuple[str, str] = ("input_layernorm", "post_attention_layernorm")


_ANY = ("none", "attention", "feed_forward", "all")
KIN = {
    "LlamaForCausalLM": Kin(biases=_ANY, whole_heads=True),
    "MistralForCausalLM": Kin(windows="all", context=4096 * 32),
    "Qwen2ForCausalLM": Kin(biases=("qkv",), windows="some", context=32_768),
    "Qwen3ForCausalLM": Kin(
        biases=("none", "attention"), qk_norm=True, windows="some", context=32_768, head_size=128
    ),
    "ArceeForCausalLM": Kin(gated=False, biases=_ANY, eps=1e-5, context=4096, whole_heads=True),
    "ApertusForCausalLM": Kin(
        gated=False, biases=("none", "attention"), qk_norm=True, eps=1e-5, context=65_536,
        norms=("attention_layernorm", "feedforward_layernorm"),
    ),
}  # fmt: skip


def settings_from(name: str, config: Config) -> dict[str, Any]:
    """Fields of ModelSettings."""
    kin = KIN[name]
    layers, heads = need(config, "num_hidden_layers", 32), need(config, "num_attention_heads", 32)
    width, context = need(config, "hidden_size", 4096), need(config, "max_position_embeddings", kin.context)
    if name == "ApertusForCausalLM":  # its default is another than that of its kin
        need(config, "rope_parameters", config.get("rope_scaling"))
    head_size = need(config, "head_dim", kin.head_size or width // heads)
    return {
        "kind": "gpt",
        "layers": layers,
        "width": width,
        "heads": heads,
        "kv_heads": need(config, "num_key_value_heads", heads),
        "head_size": None if head_size * heads == width else head_size,
        "hidden": need(config, "intermediate_size"),
        "context": context,
        "position": "rotary",
        "rotary": rotary_from(config, context),
        "norm": "rmsnorm",
        "norm_eps": need(config, "rms_norm_eps", kin.eps),
        "activation": activation_from(
            need(config, "hidden_act", "silu" if kin.gated else "relu2"), kin.gated
        ),
        "qk_norm": kin.qk_norm,
        "biases": _biases(kin, config),
        "tied": need(config, "tie_word_embeddings", False),
        "dropout": need(config, "attention_dropout", 0.0),
        "init": "normal",
        "init_std": need(config, "initializer_range", 0.02),
        **_window_from(kin, config, layers, context),
    }


def _biases(kin: Kin, config: Config) -> str:
    if len(kin.biases) == 1:
        return kin.biases[0]
    attention, feed_forward = bool(config.get("attention_bias")), bool(config.get("mlp_bias"))
    name = {(False, False): "none", (True, False): "attention", (False, True): "feed_forward"}
    found = name.get((attention, feed_forward), "all")
    if found not in kin.biases:
        raise UserError("config.json: mlp_bias is true, and this architecture has none")
    return found


def _window_from(kin: Kin, config: Config, layers: int, context: int) -> dict[str, Any]:
    """window and global_every; a window as long as the context is none."""
    window = config.get("sliding_window")
    if kin.windows == "none" or window is None or window >= context:
        return {}
    if kin.windows == "all":
        return {"window": window}
    if not config.get("use_sliding_window"):
        return {}
    first = need(config, "max_window_layers", 28)
    kinds = config.get("layer_types") or [
        "sliding_attention" if layer >= first else "full_attention" for layer in range(layers)
    ]
    wide = [layer for layer, kind in enumerate(kinds) if kind == "full_attention"]
    if len(wide) == layers:
        return {}
    if not wide:
        return {"window": window}
    every = wide[1] - wide[0] if len(wide) > 1 else layers
    if wide != list(range(0, layers, every)):
        raise UserError(
            f"config.json: full attention in layers {', '.join(map(str, wide[:12]))} alone cannot be "
            "imported: here it is in each n-th layer, from the first on"
        )
    return {"window": window, "global_every": every}


def config_from(name: str, settings: ModelSettings) -> Config:
    """Fields of config.json."""
    kin = KIN[name]
    config: Config = {
        "num_hidden_layers": settings.layers,
        "hidden_size": settings.width,
        "intermediate_size": settings.inner,
        "num_attention_heads": settings.heads,
        "num_key_value_heads": settings.groups,
        "head_dim": settings.head_width,
        "hidden_act": activation_to(settings.activation),
        "max_position_embeddings": settings.context,
        "rms_norm_eps": settings.norm_eps or 1e-6,
        "rope_parameters": rotary_to(settings.rotary),
        "rope_theta": settings.rotary.base,  # for transformers before 5
        "attention_dropout": settings.dropout,
        "initializer_range": settings.init_std,
    }
    if settings.rotary.scaling != "none":
        config["rope_scaling"] = config["rope_parameters"]  # the same
    if len(kin.biases) > 1:
        config["attention_bias"] = settings.has_bias("attention")
    if "all" in kin.biases:
        config["mlp_bias"] = settings.has_bias("feed_forward")
    if kin.windows != "none":
        config["sliding_window"] = settings.window
    if kin.windows == "some":
        kinds = ("sliding_attention", "full_attention")
        config["layer_types"] = [kinds[settings.is_global(layer)] for layer in range(settings.layers)]
        config["use_sliding_window"] = settings.window is not None
        config["max_window_layers"] = 0 if settings.window is not None else settings.layers
    return config


def fits(name: str, settings: ModelSettings) -> Fits:
    """Of our fields that could be something else there."""
    kin = KIN[name]
    some = settings.global_every is not None
    return {
        "position": (settings.position == "rotary", "'rotary'"),
        "norm": (settings.norm == "rmsnorm", "'rmsnorm'"),
        "norm_at": (settings.norm_at == "pre", "'pre'"),
        "activation": (
            (settings.activation in GATED) == kin.gated,
            " or ".join(map(repr, GATED)) if kin.gated else UNGATED,
        ),
        "biases": (settings.biases in kin.biases, " or ".join(map(repr, kin.biases))),
        "qk_norm": (settings.qk_norm == kin.qk_norm, str(kin.qk_norm)),
        "window": (settings.window is None or kin.windows != "none", "None"),
        "global_every": (not some or kin.windows == "some", "None"),
        "heads": (not kin.whole_heads or settings.width % settings.heads == 0, "a divisor of width"),
    }


def weights(name: str, settings: ModelSettings, vocab_size: int) -> Iterator[Weight]:
    """Their queries, keys and values are three maps."""
    kin, wide, inner = KIN[name], settings.width, settings.inner
    rows = settings.heads * settings.head_width
    yield Weight("token_embed.weight", (vocab_size, wide), ("model.embed_tokens.weight",))
    for i in range(settings.layers):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        yield from norm(f"{ours}.attention_norm", f"{theirs}.{kin.norms[0]}", settings)
        own = f"{theirs}.self_attn"
        yield from qkv(f"{ours}.attention.qkv", (f"{own}.q_proj", f"{own}.k_proj", f"{own}.v_proj"), settings)
        bias = settings.has_bias("attention")
        yield from linear(f"{ours}.attention.out", f"{own}.o_proj", wide, rows, bias)
        if settings.qk_norm:
            for part in ("q_norm", "k_norm"):
                yield from norm(f"{ours}.attention.{part}", f"{own}.{part}", settings, settings.head_width)
        yield from norm(f"{ours}.feed_forward_norm", f"{theirs}.{kin.norms[1]}", settings)
        bias = settings.has_bias("feed_forward")
        if settings.activation in GATED:
            yield from linear(f"{ours}.feed_forward.gate", f"{theirs}.mlp.gate_proj", inner, wide, bias)
        yield from linear(f"{ours}.feed_forward.up", f"{theirs}.mlp.up_proj", inner, wide, bias)
        yield from linear(f"{ours}.feed_forward.down", f"{theirs}.mlp.down_proj", wide, inner, bias)
    yield from norm("final_norm", "model.norm", settings)
    yield Weight("lm_head.weight", (vocab_size, wide), ("lm_head.weight",))
