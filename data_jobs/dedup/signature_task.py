"""Task of near duplicates, the first of four: a run of documents to MinHash signatures.

Three files a run, with a row for each document but the second: `signatures` (kept bytes of the minima),
`bands` (hash of each band, sorted, for `bucket_task`), `ranks` (what decides which document of a cluster
stays). Equal texts of a run have one set of bands: the first one's.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_jobs.dedup.drops import Drops
from data_jobs.dedup.minhash import band_keys, permutations
from data_jobs.hashes import h64
from data_jobs.key_ranges import KeyedWriter
from data_jobs.runs import RunFile, hash_words, text_buffers
from data_jobs.work import Job, keep, temporary

BANDS = {"hash": np.uint64, "row": np.uint32, "band": np.uint8}
RANK = np.dtype(
    [("key", "<u8"), ("c", "<u8", (2,)), ("bytes", "<u8"), ("quality", "<f8"), ("val", "?"), ("first", "?")]
)
"""`first`: no document before it in the run has its text."""


def sign_run(job: Job) -> dict[str, Any]:
    """Job: {run, name, documents, source, drop, minhash, folder}. Receipt: {files, bands, signatures, ranks}.

    Documents that `drop` names, and those without a word, have no bands.
    """
    wanted, name = job["minhash"], job["name"]
    run, documents = RunFile(job["run"]), job["documents"]
    dropped = Drops(job["drop"]).all() if job["drop"] else np.zeros(documents, bool)
    salt = h64(job["source"]) if wanted["scope"] == "source" else 0
    count = wanted["bands"] * wanted["rows"]
    with (
        temporary(job["folder"]) as bands,
        temporary(job["folder"]) as signed,
        temporary(job["folder"]) as ranks,
    ):
        with (
            KeyedWriter(bands, BANDS) as band_file,
            _RowFile(signed, np.dtype(np.uint8), (documents, count)) as signature_file,
            _RowFile(ranks, RANK, (documents,)) as rank_file,
        ):
            at = 0
            last = np.zeros((0, 2), np.uint64)
            for batch in run.batches():
                signatures, shingles = _sign(batch, count, wanted["ngram"])
                rank = _ranks(batch, wanted["best_by"], last)
                last = rank["c"][-1:]
                rows = np.flatnonzero(rank["first"] & (shingles > 0) & ~dropped[at : at + len(rank)])
                keys = band_keys(signatures[rows], wanted["rows"], salt)
                band_file.add(
                    keys.ravel(),
                    (rows + at).astype(np.uint32).repeat(keys.shape[1]),
                    np.tile(np.arange(keys.shape[1], dtype=np.uint8), len(rows)),
                )
                signature_file.add(signatures)
                rank_file.add(rank)
                at += len(rank)
        files = {
            "bands": keep(bands, f"{name}.bands.arrow"),
            "signatures": keep(signed, f"{name}.signatures.npy"),
            "ranks": keep(ranks, f"{name}.ranks.npy"),
        }
    return {"files": list(files.values()), "name": name, **files, "rejects": []}


def _sign(
    batch: pa.RecordBatch, count: int, ngram: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """(signatures, n-grams) of each text of a batch."""
    from data_jobs.dedup.text_kernels import sign_texts

    values, offsets = text_buffers(batch["text"])
    signatures = np.empty((batch.num_rows, count), np.uint8)
    shingles = np.empty(batch.num_rows, np.int64)
    sign_texts(values, offsets, ngram, *permutations(count), signatures, shingles)
    return signatures, shingles


def _ranks(batch: pa.RecordBatch, best_by: str | None, last: npt.NDArray[np.uint64]) -> npt.NDArray[Any]:
    """`last`: the content hash before this batch, if there is one."""
    ranks = np.empty(batch.num_rows, RANK)
    c = hash_words(batch["c"])
    ranks["key"] = batch["key"].to_numpy()
    ranks["c"] = c
    ranks["bytes"] = np.diff(text_buffers(batch["text"])[1]).astype(np.uint64)
    ranks["quality"] = -math.inf if best_by is None else _qualities(batch["metadata"].to_pylist(), best_by)
    ranks["val"] = batch["val"].to_numpy(zero_copy_only=False)
    before = np.concatenate([last, c[:-1]]) if len(last) else np.concatenate([~c[:1], c[:-1]])
    ranks["first"] = (c != before).any(axis=1)
    return ranks


def _qualities(metadata: list[bytes], best_by: str) -> list[float]:
    """The number that each document's metadata gives; what is missing or no number comes last."""
    found = []
    for data in metadata:
        try:
            quality = float(json.loads(data).get(best_by, ""))
        except ValueError:
            quality = -math.inf
        found.append(-math.inf if math.isnan(quality) else quality)
    return found


class _RowFile:
    """An .npy file of a known shape, written row by row with no array of that size in memory."""

    def __init__(self, path: Path, kind: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self._path, self._kind, self._shape = path, kind, shape
        self._rows = 0

    def __enter__(self) -> _RowFile:
        self._file = open(self._path, "wb")
        header = {
            "descr": np.lib.format.dtype_to_descr(self._kind),
            "fortran_order": False,
            "shape": self._shape,
        }
        np.lib.format.write_array_header_1_0(self._file, header)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._file.close()
        assert kind is not None or self._rows == self._shape[0]

    def add(self, rows: npt.NDArray[Any]) -> None:
        """Write some rows."""
        self._file.write(np.ascontiguousarray(rows, self._kind).tobytes())
        self._rows += len(rows)
