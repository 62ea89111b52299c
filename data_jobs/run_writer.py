"""Cleaned documents to sorted runs, in bounded memory."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from cluster.places import to_json
from data_jobs.content import Placement, content_hash
from data_jobs.runs import Document, write_text_run
from data_jobs.settings import CorpusSettings
from data_jobs.work import keep, temporary

RUN_BYTES = 256 << 20
"""In memory before a run is written: a split of any size takes a bounded amount of it."""
_DOCUMENT_BYTES = 600
"""That a document takes beside its text and metadata: of short lines that is nearly all of it."""


class RunWriter:
    """Documents of one source; what they hold decides their place, and the name of a run."""

    def __init__(self, settings: CorpusSettings, source: str, folder: str | Path) -> None:
        self._source, self._folder = source, folder
        self._placement = Placement.of(settings.seed, settings.val_fraction)
        self._runs: list[dict[str, Any]] = []
        self._documents: list[Document] = []
        self._text_bytes = self._held_bytes = 0

    def add(self, text: str, metadata: dict[str, str], place: str) -> int:
        """Take a document in, `place` as JSON; its UTF-8 bytes."""
        c = content_hash(self._source, text)
        key, val = self._placement.sort_key(c), self._placement.is_val(c)
        data = to_json(metadata).rstrip(b"\n")
        self._documents.append(Document(val, key, c, data, place, text))
        size = utf8_bytes(text)
        self._text_bytes += size
        # Of the place nothing: what a run holds, and so its name, is a function of contents.
        self._held_bytes += size + len(data) + _DOCUMENT_BYTES
        if self._held_bytes >= RUN_BYTES:
            self._write()
        return size

    def close(self) -> list[dict[str, Any]]:
        """All runs: {file, name, documents, bytes, train_bytes}."""
        self._write()
        return self._runs

    def _write(self) -> None:
        if not self._documents:
            return
        self._documents.sort()
        train_bytes = sum(utf8_bytes(d.text) for d in self._documents if not d.val)
        counts = {"documents": len(self._documents), "bytes": self._text_bytes, "train_bytes": train_bytes}
        with temporary(self._folder) as tmp:
            write_text_run(tmp, self._documents)
            path = keep(tmp, f"{_name_of(self._source, self._documents)}.text.arrow")
        run = {"file": path, "name": Path(path).name.split(".")[0]}
        self._runs.append({**run, **counts})
        self._documents, self._text_bytes, self._held_bytes = [], 0, 0


def _name_of(source: str, documents: list[Document]) -> str:
    """A run's name: a digest of what stands in it, not of the file that it came from."""
    digest = hashlib.sha256(source.encode())
    for document in documents:
        digest.update(document.c + len(document.metadata).to_bytes(8, "little") + document.metadata)
    return digest.hexdigest()[:32]


def utf8_bytes(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())
