"""Shards of a corpus in an object store, copied to this machine."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from cluster.cache import Cache
from cluster.errors import RunError
from cluster.object_store import ObjectPath
from data_jobs.manifest import SHARDS, Shard
from data_jobs.shards import ShardFile


class Copies:
    """Copies of a corpus' shards, each known by its digest: shared by corpora that share the shard."""

    def __init__(self, corpus: ObjectPath, shards: Sequence[Shard], cache: Cache) -> None:
        self.corpus, self.shards, self.cache = corpus, shards, cache

    def open(self, shard: Shard) -> ShardFile:
        """A shard, copied here where it is not yet. What is damaged is copied anew by the next start."""
        where = self.cache.copy_of(self.corpus / shard.name, _name(shard), self._size(shard))
        try:
            return _Copy(where, shard, f"{self.corpus / shard.name} (copy {where})", self.cache)
        except RunError:
            self.cache.discard(_name(shard))
            raise

    def check_room(self) -> None:
        """UserError where the corpus is larger than the cache."""
        self.cache.check_room(self.corpus, sum(self._size(shard) for shard in self.shards))

    def bring(self, first: int = 0) -> None:
        """Copy all shards, from number `first` on and round: first those that no other process is at."""
        self.check_room()
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

    def __init__(self, path: object, shard: Shard, name: str, cache: Cache) -> None:
        super().__init__(str(path), shard.digest, name)
        self._discard = functools.partial(cache.discard, _name(shard))

    def check_chunk(self, buffer: str, number: int) -> None:
        try:
            super().check_chunk(buffer, number)
        except RunError:
            self._discard()
            raise


def _name(shard: Shard) -> str:
    return f"shards/{shard.digest}.arrow"
