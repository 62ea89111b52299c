"""Which tokenizer a corpus has."""

from __future__ import annotations

from typing import Literal

from cluster.fields import Settings, free, identity


class TokenizerSettings(Settings):
    """A SentencePiece model with byte fallback, trained on this corpus; of images, the values of a pixel; or
    a tokenizer that is there.
    """

    path: str | None = free(
        None, "folder of a tokenizer to use, ours or one of Hugging Face's; then the other fields have no "
        "effect, and the corpus hangs on what the tokenizer does, not on where it lies"
    )  # fmt: skip
    kind: Literal["bpe", "unigram"] = identity(
        "bpe", "bpe: byte-pair encoding; unigram: the likeliest cut (slower to train, no export)"
    )
    vocab_size: int = identity(32_000, "entries, specials and 256 bytes included", ge=320, le=1 << 24)
    sample_bytes: int = identity(
        100_000_000,
        "text to train on: the first documents of the order, of each source its share by weight",
        ge=1,
    )
    threads: int = identity(
        2, "training threads; part of the identity, because the count enters the model", ge=1
    )
    character_coverage: float = identity(
        0.9995, "share of the sample's characters with entries of their own; the rest is spelled in bytes",
        gt=0, le=1,
    )  # fmt: skip
    join_punctuation: bool = identity(
        False, "entries may join letters, digits and punctuation: fewer tokens on source code"
    )
    levels: int = identity(256, "images with 1 channel: gray levels of a pixel, its tokens", ge=2, le=256)
    colors: int = identity(
        512, "images with 3 channels: colours of the palette that k-means finds, a pixel's tokens",
        ge=2, le=1 << 16,
    )  # fmt: skip
