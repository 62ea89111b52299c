"""What one source of documents may say of itself."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from cluster.fields import Settings, free, identity, plan


class SourceSettings(Settings):
    """One named source of documents."""

    name: str = identity(help="name of the source, in shard names and mixtures", pattern=r"^[A-Za-z0-9_]+$")
    path: str = free(help="file, folder or glob; {stdlib} is the running Python's standard library")
    format: Literal["jsonl", "text", "code", "images"] = identity(
        "jsonl",
        "jsonl: an object a line; text: prose; code: source code, a file a document; images: a file an "
        "image, as pixels (all also .gz, .zst)",
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
