"""Task of decontamination, the second: which documents of a run share n-grams with an evaluation text."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from data_jobs.dedup.drops import write_drops
from data_jobs.dedup.evaluation_task import shingles_of
from data_jobs.dedup.signed_runs import head_of
from data_jobs.ledger import Count
from data_jobs.rejects import RejectSample
from data_jobs.runs import RunFile, text_buffers
from data_jobs.work import Job, keep, temporary

REASON = "contaminated"


def flag_run(job: Job) -> dict[str, Any]:
    """Job: {run, name, source, grams, evaluations, ngram, min_matches, folder}.

    Receipt: {files, drop, train_bytes, decontaminate, rejects}. `evaluations` are the names of the files.
    """
    run, count, sample = RunFile(job["run"]), Count(), RejectSample()
    known = Known.load(job["grams"])
    drops, rows = [np.zeros(0, bool)], []
    train_bytes = 0
    for (val, _), batch in zip(run.starts, run.batches(), strict=True):
        values, offsets = text_buffers(batch["text"])
        sizes = np.diff(offsets)
        drop = np.zeros(batch.num_rows, bool)
        for row in np.flatnonzero(known.count(values, offsets, job["ngram"])).tolist():
            data = values[offsets[row] : offsets[row + 1]].tobytes()
            shared = known.shared(data.decode(), job["ngram"])
            if len(shared) >= job["min_matches"]:
                drop[row] = True
                count.drop(REASON, len(data))
                gram, file = shared[0]
                name = job["evaluations"][file]
                sample.add(
                    {
                        "reason": REASON,
                        "detail": f"n-grams of {name} in it: {len(shared)}, such as '{gram}'",
                        "source": job["source"],
                        **json.loads(batch["place"][row].as_py()),
                        "head": head_of(data[:320]),
                    }
                )
        count.documents_in += len(drop)
        count.documents_out += int((~drop).sum())
        count.bytes_in += int(sizes.sum())
        left = int(sizes[~drop].sum())
        count.bytes_out += left
        train_bytes += 0 if val else left
        drops.append(drop)
        rows.append(len(drop))
    count.check("decontaminate")
    with temporary(job["folder"]) as tmp:
        write_drops(tmp, np.concatenate(drops), rows)
        path = keep(tmp, f"{job['name']}.drop.arrow")
    return {
        "files": [path],
        "drop": path,
        "train_bytes": train_bytes,
        "decontaminate": count.to_json(),
        "rejects": sample.entries(),
    }


class Known:
    """The n-grams of the evaluation files."""

    def __init__(self, grams: npt.NDArray[Any]) -> None:
        self._hashes = np.ascontiguousarray(grams["hash"])
        self._files = grams["file"]
        size = 1 << max(10, (16 * len(grams)).bit_length())
        self._bits = np.zeros(size // 8, np.uint8)
        low = self._hashes & np.uint64(size - 1)
        masks = np.uint8(1) << (low & np.uint64(7)).astype(np.uint8)
        np.bitwise_or.at(self._bits, (low >> np.uint64(3)).astype(np.int64), masks)

    @staticmethod
    @functools.lru_cache(maxsize=1)
    def load(path: str) -> Known:
        """The set in a file; a worker keeps it from one task to the next."""
        return Known(np.load(path))

    def count(
        self, values: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], ngram: int
    ) -> npt.NDArray[np.int64]:
        """How many n-grams of each text are known, equal ones counted again."""
        from data_jobs.dedup.text_kernels import count_known

        hits = np.zeros(len(offsets) - 1, np.int64)
        count_known(values, offsets, ngram, self._hashes, self._bits, hits)
        return hits

    def shared(self, text: str, ngram: int) -> list[tuple[str, int]]:
        """(n-gram in words, number of the file) of each distinct known n-gram, in the order of the text."""
        from data_jobs.dedup.text_kernels import words_of

        words, found = words_of(text), {}
        hashes = shingles_of(text, ngram)
        places = np.searchsorted(self._hashes, hashes)
        for at, (place, value) in enumerate(zip(places.tolist(), hashes.tolist(), strict=True)):
            if place < len(self._hashes) and int(self._hashes[place]) == value and value not in found:
                found[value] = (" ".join(words[at : at + ngram]), int(self._files[place]))
        return list(found.values())
