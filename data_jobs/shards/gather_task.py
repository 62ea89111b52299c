"""Task between encoding and merge: many runs of tokens to one, for sources of very many runs.

A shard takes a range of keys out of every run of its source, so each of them is open at once and gives at
least one of its batches. Of thousands of runs that is more files than a process may have, and far more bytes
than the range holds: so they are merged in two levels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from data_jobs.key_ranges import WHOLE, Range
from data_jobs.runs import BATCH_BYTES, RunFile, hash_words, open_runs, with_index
from data_jobs.work import Job, keep, temporary

MOST_RUNS = 256
"""That one task merges, up to this number squared; above it both levels grow by the square root."""
PART_BYTES = 128 << 20
"""Of runs that are merged at once."""


def groups_of(runs: Sequence[str]) -> list[Sequence[str]]:
    """The runs that are to become one each; no group where all of them can be merged at once."""
    if len(runs) <= MOST_RUNS:
        return []
    size = max(MOST_RUNS, math.isqrt(len(runs) - 1) + 1)
    return [runs[at : at + size] for at in range(0, len(runs), size)]


def gather_runs(job: Job) -> dict[str, Any]:
    """Job: {runs, file, folder}. Receipt: {files, file}: a run with all their rows, by (split, key).

    Its batches are ranges of keys of equal width, so that its index is known before they are; one may be
    empty.
    """
    runs = open_runs(job["runs"])
    ranges = {val: _ranges(runs, val) for val in (False, True)}
    schema = with_index(runs[0].schema, [(val, keys.low) for val in ranges for keys in ranges[val]])
    with temporary(job["folder"]) as tmp:
        with pa.OSFile(str(tmp), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for val, parts in ranges.items():
                for batch in _batches(runs, val, parts, schema):
                    writer.write_batch(batch)
        path = keep(tmp, job["file"])
    return {"files": [path], "file": path, "rejects": []}


def _ranges(runs: Sequence[RunFile], val: bool) -> list[Range]:
    """Ranges of keys of one split that hold about a batch each; none where it has no row."""
    size = sum(batch.nbytes for run in runs for batch in run.between(val, *WHOLE))
    return WHOLE.cut(-(-size // BATCH_BYTES)) if size else []


def _batches(
    runs: Sequence[RunFile], val: bool, ranges: Sequence[Range], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    at_once = max(1, PART_BYTES // BATCH_BYTES)
    for at in range(0, len(ranges), at_once):
        part = ranges[at : at + at_once]
        low, high = part[0].low, part[-1].high
        found = [batch for run in runs for batch in run.between(val, low, high)]
        table = _sorted(pa.Table.from_batches(found, schema), low, high)
        keys = table["key"].to_numpy()
        edges = [*np.searchsorted(keys, np.array([one.low for one in part], np.uint64)).tolist(), len(keys)]
        for start, stop in itertools.pairwise(edges):
            rows = table.slice(start, stop - start).combine_chunks()
            yield from rows.to_batches() or [pa.RecordBatch.from_pylist([], schema)]


def _sorted(table: pa.Table, low: int, high: int) -> pa.Table:
    """The rows with keys in [low, high), by (key, c)."""
    keys = table["key"].to_numpy()
    c = np.concatenate([np.zeros((0, 2), np.uint64), *map(hash_words, table["c"].chunks)])
    inside = np.flatnonzero((keys >= np.uint64(low)) & (keys <= np.uint64(high - 1)))
    order = inside[np.lexsort((c[inside, 1], c[inside, 0], keys[inside]))]
    return table.take(pa.array(order))
