"""What a document's content decides: its identity, its split of the corpus, its place in the order.

Pure functions of (source, cleaned text, seed). File names and row numbers never enter, so that renamed or
reordered inputs give the same corpus.
"""

from __future__ import annotations

from dataclasses import dataclass

from data_jobs.hashes import h64, h128, mix


def content_hash(source: str, text: str) -> bytes:
    """The 128-bit content hash c. It is the key of a document; `document_id` alone is not."""
    return h128(source, text)


def document_id(c: bytes) -> int:
    """The `id` column: the first 64 bits of c, little-endian, which is h64(source, text)."""
    return int.from_bytes(c[:8], "little")


@dataclass(frozen=True)
class Placement:
    """Split and order of documents for one `corpus.seed`."""

    split_seed: int
    order_seed: int
    val_below: int

    @classmethod
    def of(cls, seed: int, val_fraction: float) -> Placement:
        """val_below = floor(val_fraction * 2^64)."""
        return cls(h64(seed, "split"), h64(seed, "order"), int(val_fraction * 2.0**64))

    def is_val(self, c: bytes) -> bool:
        """h64(split seed, c) < val_fraction * 2^64."""
        return h64(self.split_seed, c) < self.val_below

    def sort_key(self, c: bytes) -> int:
        """mix(c64 xor order seed); ties are broken by c, then by the metadata bytes."""
        return mix(document_id(c) ^ self.order_seed)
