"""GPT2LMHeadModel (Radford et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llm.exchange.fields import Config, Fits, activation_from, activation_to, fits_classic, need, refuse_where
from llm.exchange.weights import Weight, linear, norm
from llm.settings import ModelSettings

PREFIX = "transformer."
PASSED_OVER = r"transformer\.h\.\d+\.attn\.(bias|masked_bias)"  # masks of old versions


def settings_from(config: Config) -> dict[str, Any]:
    """Fields of ModelSettings."""
    only = {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    }
    refuse_where(config, only)
    width = need(config, "n_embd", 768)
    return {
        "kind": "gpt",
        "layers": need(config, "n_layer", 12),
        "width": width,
        "heads": need(config, "n_head", 12),
        "hidden": need(config, "n_inner", 4 * width),
        "context": need(config, "n_positions", 1024),
        "position": "learned",
        "norm": "layernorm",
        "norm_eps": need(config, "layer_norm_epsilon", 1e-5),
        "activation": activation_from(need(config, "activation_function", "gelu_new"), gated=False),
        "biases": "all",
        "tied": need(config, "tie_word_embeddings", True),
        "dropout": need(config, "resid_pdrop", 0.1),
        "init_std": need(config, "initializer_range", 0.02),
    }


def config_from(settings: ModelSettings) -> Config:
    """Fields of config.json."""
    return {
        "n_layer": settings.layers,
        "n_embd": settings.width,
        "n_head": settings.heads,
        "n_inner": settings.inner,
        "n_positions": settings.context,
        "layer_norm_epsilon": settings.norm_eps or 1e-5,
        "activation_function": "gelu_new"
        if settings.activation == "gelu_tanh"
        else activation_to(settings.activation),
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), settings.dropout),
        "initializer_range": settings.init_std,
    }


def fits(settings: ModelSettings) -> Fits:
    """Of our fields that could be something else there."""
    return fits_classic(settings, "pre")


def weights(settings: ModelSettings, vocab_size: int) -> Iterator[Weight]:
    """Their linear maps are [in, out]; queries, keys and values are one map, as ours."""
    wide, inner = settings.width, settings.inner
    yield Weight("token_embed.weight", (vocab_size, wide), ("transformer.wte.weight",))
    yield Weight("position_embed.weight", (settings.context, wide), ("transformer.wpe.weight",))
    for i in range(settings.layers):
        ours, theirs = f"blocks.{i}", f"transformer.h.{i}"
        yield from norm(f"{ours}.attention_norm", f"{theirs}.ln_1", settings)
        yield from linear(f"{ours}.attention.qkv", f"{theirs}.attn.c_attn", 3 * wide, wide, True, turned=True)
        yield from linear(f"{ours}.attention.out", f"{theirs}.attn.c_proj", wide, wide, True, turned=True)
        yield from norm(f"{ours}.feed_forward_norm", f"{theirs}.ln_2", settings)
        yield from linear(f"{ours}.feed_forward.up", f"{theirs}.mlp.c_fc", inner, wide, True, turned=True)
        yield from linear(f"{ours}.feed_forward.down", f"{theirs}.mlp.c_proj", wide, inner, True, turned=True)
    yield from norm("final_norm", "transformer.ln_f", settings)
    yield Weight("lm_head.weight", (vocab_size, wide), ("lm_head.weight",))
