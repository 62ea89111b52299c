"""A finished corpus, opened for reading: sources, token streams, tokenizer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cluster import places
from cluster.cache import Cache
from cluster.errors import RunError, UserError
from cluster.places import Place
from data_jobs.shards.digests import CHUNK_BYTES
from data_jobs.shards.manifest import TOKENIZER, Shard, read_index, read_manifest
from data_jobs.shards.shard_copies import Copies
from data_jobs.shards.shard_file import ShardFile
from data_jobs.shards.shard_ranges import RangedBuffer, RangedShard
from data_jobs.tokens.tokenizer import MODEL_FILE, Tokenizer, load_tokenizer

Verify = Literal["start", "read"]
_VERIFY_AT_START_BYTES = 2 << 30
_NONE = np.zeros(0, np.int64)


def open_corpus(path: str | Place, verify: Verify | None = None, cache: Cache | None = None) -> Corpus:
    """Open a corpus folder; of one in an object store each shard is copied to `cache` when it is first read.

    `verify`: when the digests of a shard's chunks are checked, all at 'start' or each at its first 'read'; by
    default at the start up to 2 GiB of tokens, else at the read. Raises UserError where the folder is not a
    corpus, RunError where a file is missing or damaged.
    """
    manifest = read_manifest(path)
    corpus = Corpus(places.at(path), manifest, read_index(path, manifest), cache)
    corpus.check_when(verify)
    return corpus


class Corpus:
    """A corpus folder; see `open_corpus`."""

    def __init__(
        self, path: Place, manifest: dict[str, Any], shards: Sequence[Shard], cache: Cache | None = None
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.corpus_id: str = manifest["corpus_id"]
        self.token_width: int = manifest["token_width"]
        self.shards = list(shards)
        self.copies = (
            Copies(path, self.shards, cache or Cache()) if isinstance(path, places.ObjectPath) else None
        )
        self._streams: dict[tuple[str, str], TokenStream] = {}

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The corpus's own tokenizer. RunError where its fingerprint is not the manifest's."""
        tokenizer = load_tokenizer(self.path / TOKENIZER)
        said = self.manifest["tokenizer"]["fingerprint"]
        if tokenizer.fingerprint != said:
            raise RunError(
                f"{self.path / TOKENIZER / MODEL_FILE}: damaged, fingerprint {tokenizer.fingerprint}, "
                f"the manifest says {said}"
            )
        return tokenizer

    def sources(self, split: str) -> list[str]:
        """Names of the sources that have documents in a split, in the manifest's order."""
        return [source["name"] for source in self.manifest["sources"] if split in source["splits"]]

    def stream(self, source: str, split: str) -> TokenStream:
        """The tokens of one source and split. The same object each time: it knows what it has checked."""
        if (source, split) not in self._streams:
            own = [shard for shard in self.shards if (shard.source, shard.split) == (source, split)]
            if not own:
                there = ", ".join(self.sources(split)) or "none"
                raise UserError(
                    f"{self.path}: no source '{source}' with documents in '{split}' (there: {there})"
                )
            kind = FarTokenStream if self.copies and not self.copies.fit else TokenStream
            self._streams[source, split] = kind(self.path, own, self.token_width, self.open)
        return self._streams[source, split]

    def open(self, shard: Shard) -> ShardFile | RangedShard:
        """A shard's file, here, as a copy, or by ranges. RunError where it is not the one of the index."""
        if self.copies:
            return self.copies.open(shard)
        return ShardFile(self.path / shard.name, shard.digest)  # type: ignore[arg-type]

    def bring(self, first: int = 0) -> None:
        """Copy all shards of a remote corpus here now, if they fit, from number `first` on and round.

        Processes of one machine that begin at different ones share the work.
        """
        if self.copies:
            self.copies.bring(first)

    def check_when(self, verify: Verify | None) -> None:
        """Check all at the start, if that is wanted; see `open_corpus`."""
        if self.copies and not self.copies.fit:
            return  # each chunk is checked when it is fetched
        if verify is None:
            size = sum(shard.tokens for shard in self.shards) * self.token_width
            verify = "start" if size <= _VERIFY_AT_START_BYTES else "read"
        if verify == "start":
            self.check()

    def check(self) -> None:
        """Check every chunk of every shard."""
        for source in self.manifest["sources"]:
            for split in source["splits"]:
                self.stream(source["name"], split).check()


