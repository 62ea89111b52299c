"""Which tokenizer a corpus has."""

from __future__ import annotations

from cluster.fields import Settings, free, identity


class TokenizerSettings(Settings):
    """A SentencePiece BPE model with byte fallback, trained on this corpus; or one that is there."""

    path: str | None = free(
        None, "folder of a tokenizer to use, ours or one of Hugging Face's; then the other fields have no "
        "effect, and the corpus hangs on what the tokenizer does, not on where it lies"
    )  # fmt: skip
    vocab_size: int = identity(32_000, "entries, specials and 256 bytes included", ge=320, le=1 << 24)
    sample_bytes: int = identity(100_000_000, "text to train on: the first documents of the order", ge=1)
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
