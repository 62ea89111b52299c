"""The hashes that formats and orders hang on: pure functions that never change.

Part of the shard contract, so that writer and reader agree.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

MASK64 = (1 << 64) - 1
_C1 = 0xBF58476D1CE4E5B9
_C2 = 0x94D049BB133111EB


def sha256(data: bytes | memoryview) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def h64(*parts: int | str | bytes) -> int:
    """First 8 bytes, little-endian, of BLAKE2b-512 over the parts.

    Each part is framed as tag (i, s, b), length in 8 bytes little-endian, payload, so that ("ab", "c")
    and ("a", "bc") differ; integers are taken modulo 2^64 in 8 bytes little-endian, text in UTF-8.
    """
    return int.from_bytes(h128(*parts)[:8], "little")


def h128(*parts: int | str | bytes) -> bytes:
    """First 16 bytes of the digest whose first 8 `h64` reads."""
    digest = hashlib.blake2b()
    for part in parts:
        if isinstance(part, int):
            tag, payload = b"i", (int(part) & MASK64).to_bytes(8, "little")
        elif isinstance(part, str):
            tag, payload = b"s", part.encode()
        else:
            tag, payload = b"b", bytes(part)
        digest.update(tag + len(payload).to_bytes(8, "little"))
        digest.update(payload)
    return digest.digest()[:16]


def mix(x: int) -> int:
    """The splitmix64 finalizer of one integer (Steele, Lea, Flood 2014): a bijection on 64 bits."""
    x &= MASK64
    x = ((x ^ (x >> 30)) * _C1) & MASK64
    x = ((x ^ (x >> 27)) * _C2) & MASK64
    return x ^ (x >> 31)


def mix_array(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """`mix` of each element."""
    x = x.astype(np.uint64, copy=True)
    x ^= x >> np.uint64(30)
    x *= np.uint64(_C1)
    x ^= x >> np.uint64(27)
    x *= np.uint64(_C2)
    x ^= x >> np.uint64(31)
    return x
