"""Task of the second stage: a run of documents to the same run as tokens."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_jobs.ledger import Count
from data_jobs.rejects import RejectSample
from data_jobs.runs import RunFile, token_run
from data_jobs.shards.shard_file import Lists
from data_jobs.tokens.sentences import sentence_ends, token_ends
from data_jobs.tokens.text_column import TextColumn, TokenColumn
from data_jobs.tokens.tokenizer import Tokenizer, load_tokenizer
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
    texts = TextColumn.of_arrow(batch["text"])
    tokens = tokenizer.encode_column(texts)
    sizes, good = texts.sizes, _are_whole(tokens, texts.sizes, tokenizer.eos_id)
    count.documents_in += len(sizes)
    count.bytes_in += int(sizes.sum())
    for row in np.flatnonzero(~good).tolist():
        count.drop("not_encodable", int(sizes[row]))
        sample.add(
            {
                "reason": "not_encodable",
                "detail": "eos among its tokens, or bytes lost",
                "source": job["source"],
                **json.loads(batch["place"][row].as_py()),
                "head": repr(batch["text"][row].as_py()[:80])[1:-1],
            }
        )
    if not good.all():
        batch, texts, tokens = batch.filter(pa.array(good)), texts.take(good), tokens.take(good)
        sizes = texts.sizes
    count.documents_out += len(sizes)
    count.bytes_out += int(sizes.sum())
    ends = token_ends(sentence_ends(texts, job["rule"]), tokens)
    return [
        *(batch[name] for name in ("val", "key", "c", "metadata", "place")),
        pa.array(sizes.astype(np.uint64)),
        _lists(*_with_eos(tokens, tokenizer.eos_id, dtype)),
        _lists(ends.values.astype(np.uint32), np.diff(ends.bounds)),
    ]


def _are_whole(tokens: TokenColumn, sizes: npt.NDArray[np.int64], eos: int) -> npt.NDArray[np.bool_]:
    """Which documents have tokens that can stand in a shard.

    eos may stand at a document's end alone, and tokens must give the text's bytes back; of a tokenizer that
    loses some they must be some.
    """
    good = np.diff(tokens.bounds) > 0
    good[good] = tokens.ends[tokens.bounds[1:][good] - 1] == sizes[good]
    good[np.searchsorted(tokens.bounds, np.flatnonzero(tokens.ids == eos), side="right") - 1] = False
    return good


def _with_eos(
    tokens: TokenColumn, eos: int, dtype: np.dtype[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """The ids with eos after each document, and how many each one has."""
    lengths = np.diff(tokens.bounds) + 1
    values = np.full(int(lengths.sum()), eos, dtype)
    is_text = np.ones(len(values), bool)
    is_text[np.cumsum(lengths) - 1] = False
    values[is_text] = tokens.ids
    return values, lengths


def _lists(values: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> pa.Array:
    return Lists(values, lengths).to_arrow().cast(pa.large_list(pa.from_numpy_dtype(values.dtype)))
