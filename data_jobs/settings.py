"""The `corpus` section of a recipe: which raw files become a corpus, by which rules.

`path` of a source is free: a corpus is a function of what the files hold, not of where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import field_validator, model_validator

from cluster.errors import did_you_mean
from cluster.fields import Settings, free, identity, values_of_kind
from data_jobs.cleaning.clean_settings import CleanSettings
from data_jobs.dedup.dedup_settings import DecontaminateSettings, MinhashSettings, RepeatsSettings
from data_jobs.filters.filter_settings import FilterSettings, fixed_filters
from data_jobs.reading.source_settings import SourceSettings, metadata_fields
from data_jobs.tokens.tokenizer import load_tokenizer
from data_jobs.tokens.tokenizer_settings import TokenizerSettings

MIB = 1 << 20


class CorpusSettings(Settings):
    """Raw files to corpus."""

    out: str | None = free(None, "corpus folder, or s3://bucket/name (default runs/<recipe>/corpus)")
    sources: list[SourceSettings] = identity([], "list of {name, path, format, ...}")
    clean: CleanSettings = CleanSettings()
    repeats: RepeatsSettings = RepeatsSettings()
    filters: FilterSettings = FilterSettings()
    decontaminate: DecontaminateSettings = DecontaminateSettings()
    dedup: Literal["exact", "minhash", "none"] = identity(
        "exact", "exact: of equal texts in a source one is kept; minhash: of near duplicates too"
    )
    minhash: MinhashSettings = MinhashSettings()
    tokenizer: TokenizerSettings = TokenizerSettings()
    val_fraction: float = identity(
        0.05, "share of documents set apart for validation, by content", ge=0, lt=1
    )
    seed: int = identity(0, "seed of split and order", ge=0)
    shard_bytes: int = identity(512 * MIB, "target size of a shard's tokens", ge=1)
    max_document_bytes: int = identity(32 * MIB, "longer texts are cut at line ends, and counted", ge=1024)
    split_bytes: int = free(
        64 * MIB, "input of one task at most; compressed files, CSV and WARC are never cut", ge=1
    )
    on_bad: Literal["reject", "fail"] = free("reject", "a record that cannot be read: count it, or stop")
    max_bad_fraction: float = free(0.01, "stop when more records than this share cannot be read", ge=0, le=1)

    @field_validator("sources")
    @classmethod
    def _names_differ(cls, sources: list[SourceSettings]) -> list[SourceSettings]:
        names = [source.name for source in sources]
        if len(set(names)) < len(names):
            raise ValueError(f"source names must differ: {', '.join(names)}")
        return sources

    @model_validator(mode="after")
    def _best_by_is_passed_on(self) -> CorpusSettings:
        wanted = self.minhash.best_by if self.dedup == "minhash" and self.sources else None
        known = sorted({name for source in self.sources for name in metadata_fields(source)})
        if wanted is not None and wanted not in known:
            raise ValueError(
                f"minhash.best_by: no source passes on a field '{wanted}' (passed on: "
                f"{', '.join(known) or 'none'}){did_you_mean(wanted, known)}; name it in the metadata of a "
                "source"
            )
        return self

    @model_validator(mode="after")
    def _images_stand_alone(self) -> CorpusSettings:
        problem = images_problem(self.sources, self.max_document_bytes)
        if problem is None and any(source.format == "images" for source in self.sources):
            problem = _not_of_images(self)
        if problem:
            raise ValueError(problem)
        return self


def fixed_settings(settings: CorpusSettings) -> dict[str, Any]:
    """The settings that the corpus is a function of: dotted name to value, no place and no machine.

    A tokenizer that is given stands there by its fingerprint, evaluation files by their digest. UserError
    where one cannot be read. What is not used does not stand there: a threshold of near duplicates that are
    not looked for.
    """
    fixed = values_of_kind(settings, "identity", "plan")
    del fixed["sources"]
    unused = [name for name, used in _used(settings).items() if not used]
    fixed = {name: value for name, value in fixed.items() if name.split(".")[0] not in unused}
    if settings.decontaminate.files:
        from data_jobs.dedup.evaluation_task import (
            digest_of,  # the readers of raw data: late, for a quick start
        )

        fixed["decontaminate.digest"] = digest_of(settings.decontaminate.files)
    for family, values in fixed_filters(settings.filters).items():
        fixed[f"filters.{family}"] = values
    if settings.tokenizer.path is not None:
        fixed = {name: value for name, value in fixed.items() if not name.startswith("tokenizer.")}
        fixed["tokenizer.fingerprint"] = load_tokenizer(settings.tokenizer.path).fingerprint
    for number, source in enumerate(settings.sources):
        for name, value in values_of_kind(source, "identity", "plan").items():
            fixed[f"sources.{number}.{name}"] = value
    return fixed


_SWITCHES = {"lines", "paragraphs", "files"}
"""Fields of those parts that switch them on."""


def _used(settings: CorpusSettings) -> dict[str, bool]:
    """Whether the part of the settings by this name decides anything."""
    return {
        "repeats": settings.repeats.wanted,
        "decontaminate": bool(settings.decontaminate.files),
        "minhash": settings.dedup == "minhash",
    }


def without_effect(settings: CorpusSettings) -> list[str]:
    """Settings that were given and decide nothing, as dotted names."""
    return [
        f"corpus.{part}.{name}"
        for part, used in _used(settings).items()
        if not used
        for name in sorted(getattr(settings, part).model_fields_set - _SWITCHES)
    ]


def metadata_of(source: SourceSettings) -> list[str]:
    """The metadata fields of a source's documents, in the order of their columns."""
    return metadata_fields(source)