class TokenStream:
    """All tokens of one source and split as one array, in shard order; each document ends with eos."""

    def __init__(
        self,
        folder: Place,
        shards: Sequence[Shard],
        width: int,
        open_file: Callable[[Shard], ShardFile | RangedShard] | None = None,
    ) -> None:
        """`open_file`: how a shard is opened (default: as a file of the folder)."""
        self.width = width
        """Bytes a token."""
        self.tokens = sum(shard.tokens for shard in shards)
        self.documents = sum(shard.documents for shard in shards)
        self.bytes = sum(shard.bytes for shard in shards)
        """UTF-8 bytes of the cleaned text."""
        open_file = open_file or (lambda shard: ShardFile(str(folder / shard.name), shard.digest))
        self._shards = [_OpenShard(open_file, shard, width) for shard in shards]
        self._starts = np.cumsum([0, *(shard.tokens for shard in shards)])

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Tokens [start, stop), a view of the file where they lie in one shard.

        Raises RunError where a chunk is damaged.
        """
        self._check_range(start, stop)
        parts = [shard.tokens.read(first, last) for shard, _, first, last in self._parts(start, stop)]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.zeros(0, _dtype(self.width))

    def document_bounds(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Bounds of the documents that begin in [start, stop): where each begins, then where the last ends.

        Empty where none begins there. Raises RunError where a chunk is damaged.
        """
        self._check_range(start, stop)
        found = [
            base + shard.document_bounds(first, last) for shard, base, first, last in self._parts(start, stop)
        ]
        found = [bounds for bounds in found if len(bounds)]
        # A shard holds whole documents: where one's last document ends, the next one's first begins.
        return np.concatenate([*(bounds[:-1] for bounds in found), found[-1][-1:]]) if found else _NONE

    def sentence_ends(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Where the sentences of these documents end (exclusive), rising; the last of each before its eos.

        Raises RunError where a chunk is damaged.
        """
        self._check_range(start, stop)
        found = [
            base + shard.sentence_ends(first, last) for shard, base, first, last in self._parts(start, stop)
        ]
        return np.concatenate(found) if found else _NONE

    def check(self) -> None:
        """Check every chunk."""
        for shard in self._shards:
            shard.check()

    def _check_range(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.tokens:
            raise ValueError(f"tokens [{start}, {stop}) of a stream of {self.tokens}")

    def _parts(self, start: int, stop: int) -> Iterator[tuple[_OpenShard, int, int, int]]:
        """The shards in which [start, stop) lies: the shard, its first token, and the range in it."""
        if start == stop:
            return
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        last = int(np.searchsorted(self._starts, stop, side="left")) - 1
        for number in range(first, last + 1):
            base, end = int(self._starts[number]), int(self._starts[number + 1])
            yield self._shards[number], base, max(start, base) - base, min(stop, end) - base


class FarTokenStream(TokenStream):
    """The tokens of a corpus that is larger than the cache."""

    def expect(self, start: int, stop: int) -> None:
        """Say that tokens [start, stop) will be read: they are fetched meanwhile."""
        for shard, _, first, last in self._parts(start, stop):
            shard.expect(first, last)


class _OpenShard:
    """A shard file, opened and checked when it is first read."""

    def __init__(
        self, open_file: Callable[[Shard], ShardFile | RangedShard], shard: Shard, width: int
    ) -> None:
        self._open, self._shard, self._width = open_file, shard, width
        self._buffers: dict[str, _Buffer | RangedBuffer] = {}

    @functools.cached_property
    def _file(self) -> ShardFile | RangedShard:
        file = self._open(self._shard)
        at, _, size = file.buffers["tokens.values"]
        if at != self._shard.values_at or size != self._shard.tokens * self._width:
            raise RunError(
                f"{file.name}: damaged, {size} bytes of tokens at {at}; the index says "
                f"{self._shard.tokens * self._width} at {self._shard.values_at}"
            )
        return file

    @property
    def tokens(self) -> _Buffer | RangedBuffer:
        """All tokens."""
        return self._buffer("tokens.values")

    def document_bounds(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Bounds of the documents that begin in [start, stop); see `TokenStream.document_bounds`."""
        first, last = self._documents(start, stop)
        # All offsets of a shard are checked at once: they are searched, and few beside the tokens.
        return self._offsets("tokens")[first : last + 1] if last > first else _NONE

    def sentence_ends(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Ends of the sentences of these documents; see `TokenStream.sentence_ends`."""
        first, last = self._documents(start, stop)
        if first == last:
            return _NONE
        begins, lists = self._offsets("tokens")[first:last], self._offsets("sentence_ends")[first : last + 1]
        inside = self._buffer("sentence_ends.values").read(int(lists[0]), int(lists[-1]))
        return np.repeat(begins, np.diff(lists)) + inside

    def expect(self, start: int, stop: int) -> None:
        if isinstance(self.tokens, RangedBuffer):
            self.tokens.expect(start, stop)

    def check(self) -> None:
        self._file.check()
        for name in ("tokens.values", "tokens.offsets", "sentence_ends.values", "sentence_ends.offsets"):
            if isinstance(buffer := self._buffer(name), _Buffer):
                buffer.checked[:] = True

    def _documents(self, start: int, stop: int) -> tuple[int, int]:
        first, last = np.searchsorted(self._offsets("tokens")[:-1], [start, stop])
        return int(first), int(last)

    def _offsets(self, column: str) -> npt.NDArray[np.int64]:
        return self._buffer(f"{column}.offsets").read(0, self._shard.documents + 1)

    def _buffer(self, name: str) -> _Buffer | RangedBuffer:
        if name not in self._buffers:
            at, chunks, size = self._file.buffers[name]
            kinds = {"tokens.values": _dtype(self._width), "sentence_ends.values": np.dtype("<u4")}
            kind = kinds.get(name, np.dtype("<i8"))
            if isinstance(self._file, RangedShard):
                self._buffers[name] = RangedBuffer(self._file, name, kind)
            else:
                values = np.frombuffer(self._file.data, kind, size // kind.itemsize, at)
                self._buffers[name] = _Buffer(self._file, name, values, len(chunks))
        return self._buffers[name]


class _Buffer:
    """One buffer of a shard as an array; each chunk is checked when it is first read."""

    def __init__(self, file: ShardFile, name: str, values: npt.NDArray[Any], chunks: int) -> None:
        self._file, self._name, self._values, self._width = file, name, values, values.dtype.itemsize
        self.checked = np.zeros(chunks, bool)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Items [start, stop), not copied."""
        first = start * self._width // CHUNK_BYTES
        last = (stop * self._width - 1) // CHUNK_BYTES
        checked = self.checked
        if not checked[first : last + 1].all():
            for number in range(first, last + 1):
                if not checked[number]:
                    self._file.check_chunk(self._name, number)
                    checked[number] = True
        return np.asarray(self._values[start:stop])


def _dtype(width: int) -> np.dtype[Any]:
    return np.dtype(f"<u{width}")
