"""A finished corpus, opened for reading: sources, token streams, tokenizer."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cluster.errors import RunError, UserError
from data_jobs.digests import CHUNK_BYTES
from data_jobs.manifest import TOKENIZER, Shard, read_index, read_manifest
from data_jobs.shards import ShardFile
from data_jobs.tokenizer import MODEL_FILE, Tokenizer, load_tokenizer

Verify = Literal["start", "read"]
_VERIFY_AT_START_BYTES = 2 << 30


def open_corpus(path: str | Path, verify: Verify | None = None) -> Corpus:
    """Open a corpus folder.

    `verify`: when the digests of a shard's chunks are checked, all at 'start' or each at its first 'read'; by
    default at the start up to 2 GiB of tokens, else at the read. Raises UserError where the folder is not a
    corpus, RunError where a file is missing or damaged.
    """
    manifest = read_manifest(path)
    corpus = Corpus(Path(path), manifest, read_index(path, manifest))
    if verify is None:
        size = sum(shard.tokens for shard in corpus.shards) * corpus.token_width
        verify = "start" if size <= _VERIFY_AT_START_BYTES else "read"
    if verify == "start":
        corpus.check()
    return corpus


class Corpus:
    """A corpus folder; see `open_corpus`."""

    def __init__(self, path: Path, manifest: dict[str, Any], shards: Sequence[Shard]) -> None:
        self.path = path
        self.manifest = manifest
        self.corpus_id: str = manifest["corpus_id"]
        self.token_width: int = manifest["token_width"]
        self.shards = list(shards)
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
            self._streams[source, split] = TokenStream(self.path, own, self.token_width)
        return self._streams[source, split]

    def check(self) -> None:
        """Check every chunk of every shard."""
        for source in self.manifest["sources"]:
            for split in source["splits"]:
                self.stream(source["name"], split).check()


class TokenStream:
    """All tokens of one source and split as one array, in shard order; each document ends with eos."""

    def __init__(self, folder: Path, shards: Sequence[Shard], width: int) -> None:
        self.width = width
        """Bytes a token."""
        self.tokens = sum(shard.tokens for shard in shards)
        self.documents = sum(shard.documents for shard in shards)
        self.bytes = sum(shard.bytes for shard in shards)
        """UTF-8 bytes of the cleaned text."""
        self._shards = [_OpenShard(folder, shard, width) for shard in shards]
        self._starts = np.cumsum([0, *(shard.tokens for shard in shards)])

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Tokens [start, stop), a view of the file where they lie in one shard.

        Raises RunError where a chunk is damaged.
        """
        if not 0 <= start <= stop <= self.tokens:
            raise ValueError(f"tokens [{start}, {stop}) of a stream of {self.tokens}")
        if start == stop:
            return np.zeros(0, _dtype(self.width))
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        last = int(np.searchsorted(self._starts, stop, side="left")) - 1
        parts = []
        for number in range(first, last + 1):
            base, end = int(self._starts[number]), int(self._starts[number + 1])
            parts.append(self._shards[number].read(max(start, base) - base, min(stop, end) - base))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def check(self) -> None:
        """Check every chunk."""
        for shard in self._shards:
            shard.check()


class _OpenShard:
    """A shard file, opened and checked when it is first read."""

    def __init__(self, folder: Path, shard: Shard, width: int) -> None:
        self._path, self._shard, self._width = folder / shard.name, shard, width
        self._checked: npt.NDArray[np.bool_] | None = None

    @functools.cached_property
    def _file(self) -> ShardFile:
        file = ShardFile(self._path, self._shard.digest)
        at, chunks, size = file.buffers["tokens.values"]
        if at != self._shard.values_at or size != self._shard.tokens * self._width:
            raise RunError(
                f"{self._path}: damaged, {size} bytes of tokens at {at}; the index says "
                f"{self._shard.tokens * self._width} at {self._shard.values_at}"
            )
        self._checked = np.zeros(len(chunks), bool)
        return file

    @functools.cached_property
    def _values(self) -> npt.NDArray[Any]:
        return np.memmap(
            self._file.path,
            _dtype(self._width),
            "r",
            offset=self._shard.values_at,
            shape=(self._shard.tokens,),
        )

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        file = self._file
        checked = self._checked
        assert checked is not None
        first = start * self._width // CHUNK_BYTES
        last = (stop * self._width - 1) // CHUNK_BYTES
        if not checked[first : last + 1].all():
            for number in range(first, last + 1):
                if not checked[number]:
                    file.check_chunk("tokens.values", number)
                    checked[number] = True
        return np.asarray(self._values[start:stop])

    def check(self) -> None:
        self._file.check()
        assert self._checked is not None
        self._checked[:] = True


def _dtype(width: int) -> np.dtype[Any]:
    return np.dtype(f"<u{width}")
