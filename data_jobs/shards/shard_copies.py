"""Shards of a corpus in an object store: copied here whole, or chunk by chunk where they do not fit."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from cluster.cache import Cache
from cluster.errors import RunError
from cluster.object_store import ObjectPath
from data_jobs.shards.manifest import SHARDS, Shard
from data_jobs.shards.shard_file import ShardFile
from data_jobs.shards.shard_ranges import Chunks, RangedShard


class Copies:
    """What is copied of a corpus' shards, known by digests: corpora that share a shard share its copy."""

    def __init__(self, corpus: ObjectPath, shards: Sequence[Shard], cache: Cache) -> None:
        self.corpus, self.shards, self.cache = corpus, shards, cache
        self._chunks = Chunks(cache)

    @functools.cached_property
    def fit(self) -> bool:
        """Whether all shards may be in the cache at once."""
        return sum(self._size(shard) for shard in self.shards) <= self.cache.most

    def open(self, shard: Shard) -> ShardFile | RangedShard:
        """A shard: a copy of it, fetched where it is not here yet, or its header alone."""
        path = self.corpus / shard.name
        return self.open_copy(shard) if self.fit else RangedShard(
            path, self._size(shard), shard.digest, self._chunks
        )  # fmt: skip

    def open_copy(self, shard: Shard) -> ShardFile:
        """The copy of a shard. What is damaged is copied anew by the next start."""
        where = self.cache.copy_of(self.corpus / shard.name, _name(shard), self._size(shard))
        try:
            return _Copy(str(where), shard, f"{self.corpus / shard.name} (copy {where})", self.cache)
        except RunError:
            self.cache.discard(_name(shard))
            raise

    def bring(self, first: int = 0) -> None:
        """Copy all shards, from number `first` on and round: first those that no other process is at.

        Nothing where they do not fit.
        """
        if not self.fit:
            return
        at = first % max(1, len(self.shards))
        order = [*self.shards[at:], *self.shards[:at]]
        for wait in (False, True):
            for shard in order:
                self.cache.fetch(self.corpus / shard.name, _name(shard), self._size(shard), wait)

    def release(self, shard: Shard) -> None:
        """The copy is needed no longer: it may go where room is needed."""
        self.cache.release(_name(shard))

    def _size(self, shard: Shard) -> int:
        try:
            return self._sizes[shard.name.removeprefix(f"{SHARDS}/")]
        except KeyError:
            raise RunError(f"{self.corpus / shard.name}: missing; the corpus is not whole") from None

    @functools.cached_property
    def _sizes(self) -> dict[str, int]:
        return (self.corpus / SHARDS).sizes()


class _Copy(ShardFile):
    """A shard file that is given up where it is damaged."""

    def __init__(self, path: str, shard: Shard, name: str, cache: Cache) -> None:
        super().__init__(path, shard.digest, name)
        self._discard = functools.partial(cache.discard, _name(shard))

    def check_chunk(self, buffer: str, number: int) -> None:
        try:
            super().check_chunk(buffer, number)
        except RunError:
            self._discard()
            raise


def _name(shard: Shard) -> str:
    return f"shards/{shard.digest}.arrow"
