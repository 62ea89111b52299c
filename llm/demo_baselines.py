"""What the demo's GPT is compared with: compressors over the same validation documents."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cluster.errors import RunError
from cluster.places import write_json
from data_jobs import open_corpus
from llm.demo_stages import read_json


def compress(corpus: Path, result: Path) -> None:
    """The baselines: compressors over the validation documents as one stream."""
    corpus_id = read_json(corpus / "manifest.json")["corpus_id"]
    if result.is_file() and read_json(result).get("corpus_id") == corpus_id:
        print(f"compress: already done, {result}")
        return
    text = "".join(validation_documents(corpus)).encode()
    write_json(result, {"corpus_id": corpus_id, "bytes": len(text), **compressed_bits_per_byte(text)})


def validation_documents(path: Path) -> Iterator[str]:
    """The cleaned text of each validation document, as stored: source by source, shard by shard."""
    corpus = open_corpus(str(path), "read")
    for source in corpus.sources("val"):
        stream = corpus.stream(source, "val")
        tokens = stream.read(0, stream.tokens)
        ends = np.flatnonzero(tokens == corpus.tokenizer.eos_id)
        for start, end in zip([0, *(ends[:-1] + 1)], ends, strict=True):
            yield corpus.tokenizer.decode(tokens[start:end])


def compressed_bits_per_byte(text: bytes) -> dict[str, float]:
    """Bits per byte of gzip -9 and xz -9, headers included (a few dozen bytes)."""
    if not text:
        raise RunError("the corpus has no validation text: raise corpus.val_fraction")
    sizes = {"gzip": len(gzip.compress(text, 9)), "xz": len(lzma.compress(text, preset=9))}
    return {f"{name}_bits_per_byte": 8 * size / len(text) for name, size in sizes.items()}
