"""Task of the first stage: one split of the input to sorted runs of cleaned documents."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from cluster.errors import UserError
from cluster.places import to_json
from data_jobs.cleaning import clean_text, cut_text
from data_jobs.content import Placement, content_hash
from data_jobs.inputs import Split
from data_jobs.ledger import Count
from data_jobs.raw_bytes import Piece, Reading
from data_jobs.records import HEAD_BYTES, Place, Record, Reject, read_records
from data_jobs.rejects import RejectSample
from data_jobs.runs import Document, write_text_run
from data_jobs.settings import CorpusSettings
from data_jobs.work import Job, keep, temporary

RUN_BYTES = 256 << 20
"""Text in memory before a run is written: a split of any size takes a bounded amount of it."""


def clean_split(job: Job) -> dict[str, Any]:
    """Job: {settings, split, folder}. Receipt: {files, runs, read, clean, pieces, rejects, fields}."""
    settings = CorpusSettings.model_validate(job["settings"])
    split = Split.from_json(job["split"])
    work = _CleanSplit(settings, split, job["folder"])
    pieces = [work.read_piece(piece) for piece in split.pieces]
    work.write_run()
    work.read.bytes_removed = work.read.bytes_in - sum(work.read.bytes_dropped.values()) - work.read.bytes_out
    work.read.check("read")
    work.clean.check("clean")
    return {
        "files": [run["file"] for run in work.runs],
        "runs": work.runs,
        "read": work.read.to_json(),
        "clean": work.clean.to_json(),
        "pieces": pieces,
        "rejects": work.sample.entries(),
        "fields": dict(work.fields.most_common(20)),
    }


class _CleanSplit:
    def __init__(self, settings: CorpusSettings, split: Split, folder: str) -> None:
        self.settings = settings
        self.source = settings.sources[split.source]
        self.folder = folder
        self.placement = Placement.of(settings.seed, settings.val_fraction)
        self.read, self.clean = Count(), Count()
        self.sample = RejectSample()
        self.fields: Counter[str] = Counter()
        self.runs: list[dict[str, Any]] = []
        self.documents: list[Document] = []
        self.held_bytes = 0

    def read_piece(self, piece: Piece) -> dict[str, Any]:
        reading = Reading()
        source = self.source
        for item in read_records(
            piece,
            reading,
            format=source.format,
            text_field=source.text_field,
            per=source.per,
            metadata=source.metadata,
            max_bytes=self.settings.max_document_bytes,
        ):
            if isinstance(item, Reject):
                self.reject(item)
            else:
                self.take(item)
            if self.held_bytes >= RUN_BYTES:
                self.write_run()
        self.read.bytes_in += reading.bytes_read
        return {
            "path": piece.path,
            "start": piece.start,
            "stop": piece.stop,
            "lines": reading.lines,
            "digest": reading.digest.hexdigest(),
            "damage": reading.damage,
        }

    def reject(self, reject: Reject) -> None:
        if self.settings.on_bad == "fail":
            raise UserError(f"{reject.place}: {reject.reason}: {reject.detail} (corpus.on_bad is fail)")
        self.read.documents_in += 1
        self.read.drop(reject.reason, reject.raw_bytes)
        self.fields.update(reject.fields[:50])
        self.note(reject.reason, reject.detail, reject.place, reject.head)

    def note(self, reason: str, detail: str, place: Place, head: str) -> None:
        self.sample.add(
            {"reason": reason, "detail": detail, "source": self.source.name, **vars(place), "head": head}
        )

    def take(self, record: Record) -> None:
        size = _utf8_bytes(record.text)
        if record.is_cut:
            self.read.documents_added += 1
        else:
            self.read.documents_in += 1
        self.read.documents_out += 1
        self.read.bytes_out += size
        self.clean.documents_in += 1
        self.clean.bytes_in += size
        rules = self.settings.clean
        text = clean_text(record.text, rules.form, rules.control_characters)
        if not text:
            self.clean.drop("empty", size)
            self.note("empty", "nothing but blanks", record.place, repr(record.text[:HEAD_BYTES])[1:-1])
            return
        cuts = cut_text(text, self.settings.max_document_bytes)
        self.clean.documents_added += len(cuts) - 1
        after = 0
        for cut in cuts:
            after += self.add(cut, record)
        self.clean.change(size, after)
        self.clean.bytes_out += after
        self.clean.documents_out += len(cuts)

    def add(self, text: str, record: Record) -> int:
        c = content_hash(self.source.name, text)
        key, val = self.placement.sort_key(c), self.placement.is_val(c)
        metadata = to_json(record.metadata).rstrip(b"\n")
        place = json.dumps(vars(record.place))
        self.documents.append(Document(val, key, c, metadata, place, text))
        size = _utf8_bytes(text)
        self.held_bytes += size
        return size

    def write_run(self) -> None:
        if not self.documents:
            return
        self.documents.sort()
        train_bytes = sum(_utf8_bytes(d.text) for d in self.documents if not d.val)
        with temporary(self.folder) as tmp:
            write_text_run(tmp, self.documents)
            path = keep(tmp, f"{_name_of(self.source.name, self.documents)}.text.arrow")
        run = {"file": path, "name": Path(path).name.split(".")[0]}
        self.runs.append({**run, "documents": len(self.documents), "train_bytes": train_bytes})
        self.documents, self.held_bytes = [], 0


def _name_of(source: str, documents: list[Document]) -> str:
    """A run's name: a digest of what stands in it, not of the file that it came from."""
    digest = hashlib.sha256(source.encode())
    for document in documents:
        digest.update(document.c + len(document.metadata).to_bytes(8, "little") + document.metadata)
    return digest.hexdigest()[:32]


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
