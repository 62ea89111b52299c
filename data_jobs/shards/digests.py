"""Digests of a shard's buffers by chunk, and of the shard from those.

A chunk is 1 MiB of one buffer; its digest is the first 16 bytes of SHA-256. The shard's digest is
SHA-256 over schema, rows and chunk digests, so it does not depend on how an Arrow version frames a
file.
"""

from __future__ import annotations

import hashlib
from typing import Any

from cluster.places import to_json
from data_jobs.hashes import sha256

CHUNK_BYTES = 1 << 20
DIGEST_HEX = 32  # the first 16 bytes of SHA-256


def chunk_digest(data: bytes | memoryview) -> str:
    """First 16 bytes of SHA-256, as 32 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()[:DIGEST_HEX]


def chunk_digests(data: memoryview) -> list[str]:
    """The digest of each chunk of a buffer."""
    return [chunk_digest(data[at : at + CHUNK_BYTES]) for at in range(0, len(data), CHUNK_BYTES)]


def shard_digest(header: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of the header: {schema, rows, buffers: [{name, bytes, chunks}]}."""
    return sha256(to_json(header))
