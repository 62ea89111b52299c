"""The manifest and the index of a corpus: what they hold, and the ids that follow from it.

Nothing here knows of times, machines, paths or workers: both files are a function of (input, settings).
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from cluster import places
from cluster.errors import RunError, UserError
from cluster.places import Place, to_json
from cluster.sealed import unseal
from data_jobs.hashes import sha256

FORMAT = "manta-corpus"
VERSION = 1
MANIFEST, INDEX, SHARDS, TOKENIZER = "manifest.json", "index.arrow", "shards", "tokenizer"
SPLITS = ("train", "val")

_INDEX_SCHEMA = pa.schema(
    [
        ("part", pa.uint32()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("name", pa.string()),
        ("documents", pa.uint64()),
        ("tokens", pa.uint64()),
        ("bytes", pa.uint64()),
        ("values_at", pa.uint64()),
        ("digest", pa.string()),
    ]
)


@dataclass(frozen=True)
class Shard:
    """A row of the index."""

    part: int
    split: str
    source: str
    name: str
    """Path relative to the corpus folder."""
    documents: int
    tokens: int
    bytes: int
    """UTF-8 bytes of the cleaned text."""
    values_at: int
    digest: str


def index_bytes(shards: Sequence[Shard]) -> bytes:
    """The index file."""
    table = pa.Table.from_pylist([asdict(shard) for shard in shards], schema=_INDEX_SCHEMA)
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, _INDEX_SCHEMA) as writer:
        writer.write_table(table)
    return sink.getvalue()


def make_manifest(
    settings: dict[str, Any],
    tokenizer: dict[str, Any],
    token_width: int,
    sources: Sequence[dict[str, Any]],
    shards: Sequence[Shard],
    stages: Sequence[dict[str, Any]],
    counts: dict[str, Any],
) -> dict[str, Any]:
    """`sources`: [{name, format, weight, sentence_rule, metadata}] in the recipe's order."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "corpus_id": corpus_id(tokenizer["fingerprint"], shards),
        "settings": settings,
        "settings_hash": settings_hash(settings),
        "tokenizer": tokenizer,
        "token_width": token_width,
        "sources": [{**source, "splits": _split_totals(source["name"], shards)} for source in sources],
        "index": sha256(index_bytes(shards)),
        "stages": list(stages),
        "counts": counts,
    }


def settings_hash(settings: dict[str, Any]) -> str:
    """h(settings)."""
    return sha256(to_json(settings))


def corpus_id(tokenizer_fingerprint: str, shards: Sequence[Shard]) -> str:
    """h(format, tokenizer fingerprint, shard digests in order)."""
    words = [f"{FORMAT}/{VERSION}", tokenizer_fingerprint, [shard.digest for shard in shards]]
    return sha256(to_json(words))


def _split_totals(source: str, shards: Sequence[Shard]) -> dict[str, Any]:
    totals = {}
    for split in SPLITS:
        own = [shard for shard in shards if (shard.source, shard.split) == (source, split)]
        if own:
            totals[split] = {
                "shards": len(own),
                **{
                    unit: sum(getattr(shard, unit) for shard in own)
                    for unit in ("documents", "tokens", "bytes")
                },
                "digest": sha256(to_json([shard.digest for shard in own])),
            }
    return totals


def read_manifest(folder: str | Place) -> dict[str, Any]:
    """The manifest of a corpus folder. UserError where there is none, RunError where it is damaged."""
    path = places.at(folder) / MANIFEST
    try:
        data = path.read_bytes()
        manifest: dict[str, Any] = json.loads(data)
        found, version = manifest["format"], manifest["version"]
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder}: not a corpus, {MANIFEST} is missing. To make one: "
            f"python -m data_jobs.prepare RECIPE --corpus.out {folder}"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: damaged, not the manifest of a corpus ({error})") from None
    if found != FORMAT or version != VERSION:
        raise UserError(
            f"{path}: format {found!r} version {version!r}; this program reads {FORMAT!r} version {VERSION}. "
            "Prepare the corpus again with this program, or read it with the one that made it"
        )
    try:
        return unseal(data)
    except ValueError as error:
        raise RunError(f"{path}: damaged, {error}") from None


def read_index(folder: str | Place, manifest: dict[str, Any]) -> list[Shard]:
    """The rows of the index, after its digest was checked against the manifest's."""
    path = places.at(folder) / INDEX
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}; the corpus is not whole") from None
    if sha256(data) != manifest["index"]:
        raise RunError(f"{path}: damaged, digest {sha256(data)}, the manifest says {manifest['index']}")
    shards = [Shard(**row) for row in pa.ipc.open_file(pa.BufferReader(data)).read_all().to_pylist()]
    if corpus_id(manifest["tokenizer"]["fingerprint"], shards) != manifest["corpus_id"]:
        raise RunError(f"{places.at(folder) / MANIFEST}: damaged, corpus_id does not follow from the index")
    return shards
