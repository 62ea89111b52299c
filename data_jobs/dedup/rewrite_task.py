"""Task of repeated text, the last: a run of documents to runs of what is left of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_jobs.dedup.repeat_tasks import FIRST, units_of
from data_jobs.filters.judging import Dropped, Judge, Kept
from data_jobs.key_ranges import WHOLE, Range, parts_of_range
from data_jobs.ledger import Count
from data_jobs.rejects import RejectSample
from data_jobs.run_writer import RunWriter, utf8_bytes
from data_jobs.runs import RunFile
from data_jobs.settings import CorpusSettings
from data_jobs.work import Job

Array = npt.NDArray[Any]
Spans = list[tuple[int, int]]
_KINDS = {"lines": np.dtype(np.uint64), "paragraphs": FIRST}
_NONE = np.zeros(0, np.uint64)


def rewrite_run(job: Job) -> dict[str, Any]:
    """Job: {settings, source, run, lines, paragraphs, units, folder}: number of a source, files of what is
    repeated in it, and by kind the hashes of what is in the run.

    Receipt: {files, runs, repeats, filter, histograms, rejects}.
    """
    work = _Rewrite(job)
    for batch in RunFile(job["run"]).batches():
        left = list(work.shortened(batch))
        verdicts = work.judge.judge([text for _, text in left])
        for (row, text), verdict in zip(left, verdicts, strict=True):
            work.take(batch, row, text, verdict)
    runs = work.writer.close()
    work.repeats.check("repeats")
    return {
        "files": [run["file"] for run in runs],
        "runs": runs,
        "repeats": work.repeats.to_json(),
        **work.judge.to_json(),
        "rejects": work.sample.entries(),
    }


def without(text: str, spans: Spans) -> str:
    """The text less these spans of its UTF-8 bytes, which are sorted; empty where only blanks are left.

    Newlines that a removal left at the beginning or the end go with it.
    """
    data = text.encode()
    parts, at = [], 0
    for start, stop in spans:
        parts.append(data[at : max(at, start)])
        at = max(at, stop)
    left = b"".join([*parts, data[at:]]).decode().strip("\n")
    return "" if left.isspace() else left


class _Rewrite:
    def __init__(self, job: Job) -> None:
        self.settings = CorpusSettings.model_validate(job["settings"])
        source = self.settings.sources[job["source"]]
        self.source = source.name
        self.judge = Judge(self.settings, source)
        self.writer = RunWriter(self.settings, self.source, job["folder"])
        self.repeats = Count()
        self.sample = RejectSample()
        self._known = {kind: _known(job[kind], units, _KINDS[kind]) for kind, units in job["units"].items()}

    def shortened(self, batch: pa.RecordBatch) -> Iterator[tuple[int, str]]:
        """(row, what is left of its text) where something is."""
        cuts = _cuts(batch, self._known, self.settings)
        for row, text in enumerate(batch["text"].to_pylist()):
            left = without(text, cuts[row]) if row in cuts else text
            size = utf8_bytes(text)
            self.repeats.documents_in += 1
            self.repeats.bytes_in += size
            if not left:
                self.repeats.drop("empty", size)
                self._note(batch, row, text, "empty", "nothing but what stands elsewhere too")
                continue
            after = utf8_bytes(left)
            self.repeats.change(size, after)
            self.repeats.documents_out += 1
            self.repeats.bytes_out += after
            yield row, left

    def take(self, batch: pa.RecordBatch, row: int, text: str, verdict: Kept | Dropped) -> None:
        """Write the text that stays, or note why it does not."""
        if isinstance(verdict, Dropped):
            self._note(batch, row, text, verdict.reason, verdict.detail)
            return
        metadata = json.loads(batch["metadata"][row].as_py())
        self.writer.add(verdict.text, metadata, batch["place"][row].as_py())

    def _note(self, batch: pa.RecordBatch, row: int, text: str, reason: str, detail: str) -> None:
        place = json.loads(batch["place"][row].as_py())
        head = repr(text[:80])[1:-1]
        self.sample.add({"reason": reason, "detail": detail, "source": self.source, **place, "head": head})


def _cuts(batch: pa.RecordBatch, known: dict[str, Array], settings: CorpusSettings) -> dict[int, Spans]:
    """Row to the spans that are to go, sorted, for the rows that have some. `known`: see `_known`."""
    wanted = settings.repeats
    found: dict[int, Spans] = {}
    if wanted.lines:
        hashes, rows, starts, lengths = units_of(batch["text"], "lines", wanted.line_words)
        _add(found, _places(hashes, known["lines"]) >= 0, rows, starts, lengths)
    if wanted.paragraphs:
        hashes, rows, starts, lengths = units_of(batch["text"], "paragraphs", wanted.paragraph_words)
        first = known["paragraphs"]
        place = _places(hashes, first["hash"])
        keys = batch["key"].to_numpy()[rows]
        at = first[np.maximum(place, 0)] if len(first) else np.zeros(len(place), FIRST)
        stays = (at["key"] == keys) & (at["at"] == starts)
        _add(found, (place >= 0) & ~stays, rows, starts, lengths)
    return {row: sorted(spans) for row, spans in found.items()}


def _add(found: dict[int, Spans], gone: Any, rows: Any, starts: Any, lengths: Any) -> None:
    for row, start, length in zip(rows[gone].tolist(), starts[gone].tolist(), lengths[gone].tolist()):
        found.setdefault(row, []).append((start, start + length))


def _places(values: Array, known: Array) -> npt.NDArray[np.int64]:
    """Where each value stands in a sorted array, or -1."""
    if not len(known):
        return np.full(len(values), -1, np.int64)
    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.where(known[place] == values, place, -1)


def _known(found: Sequence[str], units: str, kind: np.dtype[Any]) -> Array:
    """What is repeated of a run's units, sorted by hash: no more memory than the run's own and one range's.

    `found`: files of what is repeated in the source, ranges of hashes in their order; `units`: the hashes of
    the run.
    """
    own = np.unique(np.concatenate([_NONE, *(columns[0] for columns in parts_of_range(units, WHOLE))]))
    parts = [np.zeros(0, kind)]
    for number, path in enumerate(found):
        keys = Range.of(number, len(found))
        start, stop = (
            np.searchsorted(own, np.uint64(keys.low)),
            np.searchsorted(own, np.uint64(keys.high - 1), "right"),
        )
        if start < stop:
            repeated = np.load(path, mmap_mode="r")
            place = _places(own[start:stop], repeated["hash"] if kind.names else repeated)
            parts.append(repeated[place[place >= 0]])
    return np.concatenate(parts)
