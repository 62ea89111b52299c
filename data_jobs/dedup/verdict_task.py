"""Task of near duplicates, the last: which documents of one run are dropped, as a bitmap."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from data_jobs.dedup.choose_task import read_chosen
from data_jobs.dedup.drops import Drops, write_drops
from data_jobs.dedup.signed_runs import SignedRuns, head_of
from data_jobs.ledger import Count
from data_jobs.rejects import RejectSample
from data_jobs.runs import RunFile, text_buffers
from data_jobs.work import Job, keep, temporary

REASON = "near_duplicate"


def judge_run(job: Job) -> dict[str, Any]:
    """Job: {number, signed, chosen, drop, folder}: number of the run, files of `choose_task`, earlier bitmap.

    Receipt: {files, drop, train_bytes, near_duplicates, rejects}; `drop` holds the earlier ones too.
    """
    signed, number = SignedRuns(job["signed"]), job["number"]
    row = signed.rows[number]
    ranks = np.load(row["ranks"], mmap_mode="r")
    kept_instead = _kept_instead(job["chosen"], number, np.asarray(ranks["first"]))
    before = Drops(job["drop"]).all() if job["drop"] else np.zeros(len(ranks), bool)
    drop = (kept_instead >= 0) & ~before
    run = RunFile(row["run"])
    count = _count(np.asarray(ranks["bytes"]), before, drop)
    sample = RejectSample()
    rows, at = [], 0
    for batch in run.batches():
        rows.append(batch.num_rows)
        _note(batch, drop[at : at + rows[-1]], kept_instead[at : at + rows[-1]], row["source_name"], sample)
        at += rows[-1]
    with temporary(job["folder"]) as tmp:
        write_drops(tmp, drop | before, rows)
        path = keep(tmp, f"{row['name']}.drop.arrow")
    return {
        "files": [path],
        "drop": path,
        "train_bytes": int(ranks["bytes"][~(drop | before | ranks["val"])].sum()),
        "near_duplicates": count.to_json(),
        "rejects": [_with_detail(entry, signed) for entry in sample.entries()],
    }


def _kept_instead(chosen: list[str], number: int, first: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """For each row the document that stays instead, or -1. Copies of a text in the run share its verdict."""
    kept = np.full(len(first), -1, np.int64)
    low, high = np.uint64(number << 32), np.uint64((number + 1) << 32)
    for path in chosen:
        dropped, instead = read_chosen(path)
        start, stop = np.searchsorted(dropped, low), np.searchsorted(dropped, high)
        kept[(dropped[start:stop] - low).astype(np.int64)] = instead[start:stop].astype(np.int64)
    first_of = np.maximum.accumulate(np.where(first, np.arange(len(first)), 0)) if len(first) else first
    return kept[first_of]


def _count(sizes: npt.NDArray[Any], before: npt.NDArray[np.bool_], drop: npt.NDArray[np.bool_]) -> Count:
    left = ~(before | drop)
    count = Count(
        documents_in=int((~before).sum()),
        documents_out=int(left.sum()),
        bytes_in=int(sizes[~before].sum()),
        bytes_out=int(sizes[left].sum()),
    )
    if drop.any():
        count.documents_dropped[REASON] = int(drop.sum())
        count.bytes_dropped[REASON] = int(sizes[drop].sum())
    count.check("near_duplicates")
    return count


def _note(
    batch: Any, drop: npt.NDArray[np.bool_], kept: npt.NDArray[np.int64], source: str, sample: RejectSample
) -> None:
    values, offsets = text_buffers(batch["text"])
    for row in np.flatnonzero(drop).tolist():
        head = head_of(values[offsets[row] : min(offsets[row] + 320, offsets[row + 1])].tobytes())
        place = json.loads(batch["place"][row].as_py())
        sample.add(
            {"reason": REASON, "detail": "", "source": source, **place, "head": head, "kept": int(kept[row])}
        )


def _with_detail(entry: dict[str, Any], signed: SignedRuns) -> dict[str, Any]:
    """The place of the one that stays is looked up for the few that are in the sample alone."""
    kept = entry["kept"]
    place = signed.place(kept)
    detail = (
        f"near duplicate of the document at byte {place['offset']} of {place['file']} "
        f"(source {signed.source_name(kept)})"
    )
    return {**{name: value for name, value in entry.items() if name != "kept"}, "detail": detail}
