"""What one source of documents may say of itself."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from cluster.fields import Settings, free, identity, plan
from data_jobs.clean_settings import check_changes


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
    clean: dict[str, Any] = identity(
        {}, "what is done otherwise than corpus.clean says, e.g. {form: none, private_data: [email]}"
    )
    weight: float | None = plan(None, "default weight in a mixture (default: its share of the tokens)", gt=0)

    @field_validator("clean")
    @classmethod
    def _names_of_rules(cls, clean: dict[str, Any]) -> dict[str, Any]:
        check_changes(clean)
        return clean
