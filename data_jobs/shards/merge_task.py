"""Task of the third stage: one range of keys of all spilled runs to one shard.

A shard is a sorted set and the set is a range of hashes, so its bytes depend on nothing but the
documents. Equal texts have equal keys: they meet here, and exact deduplication needs no other stage.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_jobs.key_ranges import Range
from data_jobs.ledger import Count
from data_jobs.rejects import RejectSample
from data_jobs.runs import hash_words, open_runs
from data_jobs.shards.shard_file import Lists, write_shard
from data_jobs.tokens.spill_task import load_once, token_dtype
from data_jobs.tokens.tokenizer import Tokenizer
from data_jobs.work import Job, keep, temporary

PART_BYTES = 32 << 20
"""Of runs that are merged at once: rows taken out of lists need several times what they hold."""


def merge_shard(job: Job) -> dict[str, Any]:
    """Job: {source, split, number, count, spills, file, folder, metadata, dedup, tokenizer}.

    Receipt: {files, file, documents, tokens, bytes, values_at, digest, deduplicate, ...}; `file` is None
    where the range is empty.
    """
    keys = Range.of(job["number"], job["count"])
    runs = open_runs(json.loads(Path(job["spills"]).read_bytes()))
    is_val = job["split"] == "val"
    size = sum(batch.nbytes for run in runs for batch in run.between(is_val, keys.low, keys.high))
    count, sample, merged = Count(), RejectSample(), _Merged(job, size)
    for part in keys.cut(-(-size // PART_BYTES)):
        batches = [batch for run in runs for batch in run.between(is_val, part.low, part.high)]
        if batches:
            merged.take(_sorted_range(pa.Table.from_batches(batches), part, job, count, sample))
    receipt: dict[str, Any] = {"files": [], "file": None, "documents": 0, "tokens": 0, "bytes": 0}
    if merged.documents:
        receipt |= merged.write()
    count.documents_out = receipt["documents"]
    count.bytes_out = receipt["bytes"]
    count.check("deduplicate")
    return {**receipt, "deduplicate": count.to_json(), "rejects": sample.entries()}


def _sorted_range(table: pa.Table, keys: Range, job: Job, count: Count, sample: RejectSample) -> pa.Table:
    """The rows of the range in order, less the duplicates."""
    key = table["key"].to_numpy()
    inside = np.flatnonzero((key >= np.uint64(keys.low)) & (key <= np.uint64(keys.high - 1)))
    c = _content_hashes(table)
    order = inside[np.lexsort((c[inside, 1], c[inside, 0], key[inside]))]
    sizes = table["bytes"].to_numpy()
    count.documents_in += len(order)
    count.bytes_in += int(sizes[order].sum())
    order = _one_of_equals(table, order, c, job, count, sample)
    return table.select(["c", "metadata", "bytes", "tokens", "sentence_ends"]).take(pa.array(order))


def _one_of_equals(
    table: pa.Table,
    order: npt.NDArray[Any],
    c: npt.NDArray[Any],
    job: Job,
    count: Count,
    sample: RejectSample,
) -> npt.NDArray[Any]:
    """Rows with equal c in the order of their metadata bytes; with dedup 'exact' the first of them alone."""
    same = (c[order[1:]] == c[order[:-1]]).all(axis=1)
    if not same.any():
        return order
    keep_row = np.ones(len(order), bool)
    order = order.copy()
    edges = np.concatenate([[0], np.flatnonzero(~same) + 1, [len(order)]])
    several = np.flatnonzero(np.diff(edges) > 1)
    for start, stop in zip(edges[several], edges[several + 1], strict=True):
        group = sorted(
            order[start:stop], key=lambda row: (table["metadata"][row].as_py(), table["place"][row].as_py())
        )
        order[start:stop] = group
        if job["dedup"] == "exact":
            keep_row[start + 1 : stop] = False
            for row in group[1:]:
                count.drop("duplicate", table["bytes"][row].as_py())
                _note_duplicate(table, row, group[0], job, sample)
    return order[keep_row]


def _note_duplicate(table: pa.Table, row: int, first: int, job: Job, sample: RejectSample) -> None:
    place, kept = (json.loads(table["place"][at].as_py()) for at in (row, first))
    head = load_once(job["tokenizer"]).decode(table["tokens"][row].values.to_numpy()[:80])[:80]
    detail = f"equals the document at byte {kept['offset']} of {kept['file']}"
    sample.add(
        {"reason": "duplicate", "detail": detail, "source": job["source"], **place, "head": repr(head)[1:-1]}
    )


def _content_hashes(table: pa.Table) -> npt.NDArray[np.uint64]:
    """c as two integers a row."""
    column = table["c"].combine_chunks()
    return hash_words(column.chunk(0) if isinstance(column, pa.ChunkedArray) else column)


class _Merged:
    """The rows of a shard in their order; memory for its tokens is taken as they come."""

    def __init__(self, job: Job, most_bytes: int) -> None:
        self._job = job
        self._tokenizer = load_once(job["tokenizer"])
        dtype = token_dtype(self._tokenizer.vocab_size)
        self._tokens = np.empty(most_bytes // dtype.itemsize, dtype)
        self._used = np.zeros(self._tokenizer.vocab_size, np.int64)
        self._filled = self._bytes = self.documents = 0
        self._parts: list[tuple[npt.NDArray[Any], ...]] = []
        self._metadata: dict[str, list[str]] = {f"meta.{name}": [] for name in job["metadata"]}

    def take(self, table: pa.Table) -> None:
        """The next rows."""
        if not table.num_rows:
            return
        tokens, ends = _lists(table["tokens"]), _lists(table["sentence_ends"])
        self._tokens[self._filled : self._filled + len(tokens.values)] = tokens.values
        self._filled += len(tokens.values)
        self._used += np.bincount(tokens.values, minlength=len(self._used))
        ids = _content_hashes(table)[:, 0].byteswap()  # the first 8 bytes, little-endian
        self._parts.append((ids, tokens.lengths, ends.values, ends.lengths))
        self._bytes += int(table["bytes"].to_numpy().sum())
        self.documents += table.num_rows
        if self._metadata:
            for row in map(json.loads, table["metadata"].to_pylist()):
                for name in self._job["metadata"]:
                    self._metadata[f"meta.{name}"].append(row.get(name, ""))

    def write(self) -> dict[str, Any]:
        """The shard's file, and what the receipt says of it."""
        job, tokenizer, used = self._job, self._tokenizer, self._used
        ids, lengths, ends, end_lengths = (np.concatenate(part) for part in zip(*self._parts))
        tokens = Lists(self._tokens[: self._filled], lengths)
        with temporary(job["folder"]) as tmp:
            shard = write_shard(tmp, ids, tokens, Lists(ends, end_lengths), self._metadata)
            path = keep(tmp, job["file"])
        return {
            "files": [path],
            "file": job["file"],
            "documents": shard.documents,
            "tokens": shard.tokens,
            "bytes": self._bytes,
            "values_at": shard.values_at,
            "digest": shard.digest,
            "source": job["source"],
            "byte_tokens": int(sum(used[i] for i in range(tokenizer.vocab_size) if tokenizer.is_byte(i))),
            "unknown_tokens": _count_unknown(tokenizer, used),
            "sentences": len(ends),
            "length_log2": np.bincount(np.log2(lengths).astype(np.int64)).tolist(),
        }


def _count_unknown(tokenizer: Tokenizer, used: npt.NDArray[np.int64]) -> int:
    """Tokens that stand for what has no entry; none where the same token ends documents, as for GPT-2."""
    unk = tokenizer.specials.get("unk")
    return 0 if unk is None or unk == tokenizer.eos_id else int(used[unk])


def _lists(column: pa.ChunkedArray) -> Lists:
    parts = [chunk for chunk in column.chunks if len(chunk)]
    values = np.concatenate([part.flatten().to_numpy() for part in parts])
    lengths = np.concatenate([np.diff(part.offsets.to_numpy()) for part in parts])
    return Lists(values, lengths)
