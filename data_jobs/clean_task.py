"""Task of the first stage: one split of the input to sorted runs of documents, cleaned, filtered."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from cluster.errors import UserError
from data_jobs.cleaning.clean_settings import rules_of_source
from data_jobs.cleaning.cleaner import Cleaner, cut_text
from data_jobs.filters.judging import BATCH_BYTES, Dropped, Judge, judge_nothing
from data_jobs.ledger import Count
from data_jobs.reading.inputs import Split
from data_jobs.reading.missing import is_left_out
from data_jobs.reading.raw_bytes import Piece, Reading
from data_jobs.reading.records import HEAD_BYTES, Place, Record, Reject
from data_jobs.reading.sources import read_source
from data_jobs.rejects import RejectSample
from data_jobs.run_writer import RunWriter, utf8_bytes
from data_jobs.settings import CorpusSettings
from data_jobs.work import Job


def clean_split(job: Job) -> dict[str, Any]:
    """Job: {settings, split, folder, filter}. Receipt: {files, runs, read, clean, filter, pieces, rejects,
    fields, changes, corrections, histograms}.

    `filter` false (true if not given): every document passes, because a later stage filters.
    """
    settings = CorpusSettings.model_validate(job["settings"])
    split = Split.from_json(job["split"])
    work = _CleanSplit(settings, split, job["folder"], job.get("filter", True))
    pieces = [work.read_piece(piece) for piece in split.pieces]
    work.judge_held()
    runs = work.runs.close()
    came = work.read.bytes_in + work.read.bytes_added
    work.read.change(came - sum(work.read.bytes_dropped.values()), work.read.bytes_out)
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
        **work.cleaner.to_json(),
        **work.judge.to_json(),
    }


class _CleanSplit:
    def __init__(self, settings: CorpusSettings, split: Split, folder: str, filter_here: bool) -> None:
        self.settings = settings
        self.source = settings.sources[split.source]
        self.cleaner = Cleaner(rules_of_source(settings.clean, self.source.format, self.source.clean))
        self.judge = Judge(settings if filter_here else judge_nothing(settings), self.source)
        self.runs = RunWriter(settings, self.source.name, folder)
        self.read, self.clean = Count(), Count()
        self.sample = RejectSample()
        self.fields: Counter[str] = Counter()
        self._held: list[tuple[str, Record]] = []
        self._held_bytes = 0

    def read_piece(self, piece: Piece) -> dict[str, Any]:
        reading = Reading()
        for item in read_source(piece, reading, self.source, self.settings.max_document_bytes):
            if isinstance(item, Reject):
                self.reject(item)
            else:
                self.take(item)
        self.read.bytes_in += reading.bytes_read
        self.read.bytes_added += reading.bytes_added
        return {
            "path": piece.path,
            "start": piece.start,
            "stop": piece.stop,
            "lines": reading.lines,
            "digest": reading.digest.hexdigest(),
            "damage": reading.damage,
        }

    def reject(self, reject: Reject) -> None:
        if self.settings.on_bad == "fail" and not is_left_out(self.source, reject.reason):
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
        is_text = self.source.format != "images"  # pixels are no text, and every one stays
        text = self.cleaner.clean(record.text) if is_text else record.text
        if not text:
            self.clean.drop("empty", size)
            self.note("empty", "nothing but blanks", record.place, _head(record.text))
            return
        cuts = cut_text(text, self.settings.max_document_bytes)
        after = sum(map(utf8_bytes, cuts))
        self.clean.documents_added += len(cuts) - 1
        self.clean.change(size, after)
        self.clean.bytes_out += after
        self.clean.documents_out += len(cuts)
        self._held += [(cut, record) for cut in cuts]
        self._held_bytes += after
        if self._held_bytes >= BATCH_BYTES:
            self.judge_held()

    def judge_held(self) -> None:
        """What the filters leave of the documents that were gathered goes into the runs."""
        held, self._held, self._held_bytes = self._held, [], 0
        verdicts = self.judge.judge([text for text, _ in held])
        for (text, record), verdict in zip(held, verdicts, strict=True):
            if isinstance(verdict, Dropped):
                self.note(verdict.reason, verdict.detail, record.place, _head(text))
            else:
                self.runs.add(verdict.text, record.metadata, json.dumps(vars(record.place)))


def _head(text: str) -> str:
    return repr(text[:HEAD_BYTES])[1:-1]