def images_problem(sources: Sequence[SourceSettings], max_document_bytes: int) -> str | None:
    """Why these sources cannot be one corpus of images; None where they can, or have none."""
    images = [source for source in sources if source.format == "images"]
    if not images:
        return None
    if texts := [source.name for source in sources if source.format != "images"]:
        return (
            f"a corpus is of images or of texts: '{images[0].name}' has format images, '{texts[0]}' has not; "
            "make two corpora"
        )
    first = images[0]
    for source in images[1:]:
        if (source.size, source.channels) != (first.size, first.channels):
            return (
                f"images of a corpus have one size: '{first.name}' has size {list(first.size)} with "
                f"{first.channels} channels, '{source.name}' {list(source.size)} with {source.channels}"
            )
    needed = 2 * first.size[0] * first.size[1] * first.channels  # a byte from 128 on takes two in UTF-8
    if needed > max_document_bytes:
        return (
            f"an image of size {list(first.size)} with {first.channels} channels takes up to {needed:,} "
            f"bytes, max_document_bytes is {max_document_bytes:,}: raise it"
        )
    return None


def _not_of_images(settings: CorpusSettings) -> str | None:
    """What was asked for of a corpus of images that only texts have; None where there is nothing."""
    asked = {
        "dedup: minhash": settings.dedup == "minhash",
        "repeats": settings.repeats.wanted,
        "decontaminate": bool(settings.decontaminate.files),
    }
    words = [name for name, is_asked in asked.items() if is_asked]
    return f"{words[0]} is about words, which images have none of: leave it out" if words else None


def most_entries(settings: CorpusSettings) -> int:
    """Entries that a tokenizer made for this corpus has at most."""
    images = [source for source in settings.sources if source.format == "images"]
    if not images:
        return settings.tokenizer.vocab_size
    colors = settings.tokenizer.levels if images[0].channels == 1 else settings.tokenizer.colors
    return colors + 2  # pad and eos


def differences(old: dict[str, Any], new: dict[str, Any]) -> Sequence[str]:
    """One line for each setting in which two corpora differ."""
    names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    return [f"corpus.{name} was {old.get(name)!r}, now {new.get(name)!r}" for name in names]


SECTIONS = {"corpus": CorpusSettings}
