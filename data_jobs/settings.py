"""The `corpus` section of a recipe: which raw files become a corpus, by which rules.

`path` of a source is free: a corpus is a function of what the files hold, not of where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import field_validator

from cluster.fields import Settings, free, identity, plan, values_of_kind
from data_jobs.tokenizer import load_tokenizer

MIB = 1 << 20


class SourceSettings(Settings):
    """One named source of documents."""

    name: str = identity(help="name of the source, in shard names and mixtures", pattern=r"^[A-Za-z0-9_]+$")
    path: str = free(help="file, folder or glob; {stdlib} is the running Python's standard library")
    format: Literal["jsonl", "text", "code"] = identity(
        "jsonl",
        "jsonl: an object a line; text: prose; code: source code, a file a document (all also .gz, .zst)",
    )
    text_field: str = identity("text", "jsonl: the field that holds the text")
    per: Literal["file", "line"] = identity("file", "text: what is one document")
    include: list[str] = plan(
        [], "files to take under a folder, e.g. ['*.py', 'docs/**']; empty: those usual for the format"
    )
    exclude: list[str] = plan(
        [],
        "files to leave out, e.g. ['**/tests/**', '*_pb2.py']; a name without / is looked for at any depth",
    )
    metadata: list[str] = identity(
        [], "jsonl: fields to pass through to the shards, as columns `meta.<field>` of text"
    )
    weight: float | None = plan(None, "default weight in a mixture (default: its share of the tokens)", gt=0)


class CleanSettings(Settings):
    """What is done to each text before anything else sees it."""

    form: Literal["NFC", "none"] = identity("NFC", "Unicode normalisation form")
    control_characters: Literal["remove", "keep"] = identity(
        "remove", "remove: no control characters but tab and newline; CRLF and CR become newline"
    )


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


class CorpusSettings(Settings):
    """Raw files to corpus."""

    out: str | None = free(None, "corpus folder, or s3://bucket/name (default runs/<recipe>/corpus)")
    sources: list[SourceSettings] = identity([], "list of {name, path, format, ...}")
    clean: CleanSettings = CleanSettings()
    dedup: Literal["exact", "none"] = identity("exact", "exact: of equal texts in a source one is kept")
    tokenizer: TokenizerSettings = TokenizerSettings()
    val_fraction: float = identity(
        0.05, "share of documents set apart for validation, by content", ge=0, lt=1
    )
    seed: int = identity(0, "seed of split and order", ge=0)
    shard_bytes: int = identity(512 * MIB, "target size of a shard's tokens", ge=1)
    max_document_bytes: int = identity(32 * MIB, "longer texts are cut at line ends, and counted", ge=1024)
    split_bytes: int = free(64 * MIB, "input of one task at most (a compressed file is never cut)", ge=1)
    on_bad: Literal["reject", "fail"] = free("reject", "a record that cannot be read: count it, or stop")
    max_bad_fraction: float = free(0.01, "stop when more records than this share cannot be read", ge=0, le=1)

    @field_validator("sources")
    @classmethod
    def _names_differ(cls, sources: list[SourceSettings]) -> list[SourceSettings]:
        names = [source.name for source in sources]
        if len(set(names)) < len(names):
            raise ValueError(f"source names must differ: {', '.join(names)}")
        return sources


def fixed_settings(settings: CorpusSettings) -> dict[str, Any]:
    """The settings that the corpus is a function of: dotted name to value, no place and no machine.

    A tokenizer that is given stands there by its fingerprint. UserError where it cannot be read.
    """
    fixed = values_of_kind(settings, "identity", "plan")
    del fixed["sources"]
    if settings.tokenizer.path is not None:
        fixed = {name: value for name, value in fixed.items() if not name.startswith("tokenizer.")}
        fixed["tokenizer.fingerprint"] = load_tokenizer(settings.tokenizer.path).fingerprint
    for number, source in enumerate(settings.sources):
        for name, value in values_of_kind(source, "identity", "plan").items():
            fixed[f"sources.{number}.{name}"] = value
    return fixed


def metadata_of(source: SourceSettings) -> list[str]:
    """The metadata fields of a source's documents, in the order of their columns."""
    return ["path"] if source.format == "code" else sorted(set(source.metadata))


def differences(old: dict[str, Any], new: dict[str, Any]) -> Sequence[str]:
    """One line for each setting in which two corpora differ."""
    names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    return [f"corpus.{name} was {old.get(name)!r}, now {new.get(name)!r}" for name in names]


SECTIONS = {"corpus": CorpusSettings}
