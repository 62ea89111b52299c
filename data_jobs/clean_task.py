"""Task of the first stage: one split of the input to sorted runs of cleaned documents."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from cluster.errors import UserError
from data_jobs.cleaning import clean_text, cut_text
from data_jobs.inputs import Split
from data_jobs.ledger import Count
from data_jobs.raw_bytes import Piece, Reading
from data_jobs.records import HEAD_BYTES, Place, Record, Reject
from data_jobs.rejects import RejectSample
from data_jobs.run_writer import RunWriter, utf8_bytes
from data_jobs.settings import CorpusSettings
from data_jobs.sources import read_source
from data_jobs.work import Job


def clean_split(job: Job) -> dict[str, Any]:
    """Job: {settings, split, folder}. Receipt: {files, runs, read, clean, pieces, rejects, fields}."""
    settings = CorpusSettings.model_validate(job["settings"])
    split = Split.from_json(job["split"])
    work = _CleanSplit(settings, split, job["folder"])
    pieces = [work.read_piece(piece) for piece in split.pieces]
    runs = work.runs.close()
    work.read.change(work.read.bytes_in - sum(work.read.bytes_dropped.values()), work.read.bytes_out)
    work.read.check("read")
    work.clean.check("clean")
    return {
        "files": [run["file"] for run in runs],
        "runs": runs,
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
        self.runs = RunWriter(settings, self.source.name, folder)
        self.read, self.clean = Count(), Count()
        self.sample = RejectSample()
        self.fields: Counter[str] = Counter()

    def read_piece(self, piece: Piece) -> dict[str, Any]:
        reading = Reading()
        for item in read_source(piece, reading, self.source, self.settings.max_document_bytes):
            if isinstance(item, Reject):
                self.reject(item)
            else:
                self.take(item)
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
        size = utf8_bytes(record.text)
        if record.is_cut:
            self.read.documents_added += 1
        else:
            self.read.documents_in += 1
        self.read.documents_out += 1
        self.read.bytes_out += size
        self.clean.documents_in += 1
        self.clean.bytes_in += size
        rules = self.settings.clean
        if self.source.format == "images":  # pixels are no text, and every one stays
            text = record.text
        else:
            text = clean_text(record.text, rules.form, rules.control_characters)
        if not text:
            self.clean.drop("empty", size)
            self.note("empty", "nothing but blanks", record.place, repr(record.text[:HEAD_BYTES])[1:-1])
            return
        cuts = cut_text(text, self.settings.max_document_bytes)
        self.clean.documents_added += len(cuts) - 1
        after = 0
        for cut in cuts:
            after += self.runs.add(cut, record.metadata, json.dumps(vars(record.place)))
        self.clean.change(size, after)
        self.clean.bytes_out += after
        self.clean.documents_out += len(cuts)
