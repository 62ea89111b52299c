"""BertForPreTraining, and parts of it: BertForMaskedLM, BertModel, BertForSequenceClassification."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llm.exchange.fields import Config, Fits, activation_from, activation_to, fits_classic, need, refuse_where
from llm.exchange.weights import Weight, linear, norm, qkv
from llm.settings import ModelSettings

PREFIX = "bert."
PASSED_OVER = r"bert\.embeddings\.(position_ids|token_type_ids)"
NEXT = "cls.seq_relationship.weight"
"""Where it is there, a BertForMaskedLM has all of BertForPreTraining, as the first published ones do."""
BIASES = ("cls.predictions.bias", "cls.predictions.decoder.bias")
"""The output layer's: one tensor where it is tied; where it is not, the second is in use."""
LM, POOLER, NEXT_HEAD = "lm", "pooler", "next_head"
# The parts beside the encoder.
PARTS: dict[str, tuple[str, ...]] = {
    "BertForPreTraining": (LM, POOLER, NEXT_HEAD),
    "BertForMaskedLM": (LM,),
    "BertModel": (POOLER,),
    "BertForSequenceClassification": (POOLER,),
}


def settings_from(name: str, config: Config) -> dict[str, Any]:
    """Fields of ModelSettings."""
    refuse_where(
        config,
        {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False,
         "type_vocab_size": 2},
    )  # fmt: skip
    return {
        "kind": "bert",
        "layers": need(config, "num_hidden_layers", 12),
        "width": need(config, "hidden_size", 768),
        "heads": need(config, "num_attention_heads", 12),
        "hidden": need(config, "intermediate_size", 3072),
        "context": need(config, "max_position_embeddings", 512),
        "position": "learned",
        "norm": "layernorm",
        "norm_at": "post",
        "norm_eps": need(config, "layer_norm_eps", 1e-12),
        "activation": activation_from(need(config, "hidden_act", "gelu"), gated=False),
        "biases": "all",
        "tied": need(config, "tie_word_embeddings", True),
        "dropout": need(config, "hidden_dropout_prob", 0.1),
        "next_sentence": POOLER in PARTS[name],
        "init": "normal",
        "init_std": need(config, "initializer_range", 0.02),
    }


def config_from(settings: ModelSettings) -> Config:
    """Fields of config.json."""
    return {
        "num_hidden_layers": settings.layers,
        "hidden_size": settings.width,
        "num_attention_heads": settings.heads,
        "intermediate_size": settings.inner,
        "max_position_embeddings": settings.context,
        "type_vocab_size": 2,
        "layer_norm_eps": settings.norm_eps or 1e-5,
        "hidden_act": activation_to(settings.activation),
        "hidden_dropout_prob": settings.dropout,
        "attention_probs_dropout_prob": settings.dropout,
        "initializer_range": settings.init_std,
    }


def fits(name: str, settings: ModelSettings) -> Fits:
    """Of our fields that could be something else there."""
    return {
        **fits_classic(settings, "post"),
        "next_sentence": (settings.next_sentence == (POOLER in PARTS[name]), str(POOLER in PARTS[name])),
    }


def weights(name: str, settings: ModelSettings, vocab_size: int) -> Iterator[Weight]:
    """The encoder, then the parts that this architecture has."""
    wide, inner = settings.width, settings.inner
    embed = "bert.embeddings"
    yield Weight("token_embed.weight", (vocab_size, wide), (f"{embed}.word_embeddings.weight",))
    yield Weight("position_embed.weight", (settings.context, wide), (f"{embed}.position_embeddings.weight",))
    yield Weight("segment_embed.weight", (2, wide), (f"{embed}.token_type_embeddings.weight",))
    yield from norm("embed_norm", f"{embed}.LayerNorm", settings)
    for i in range(settings.layers):
        ours, theirs = f"blocks.{i}", f"bert.encoder.layer.{i}"
        own = f"{theirs}.attention.self"
        yield from qkv(f"{ours}.attention.qkv", (f"{own}.query", f"{own}.key", f"{own}.value"), settings)
        yield from linear(f"{ours}.attention.out", f"{theirs}.attention.output.dense", wide, wide, True)
        yield from norm(f"{ours}.attention_norm", f"{theirs}.attention.output.LayerNorm", settings)
        yield from linear(f"{ours}.feed_forward.up", f"{theirs}.intermediate.dense", inner, wide, True)
        yield from linear(f"{ours}.feed_forward.down", f"{theirs}.output.dense", wide, inner, True)
        yield from norm(f"{ours}.feed_forward_norm", f"{theirs}.output.LayerNorm", settings)
    parts, head = PARTS[name], "cls.predictions"
    if LM in parts:
        yield from linear("lm_transform.dense", f"{head}.transform.dense", wide, wide, True)
        yield from norm("lm_transform.norm", f"{head}.transform.LayerNorm", settings)
        yield Weight("lm_head.weight", (vocab_size, wide), (f"{head}.decoder.weight",))
        used, copies = (BIASES[0], ()) if settings.tied else (BIASES[1], BIASES[:1])
        yield Weight("lm_head.bias", (vocab_size,), (used,), copies=copies)
    if POOLER in parts:
        yield from linear("pooler", "bert.pooler.dense", wide, wide, True)
    if NEXT_HEAD in parts:
        yield from linear("next_head", "cls.seq_relationship", 2, wide, True)
