"""Bytes that a training step's activations take, from the settings alone: no tensor is made.

Letters: B rows and T tokens of a micro-batch, N = B T, D width, H heads, G key/value heads, K head size, F
inner size, V vocabulary. Counted is what autograd keeps between the forward and the backward of each
operation, as model/*.py calls them, eager. On CPUs a test holds the formulas to the tensors that autograd
keeps of real models; where GPUs have other kernels, their numbers are read off the kernels' signatures, and
not measured.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from llm.model.counts import parameters
from llm.model.head import AT_ONCE, IN_CACHE, PACKED_FROM, rows_at_once
from llm.settings import GATED, ModelSettings

FULL = 4  # bytes of a number in fp32
INDEX = 8  # of an id
FROM_RESULT = ("sigmoid", "tanh", "relu")  # activations whose gradient is taken from what they give


class Micro(NamedTuple):
    """One forward of one worker."""

    rows: int
    length: int
    mixed: bool
    """Matrix products in 16 bits."""
    confined: bool = False
    """Attention inside documents: a BERT's always, and a GPT's by choice."""
    guesses: int = 0
    """Of a row of a BERT."""
    gpu: bool = False
    below: float = math.inf
    """Only tensors of fewer bytes than these are counted."""

    def sized(self, size: int) -> int:
        """Bytes of one tensor, as far as they count."""
        return size if size < self.below else 0

    @property
    def tokens(self) -> int:
        """N."""
        return self.rows * self.length

    @property
    def half(self) -> int:
        """Bytes of a number that matrix products take and give."""
        return 2 if self.mixed else FULL


class Activations(NamedTuple):
    """Bytes of one forward and backward."""

    ends: int
    """Kept before the first block, between the last one and the head, by a BERT's own heads."""
    block: int
    """Kept by the block that keeps most."""
    blocks: int
    """Kept by all of them."""
    masks: int
    """Of attention: made once a forward, held until its end."""
    casts: int
    """Weights of linear maps in bf16, held until the backward of each."""
    loss: int
    """Kept by the chunked loss: the gradients of the hidden states and of the output weight, in fp32."""
    loss_work: int
    """Beside all that while the loss is computed."""
    loss_backward: int
    """Beside all that when the backward begins: the same gradients times the loss' scale."""
    block_work: int
    """Beside what is left of it while a block's backward is computed."""
    stream: int
    """One tensor of hidden states: what checkpointing keeps of a block."""


def activations(settings: ModelSettings, vocab_size: int, micro: Micro) -> Activations:
    """All of it for a model and one micro-batch."""
    by_block = [block_bytes(settings, micro, layer) for layer in range(settings.layers)]
    kept, work, again = loss_bytes(settings, vocab_size, micro)
    return Activations(
        ends=ends_bytes(settings, micro),
        block=max(by_block),
        blocks=sum(by_block),
        masks=mask_bytes(settings, micro),
        casts=cast_bytes(settings, vocab_size) if micro.mixed else 0,
        loss=kept,
        loss_work=work,
        loss_backward=again,
        block_work=block_work_bytes(settings, micro),
        stream=micro.sized(micro.tokens * settings.width * FULL),
    )


def block_bytes(settings: ModelSettings, micro: Micro, layer: int) -> int:
    """Kept by one block: two sums of the stream, two norms, attention, feed-forward."""
    full = micro.sized(micro.tokens * settings.width * FULL)
    half = micro.sized(micro.tokens * settings.width * micro.half)
    # The stream is fp32 in either precision: an embedding, and sums with it. What a linear map is given is in
    # `half`, a copy where that is bf16; of a gated part each of the two maps has one of its own.
    inputs = 3 if settings.activation in GATED and micro.mixed else 2
    kept = 2 * full + 2 * norm_bytes(settings, micro, micro.tokens) + inputs * half
    if settings.dropout:
        kept += 2 * half  # what each part is multiplied by
    return kept + attention_bytes(settings, micro, layer) + feed_forward_bytes(settings, micro)


def norm_bytes(settings: ModelSettings, micro: Micro, tokens: int) -> int:
    """Kept by a norm over D beside its input: LayerNorm mean and deviation of each token, RMSNorm the latter.

    On CPUs torch puts RMSNorm together from parts, which keep the normalised input, too.
    """
    if settings.norm == "layernorm":
        return 2 * tokens * FULL
    return tokens * FULL + (0 if micro.gpu else micro.sized(tokens * settings.width * FULL))


def attention_bytes(settings: ModelSettings, micro: Micro, layer: int) -> int:
    """Kept by attention: what q, k and v are views of, their rotated or normalised copies, the output, the
    logarithm of the softmax's sum.

    With dropout CPUs have no kernel of its own: q, k, v and three tensors of scores [B, H, T, T], in fp32.
    """
    heads, groups, size = settings.heads, settings.groups, settings.head_width
    tokens, half, sized = micro.tokens, micro.half, micro.sized
    queries, keys = tokens * heads * size, tokens * groups * size
    kept = sized(queries * half)  # what the output map is given
    if settings.qk_norm and not micro.gpu:  # from parts: the normalised input, in 16 bits also that in fp32
        copies = 2 if micro.mixed else 1
        kept += copies * (sized(queries * FULL) + sized(keys * FULL)) + tokens * (heads + groups) * FULL
    if settings.dropout and not micro.gpu:
        return kept + 3 * (sized(queries * FULL) + sized(micro.rows * heads * micro.length**2 * FULL))
    kept += sized((queries + 2 * keys) * half) + tokens * heads * FULL
    if settings.position == "rotary" or settings.qk_norm:
        # Copies of q and k, head by head; the output comes as they are, and is copied for its map.
        kept += 2 * sized(queries * half) + sized(keys * half)
    if settings.position == "rotary" and micro.mixed:
        kept += 2 * _angles(settings, micro) * half
    return kept + _mask_copy(settings, micro, layer)


