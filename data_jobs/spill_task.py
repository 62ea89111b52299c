"""Task of the second stage: a run of documents to the same run as tokens."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import pyarrow as pa

from data_jobs.ledger import Count
from data_jobs.rejects import RejectSample
from data_jobs.runs import RunFile, token_run
from data_jobs.sentences import sentence_ends, token_ends
from data_jobs.shards import Lists
from data_jobs.tokenizer import Tokenizer, load_tokenizer
from data_jobs.work import Job, keep, temporary

load_once = functools.lru_cache(maxsize=2)(load_tokenizer)
"""A worker keeps its tokenizer from one task to the next."""


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """uint16 where every id fits, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def spill_run(job: Job) -> dict[str, Any]:
    """Job: {run, drop, name, tokenizer, rule, source, folder}. Receipt: {files, token_bytes, encode, ...}."""
    tokenizer = load_once(job["tokenizer"])
    dtype = token_dtype(tokenizer.vocab_size)
    run = RunFile(job["run"], job["drop"])
    count, sample = Count(), RejectSample()
    token_bytes = {"train": 0, "val": 0}
    schema = token_run(pa.from_numpy_dtype(dtype)).with_metadata(run.schema_index)
    with temporary(job["folder"]) as tmp:
        with pa.OSFile(str(tmp), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for (val, _), batch in zip(run.starts, run.batches(), strict=True):
                encoded = _encode(batch, job, tokenizer, dtype, count, sample)
                writer.write_batch(pa.RecordBatch.from_arrays(encoded, schema=schema))
                token_bytes["val" if val else "train"] += len(encoded[-2].values) * dtype.itemsize
        path = keep(tmp, f"{job['name']}.tokens.arrow")
    count.check("encode")
    return {
        "files": [path],
        "file": path,
        "token_bytes": token_bytes,
        "encode": count.to_json(),
        "rejects": sample.entries(),
    }


def _encode(
    batch: pa.RecordBatch,
    job: Job,
    tokenizer: Tokenizer,
    dtype: np.dtype[Any],
    count: Count,
    sample: RejectSample,
) -> list[pa.Array]:
    texts: list[str] = batch["text"].to_pylist()
    kept: list[int] = []
    sizes: list[int] = []
    tokens: list[Any] = []
    ends: list[Any] = []
    encoded = tokenizer.encode_with_ends(texts) if texts else []  # where all of a batch were dropped
    for row, (text, (ids, reached)) in enumerate(zip(texts, encoded, strict=True)):
        size = len(text.encode())
        count.documents_in += 1
        count.bytes_in += size
        # eos may stand at a document's end alone, and tokens must give the text's bytes back; of a tokenizer
        # that loses some they must be some.
        if not len(ids) or (ids == tokenizer.eos_id).any() or int(reached[-1]) != size:
            count.drop("not_encodable", size)
            sample.add(
                {
                    "reason": "not_encodable",
                    "detail": "eos among its tokens, or bytes lost",
                    "source": job["source"],
                    **json.loads(batch["place"][row].as_py()),
                    "head": repr(text[:80])[1:-1],
                }
            )
            continue
        count.documents_out += 1
        count.bytes_out += size
        kept.append(row)
        sizes.append(size)
        tokens += [ids, [tokenizer.eos_id]]
        ends.append(token_ends(sentence_ends(text, job["rule"]), np.diff(reached, prepend=0)))
    token_lengths = np.array([len(part) for part in tokens], np.int64).reshape(-1, 2).sum(axis=1)
    end_lengths = np.array([len(part) for part in ends], np.int64)
    rows = batch.take(pa.array(kept, pa.int64()))
    return [
        *(rows[name] for name in ("val", "key", "c", "metadata", "place")),
        pa.array(sizes, pa.uint64()),
        _lists(tokens, token_lengths, dtype),
        _lists(ends, end_lengths, np.dtype(np.uint32)),
    ]


def _lists(parts: list[Any], lengths: np.ndarray, dtype: np.dtype[Any]) -> pa.Array:
    values = np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype)
    return Lists(values, lengths).to_arrow().cast(pa.large_list(pa.from_numpy_dtype(dtype)))
