"""A shard in an object store of which only those chunks are copied here that are read.

For a corpus that is larger than the cache. A copy is one chunk, known by its digest, so that it is checked by
its name; whoever reads gets bytes of his own, and the copy may go at any time.
"""

from __future__ import annotations

import queue
import tempfile
import threading
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.cache import Cache
from cluster.errors import RunError
from cluster.object_store import ObjectPath, PlaceError
from data_jobs.shards.digests import CHUNK_BYTES, DIGEST_HEX, chunk_digest
from data_jobs.shards.shard_file import ShardFile

KEPT = 64  # chunks in memory, of all shards of a corpus
FETCHERS = 8  # requests at once for what will be read
ENDS = (1 << 20, 1 << 26)  # bytes at both ends of a file in which its header is looked for
_DIGEST_BYTES = DIGEST_HEX // 2


class Chunks:
    """Chunks of a corpus' shards: from memory, from a copy on this machine, or fetched. Safe for threads."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._memory: OrderedDict[str, bytes] = OrderedDict()
        self._guard = threading.Lock()
        self._locks = [threading.Lock() for _ in range(64)]  # a chunk is looked for by one thread at a time
        self._fetchers: list[threading.Thread] = []
        self._queue: queue.SimpleQueue[tuple[ObjectPath, int, int, str]] = queue.SimpleQueue()
        self._expected = 0

    def get(self, path: ObjectPath, start: int, length: int, digest: str) -> bytes:
        """Bytes [start, start + length) of a shard. RunError where they have another digest."""
        with self._locks[int(digest[:4], 16) % len(self._locks)]:
            with self._guard:
                if digest in self._memory:
                    self._memory.move_to_end(digest)
                    return self._memory[digest]
            data = self._read(path, start, length, digest)
            with self._guard:
                self._memory[digest] = data
                if len(self._memory) > KEPT:
                    self._memory.popitem(last=False)
            return data

    def expect(self, path: ObjectPath, start: int, length: int, digest: str) -> None:
        """It will be read: copied here meanwhile, unless so much is expected that the first would be gone."""
        with self._guard:
            if digest in self._memory or self._expected >= self._cache.most // (4 * CHUNK_BYTES):
                return
            self._expected += 1
            if len(self._fetchers) < FETCHERS:
                # Not a pool, which the end of a process waits for until all that is queued has been fetched.
                self._fetchers.append(threading.Thread(target=self._fetch, name="fetch", daemon=True))
                self._fetchers[-1].start()
        self._queue.put((path, start, length, digest))

    def _fetch(self) -> None:
        while True:
            place = self._queue.get()
            with suppress(Exception):  # what went wrong is said by the one who reads it
                self.get(*place)
            with self._guard:
                self._expected -= 1

    def _read(self, path: ObjectPath, start: int, length: int, digest: str) -> bytes:
        name = f"chunks/{digest[:2]}/{digest}"
        for _ in range(2):  # a copy may be damaged
            copy = self._cache.copy_of(path, name, length, start)
            data = copy.read_bytes()
            if chunk_digest(data) == digest:
                self._cache.release(name)
                return data
            self._cache.discard(name)
        raise RunError(
            f"{path}: bytes {start:,} to {start + length:,} are damaged: digest {chunk_digest(data)}, "
            f"written as {digest}"
        )

    def open_header(self, path: ObjectPath, size: int, digest: str) -> ShardFile:
        """A shard opened as a file with holes that has only both ends. They are copied here, too.

        RunError where it is not the shard with this digest.
        """
        for ends in ENDS:
            parts = [(0, size)] if size <= 2 * ends else [(0, ends), (size - ends, ends)]
            try:
                return self._open_parts(path, parts, digest)
            except PlaceError:
                raise
            except RunError:
                if len(parts) == 1 or ends == ENDS[-1]:
                    raise
        raise AssertionError("not reached")

    def _open_parts(self, path: ObjectPath, parts: list[tuple[int, int]], digest: str) -> ShardFile:
        names = [f"headers/{digest}-{start}-{length}" for start, length in parts]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "ends"
            with open(file, "wb") as sink:
                for name, (start, length) in zip(names, parts, strict=True):
                    sink.seek(start)
                    sink.write(self._end(path, name, start, length))
            try:
                return ShardFile(file, digest, str(path))
            except RunError:
                for name in names:  # a copy may be damaged: the next start looks at the shard itself
                    self._cache.discard(name)
                raise

    def _end(self, path: ObjectPath, name: str, start: int, length: int) -> bytes:
        if length > min(2 * ENDS[0], self._cache.most // 8):  # it would take the place of too many chunks
            return path.read_range(start, length)
        data = self._cache.copy_of(path, name, length, start).read_bytes()
        self._cache.release(name)
        return data


class RangedShard:
    """The header of a shard, and its buffers by range. RunError where it is not the shard of the index."""

    def __init__(self, path: ObjectPath, size: int, digest: str, chunks: Chunks) -> None:
        self.path, self.name = path, str(path)
        self._chunks = chunks
        self.buffers = {  # digests as plain bytes: as texts they take three times as much
            name: (at, bytes.fromhex("".join(digests)), length)
            for name, (at, digests, length) in chunks.open_header(path, size, digest).buffers.items()
        }

    def read(self, buffer: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a buffer."""
        first, last = start // CHUNK_BYTES, (stop - 1) // CHUNK_BYTES
        parts = [self._chunks.get(*self._place(buffer, number)) for number in range(first, last + 1)]
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        return data[start - first * CHUNK_BYTES : stop - first * CHUNK_BYTES]

    def expect(self, buffer: str, start: int, stop: int) -> None:
        """Say what will be read."""
        for number in range(start // CHUNK_BYTES, (stop - 1) // CHUNK_BYTES + 1):
            self._chunks.expect(*self._place(buffer, number))

    def check(self) -> None:
        """Read every chunk."""
        for buffer, (_, chunks, _) in self.buffers.items():
            for number in range(len(chunks) // _DIGEST_BYTES):
                self._chunks.get(*self._place(buffer, number))

    def _place(self, buffer: str, number: int) -> tuple[ObjectPath, int, int, str]:
        at, chunks, size = self.buffers[buffer]
        start = number * CHUNK_BYTES
        digest = chunks[number * _DIGEST_BYTES : (number + 1) * _DIGEST_BYTES].hex()
        return self.path, at + start, min(CHUNK_BYTES, size - start), digest


class RangedBuffer:
    """One buffer of a ranged shard as an array that is read by items."""

    def __init__(self, file: RangedShard, name: str, dtype: np.dtype[Any]) -> None:
        self._file, self._name, self._dtype = file, name, dtype

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Items [start, stop), a copy."""
        if start == stop:
            return np.zeros(0, self._dtype)
        width = self._dtype.itemsize
        return np.frombuffer(self._file.read(self._name, start * width, stop * width), self._dtype)

    def expect(self, start: int, stop: int) -> None:
        """Say what will be read."""
        width = self._dtype.itemsize
        self._file.expect(self._name, start * width, stop * width)