def _angles(settings: ModelSettings, micro: Micro) -> int:
    """Cosines and sines of the positions, those of all rows where documents have positions of their own."""
    return (micro.tokens if micro.confined else micro.length) * settings.head_width


def _mask_copy(settings: ModelSettings, micro: Micro, layer: int) -> int:
    """Each layer has the mask of its own in the type of the queries."""
    if not _has_mask(settings, micro, layer) or (micro.gpu and micro.confined):
        return 0
    rows = micro.rows if micro.confined else 1
    if settings.position == "alibi":
        return micro.sized(rows * settings.heads * micro.length**2 * micro.half) if micro.mixed else 0
    return micro.sized(rows * micro.length**2 * micro.half)


def _has_mask(settings: ModelSettings, micro: Micro, layer: int) -> bool:
    near = settings.window is not None and not settings.is_global(layer)
    return micro.confined or settings.position == "alibi" or near


def mask_bytes(settings: ModelSettings, micro: Micro) -> int:
    """The masks that all layers share: bool, or ALiBi's fp32 numbers a head."""
    kinds = {settings.is_global(layer) for layer in range(settings.layers)}
    some = [layer for layer in range(settings.layers) if _has_mask(settings, micro, layer)]
    rows = micro.rows if micro.confined else 1
    each = micro.sized(
        rows * micro.length**2 * (FULL * settings.heads if settings.position == "alibi" else 1)
    )
    return each * len(kinds) if some else 0


def feed_forward_bytes(settings: ModelSettings, micro: Micro) -> int:
    """Kept by the feed-forward part: what the activation's gradient is taken from, the last map's input.

    With a gate: gate, activated gate, other side, product.
    """
    inner = micro.sized(micro.tokens * settings.inner * micro.half)
    if settings.activation in GATED:
        return 4 * inner
    return inner if settings.activation in FROM_RESULT else 2 * inner


def block_work_bytes(settings: ModelSettings, micro: Micro) -> int:
    """At once in a block's backward: gradients of the stream, of the inner numbers before and after."""
    inner = micro.sized(micro.tokens * settings.inner * micro.half)
    sides = 3 if settings.activation in GATED else 2
    return 2 * micro.sized(micro.tokens * settings.width * FULL) + sides * inner


def ends_bytes(settings: ModelSettings, micro: Micro) -> int:
    """Kept outside the blocks: ids and positions, embeddings' norm, last norm, a BERT's heads."""
    stream, bert = micro.sized(micro.tokens * settings.width * FULL), settings.kind == "bert"
    kept = micro.tokens * INDEX
    if settings.dropout:
        kept += stream
    if bert:
        kept += stream + norm_bytes(settings, micro, micro.tokens) + _bert_heads(settings, micro)
    if settings.norm_at == "pre":
        kept += stream + norm_bytes(settings, micro, micro.tokens)
    if not micro.mixed and settings.position == "rotary":
        kept += _angles(settings, micro) * FULL
    if not micro.mixed and settings.position == "alibi":
        kept += mask_bytes(settings, micro)
    return kept


def _bert_heads(settings: ModelSettings, micro: Micro) -> int:
    """Of the guessed tokens: their states, what the activation takes and gives, the norm's numbers."""
    guessed = micro.rows * micro.guesses
    wide = guessed * settings.width
    activation = "gelu" if settings.activation in GATED else settings.activation
    kept = wide * micro.half * (2 if activation in FROM_RESULT else 3) + guessed * INDEX
    if settings.next_sentence and not micro.mixed:
        kept += micro.sized(
            micro.tokens * settings.width * FULL
        )  # the pooler's input is a view of all last states
    return kept + norm_bytes(settings, micro, guessed)


def cast_bytes(settings: ModelSettings, vocab_size: int) -> int:
    """bf16 copies of the linear maps that autocast makes once a forward; the output layer makes its own."""
    parts = parameters(settings, vocab_size)
    total = parts["attention"] + parts["feed_forward"] + parts["next_sentence"]
    if settings.kind == "bert":
        total += settings.width**2
    return 2 * total


def loss_bytes(settings: ModelSettings, vocab_size: int, micro: Micro) -> tuple[int, int, int]:
    """Of the chunked loss: kept, beside it while it is computed, beside it when the backward begins.

    As head.py: logits of a chunk, in fp32 on CPUs two copies of the weight in oneDNN's blocks, in bf16 one
    in bf16 and the product that is added to the gradient.
    """
    width, bert, sized = settings.width, settings.kind == "bert", micro.sized
    tokens = micro.rows * micro.guesses if bert else micro.tokens
    weight, states = vocab_size * width, sized(tokens * width * FULL)
    kept = states + sized(weight * FULL) + (vocab_size * FULL if bert else 0)
    cached = IN_CACHE if not micro.gpu and not micro.mixed else AT_ONCE
    chunk = min(tokens, rows_at_once(vocab_size, cached)) * vocab_size
    if micro.mixed:
        part = min(tokens, rows_at_once(vocab_size, AT_ONCE if micro.gpu else IN_CACHE)) * vocab_size
        work = 2 * sized(weight * micro.half) + sized(chunk * micro.half) + sized(part * FULL)
    elif not micro.gpu and tokens >= PACKED_FROM:
        work = 2 * sized(weight * FULL) + sized(chunk * FULL)
    else:
        work = sized(chunk * FULL)
    return kept, work + states, kept
