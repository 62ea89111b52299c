"""What one source of documents may say of itself."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator, model_validator

from cluster.fields import Settings, free, identity, plan
from data_jobs.cleaning.clean_settings import check_changes

Format = Literal["jsonl", "text", "code", "parquet", "csv", "arrow", "html", "warc", "wet", "images"]

_FIELDS = ("jsonl", "parquet", "csv", "arrow")
"""Formats whose records have named fields."""
_HEADERS = ("warc", "wet")
_APPLIES: dict[str, tuple[str, ...]] = {
    "text_field": _FIELDS,
    "per": ("text",),
    "metadata": _FIELDS + _HEADERS,
    "missing": _FIELDS + _HEADERS,
    "defaults": _FIELDS + _HEADERS,
    "delimiter": ("csv",),
    "extractor": ("html", "warc"),
    "size": ("images",),
    "channels": ("images",),
}
_GIVEN: dict[str, tuple[str, ...]] = {
    "code": ("path",),
    "html": ("path",),
    "images": ("path",),
    "warc": ("date", "url"),
    "wet": ("date", "url"),
}
"""Metadata that a format has without being asked."""


class SourceSettings(Settings):
    """One named source of documents."""

    name: str = identity(help="name of the source, in shard names and mixtures", pattern=r"^[A-Za-z0-9_]+$")
    path: str = free(
        help="file, folder or glob, here or in an object store (s3://bucket/name/*.jsonl.gz); {stdlib} is "
        "the running Python's standard library"
    )
    format: Format = identity(
        "jsonl",
        "jsonl: an object a line; text: prose; code: source code, a file a document; parquet; csv: with a "
        "header line; arrow: IPC, file or stream; html: a page a file; warc: the HTML pages of a web crawl; "
        "wet: the texts of one; images: a picture a document (all but parquet and images also .gz, .zst, "
        ".xz)",
    )
    text_field: str = identity("text", "jsonl, parquet, csv, arrow: the field that holds the text")
    per: Literal["file", "line"] = identity("file", "text: what is one document")
    delimiter: str = identity(",", "csv: what stands between two fields, one character; '\\t' for tabs")
    extractor: Literal["resiliparse", "trafilatura"] = identity(
        "resiliparse",
        "html, warc: what takes the main text out of a page; trafilatura is slower and stricter, and is "
        "installed by make setup EXTRAS=dev,html",
    )
    include: list[str] = plan(
        [], "files to take under a folder, e.g. ['*.py', 'docs/**']; empty: those usual for the format"
    )
    exclude: list[str] = plan(
        [],
        "files to leave out, e.g. ['**/tests/**', '*_pb2.py']; a name without / is looked for at any depth",
    )
    metadata: list[str] = identity(
        [],
        "fields to pass through to the shards, as columns `meta.<field>` of text; of warc and wet: headers "
        "of the record beside its url and date",
    )
    missing: dict[str, Literal["drop", "fail"]] = identity(
        {},
        "what is done with a record in which this field is absent or null, e.g. {text: drop, lang: fail}. "
        "Not named: without its text a record is bad, and metadata is empty text",
    )
    defaults: dict[str, str] = identity(
        {}, "what a field holds where it is absent or null, e.g. {lang: unknown}"
    )
    clean: dict[str, Any] = identity(
        {}, "what is done otherwise than corpus.clean says, e.g. {form: none, private_data: [email]}"
    )
    size: tuple[int, int] = identity(
        (32, 32), "images: [height, width] in pixels; the middle of each is brought to it"
    )
    channels: Literal[1, 3] = identity(3, "images: 1 is gray, 3 is red, green, blue")
    weight: float | None = plan(None, "default weight in a mixture (default: its share of the tokens)", gt=0)

    @field_validator("size")
    @classmethod
    def _has_pixels(cls, size: tuple[int, int]) -> tuple[int, int]:
        if not all(1 <= side <= 4096 for side in size):
            raise ValueError("size is [height, width], each from 1 to 4096 pixels")
        return size

    @field_validator("clean")
    @classmethod
    def _names_of_rules(cls, clean: dict[str, Any]) -> dict[str, Any]:
        check_changes(clean)
        return clean

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str) -> str:
        if len(value) != 1 or not value.isascii() or value in '"\r\n':
            raise ValueError("must be one ASCII character, no quote and no line end")
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> SourceSettings:
        fields: dict[str, Any] = {name: field.default for name, field in type(self).model_fields.items()}
        for name, formats in _APPLIES.items():
            if getattr(self, name) != fields[name] and self.format not in formats:
                raise ValueError(
                    f"{name} has no effect on format {self.format}; it belongs to {', '.join(formats)}"
                )
        known = [*([self.text_field] if self.format in _FIELDS else []), *metadata_fields(self)]
        for setting in ("missing", "defaults"):
            for field in getattr(self, setting):
                if field not in known:
                    raise ValueError(
                        f"{setting}: '{field}' is neither the text's field nor in metadata "
                        f"({', '.join(known)})"
                    )
        if both := sorted(self.missing.keys() & self.defaults.keys()):
            raise ValueError(f"'{both[0]}' stands in missing and in defaults: choose one")
        return self


def metadata_fields(source: SourceSettings) -> list[str]:
    """The metadata fields of a source's documents, in the order of their columns."""
    return sorted({*_GIVEN.get(source.format, ()), *source.metadata})


def holds_names(source: SourceSettings) -> bool:
    """Whether the names of its files stand in its documents."""
    return "path" in _GIVEN.get(source.format, ())
