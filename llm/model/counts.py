"""Parameters of a model, the work of a token, from its settings alone: no weight is made.

Letters: D width, H heads, G key/value heads, K head size, F inner size, V vocabulary, T tokens of a row.
"""

from __future__ import annotations

from typing import Any

from llm.settings import GATED, ModelSettings


def parameters(settings: ModelSettings, vocab_size: int) -> dict[str, int]:
    """Trained numbers by part; a shared matrix counts once, with the embeddings.

    Of each block: attention D(H + 2G)K + HKD, feed-forward 2DF (3DF with a gate), norms 2D, and biases where
    there are any.
    """
    width, inner, size = settings.width, settings.inner, settings.head_width
    layers, bert = settings.layers, settings.kind == "bert"
    learned = settings.position == "learned"
    segments = bert and (settings.next_sentence or learned)
    queries, rows = settings.heads * size, (settings.heads + 2 * settings.groups) * size

    def linear(fan_in: int, fan_out: int, bias: bool) -> int:
        return fan_in * fan_out + (fan_out if bias else 0)

    norm = width * (2 if settings.norm == "layernorm" and settings.has_bias("norm") else 1)
    ups = 2 if settings.activation in GATED else 1
    attention = linear(width, rows, settings.has_bias("qkv"))
    attention += linear(queries, width, settings.has_bias("attention"))
    attention += 2 * size if settings.qk_norm else 0
    feed_forward = ups * linear(width, inner, settings.has_bias("feed_forward"))
    feed_forward += linear(inner, width, settings.has_bias("feed_forward"))
    outer_norms = (settings.norm_at == "pre") + bert  # the last states', the embeddings'
    head = 0 if settings.tied else vocab_size * width
    if bert:
        head += vocab_size + linear(width, width, settings.has_bias("head")) + norm
    pairs = linear(width, width, True) + linear(width, 2, True) if bert and settings.next_sentence else 0
    return {
        "token_embedding": vocab_size * width,
        "position_embedding": settings.context * width if learned else 0,
        "segment_embedding": 2 * width if segments else 0,
        "attention": layers * attention,
        "feed_forward": layers * feed_forward,
        "norms": (2 * layers + outer_norms) * norm,
        "head": head,
        "next_sentence": pairs,
    }


def forward_flops(
    settings: ModelSettings, vocab_size: int, length: int, every_pair: bool = False, guessed: float = 1.0
) -> dict[str, float]:
    """Floating-point operations of matrix products for one token of a row of `length`, by part.

    A product with a matrix of n weights is 2n operations; the embeddings are looked up and cost none. Scores
    and their use on the values are 2HK operations each for each token that is seen (Chowdhery et al. 2022,
    PaLM, appendix B: 2N + 4LHKT forward, 6N + 12LHKT in training, with all T seen). Here the tokens that the
    masks let through are counted, (T + 1) / 2 of T where causal, at most `window` in layers with a window;
    `every_pair` counts all T, as PaLM, and as torch's own counter. Norms, activations, softmax: not counted.

    guessed: share of the tokens whose logits are made (1 for a GPT; pretrain.masking.share in a BERT's
    training). The pooler and what is on it are once a row.
    """
    width, size, layers = settings.width, settings.head_width, settings.layers
    ups = 2 if settings.activation in GATED else 1
    maps = width * (settings.heads + 2 * settings.groups) * size + settings.heads * size * width
    seen = sum(
        length if every_pair else mean_seen(settings, length, settings.is_global(layer))
        for layer in range(layers)
    )
    bert = settings.kind == "bert"
    pairs = 2 * (width * width + 2 * width) / length if bert and settings.next_sentence else 0.0
    return {
        "attention_maps": 2.0 * layers * maps,
        "attention_scores": 4.0 * settings.heads * size * seen,
        "feed_forward": 2.0 * layers * (ups + 1) * width * settings.inner,
        "head": 2.0 * guessed * (width * vocab_size + (width * width if bert else 0)),
        "next_sentence": pairs,
    }


def training_flops(
    settings: ModelSettings, vocab_size: int, length: int, every_pair: bool = False, guessed: float = 1.0
) -> float:
    """Operations of one token in training: the forward's, and twice as many for the two gradients."""
    return 3 * sum(forward_flops(settings, vocab_size, length, every_pair, guessed).values())


def mean_seen(settings: ModelSettings, length: int, is_global: bool) -> float:
    """How many tokens one of a row sees, on average over the row."""
    window = None if is_global else settings.window
    if settings.causal:
        reach = length if window is None else min(window, length)
        return reach - reach * (reach - 1) / (2 * length)  # the first `reach` tokens see 1, 2, ... of them
    if window is None:
        return float(length)
    side = min(window // 2, length - 1)
    return 1 + 2 * side - side * (side + 1) / length


def describe(settings: ModelSettings, vocab_size: int, length: int | None = None) -> dict[str, Any]:
    """What a model of these settings is: parameters by part, work a token, numbers a cached token takes.

    `length` of the rows, default: the model's context.
    """
    length = length or settings.context
    parts = parameters(settings, vocab_size)
    total = sum(parts.values())
    return {
        "parameters": total,
        "parameters_by_part": parts,
        "parameters_without_embeddings": total - sum(n for part, n in parts.items() if "embedding" in part),
        "length": length,
        "forward_flops_per_token": sum(forward_flops(settings, vocab_size, length).values()),
        "training_flops_per_token": training_flops(settings, vocab_size, length),
        "cached_numbers_per_token": 2 * settings.layers * settings.groups * settings.head_width,
    }
