"""JSON that vouches for itself: for the one file of a set that nothing else has a digest of."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from cluster.places import to_json

DIGEST = "digest"


def seal(value: dict[str, Any]) -> bytes:
    """Canonical JSON of the value with the SHA-256 of it added under `digest`."""
    return to_json(value | {DIGEST: hashlib.sha256(to_json(value)).hexdigest()})


def unseal(data: bytes) -> dict[str, Any]:
    """The sealed value, without its digest. ValueError where the data are not what was sealed."""
    value = json.loads(data)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    if seal({name: item for name, item in value.items() if name != DIGEST}) != data:
        raise ValueError("its own digest differs: it was changed")
    del value[DIGEST]
    return value
