"""A process to weigh: the loader over a corpus of a given size, its peak of anonymous memory on stdout.

    python -m benchmarks.loader_memory disk FOLDER --steps N      shards that `write_corpus` has written
    python -m benchmarks.loader_memory order TOKENS --steps N     tokens that are made up as they are read

Anonymous memory (RssAnon) is what the process itself holds; pages of mapped files, which the system takes
back when it needs them, are not in it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_jobs.shards.corpus import TokenStream
from data_jobs.shards.manifest import Shard
from data_jobs.shards.shard_file import Lists, write_shard
from llm.data.batches import BatchPlan
from llm.data.loader import Loader
from llm.data.order import Order, order_of_corpus
from llm.data.streams import Stream

LENGTH, BATCH = 2048, 16
SHARES = {"web": 50, "code": 20, "books": 15, "papers": 10, "wiki": 5}  # per cent of the tokens
LOOK_EVERY = 16  # steps
SHARD_TOKENS = 16 << 20  # 32 MiB
DOCUMENT_TOKENS = 1024


class MadeUpStream:
    """A stream of any size that takes no memory: token i is i modulo 2^16."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    @property
    def tokens(self) -> int:
        return self._tokens

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        return np.arange(start, stop, dtype=np.uint64).astype(np.uint16)


class Streams:
    """A corpus of named streams with one split."""

    def __init__(self, streams: dict[str, Stream]) -> None:
        self.corpus_id = "benchmark"
        self._streams = streams

    def sources(self, split: str) -> list[str]:
        return list(self._streams)

    def stream(self, source: str, split: str) -> Stream:
        return self._streams[source]


def made_up_corpus(tokens: int) -> Streams:
    """Five sources of unequal size with about so many tokens in all."""
    return Streams({name: MadeUpStream(tokens * share // 100) for name, share in SHARES.items()})


def write_corpus(folder: Path, tokens: int) -> None:
    """Shards of random tokens by the real writer, and their rows beside them."""
    folder.mkdir()
    chance, shards = np.random.default_rng(0), list[Shard]()
    for part, start in enumerate(range(0, tokens, SHARD_TOKENS)):
        size = min(SHARD_TOKENS, tokens - start)
        lengths = np.full(-(-size // DOCUMENT_TOKENS), DOCUMENT_TOKENS, np.int64)
        lengths[-1] = size - lengths[:-1].sum()
        written = write_shard(
            folder / f"{part:05d}.arrow",
            np.arange(len(lengths), dtype=np.uint64),
            Lists(chance.integers(1 << 16, size=size, dtype=np.uint16), lengths),
            Lists(lengths.astype(np.uint32), np.ones(len(lengths), np.int64)),
            {},
        )
        shards.append(Shard(part, "train", "random", f"{part:05d}.arrow", bytes=0, **asdict(written)))
    (folder / "shards.json").write_text(json.dumps([asdict(shard) for shard in shards]))


def read_corpus(folder: Path) -> Streams:
    """What `write_corpus` has written, memory-mapped, each chunk checked when it is first read."""
    shards = [Shard(**row) for row in json.loads((folder / "shards.json").read_text())]
    return Streams({"random": TokenStream(folder, shards, 2)})


def order_of(corpus: Streams) -> Order:
    """The order of all sources by size."""
    return order_of_corpus(corpus, "train", None, 1 << 40, LENGTH, seed=0)


def peak_bytes(corpus: Streams, steps: int) -> int:
    """The most anonymous memory that the process held while it took `steps` batches."""
    plan = BatchPlan([(0, BATCH)])
    loader = Loader(corpus, "train", order_of(corpus), plan, rank=0, world=1, micro_batch=BATCH)
    peak = anonymous_bytes()
    with loader.iterate(0, steps) as batches:
        for batch in batches:
            if batch.step % LOOK_EVERY == 0:
                peak = max(peak, anonymous_bytes())
    return max(peak, anonymous_bytes())


def anonymous_bytes() -> int:
    """RssAnon of this process."""
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader_memory", description=__doc__)
    parser.add_argument("kind", choices=("disk", "order"), help="a folder of shards, or made-up tokens")
    parser.add_argument("what", help="the folder, or the number of tokens")
    parser.add_argument("--steps", type=int, required=True, help="batches to take")
    parser.add_argument("--out", required=True, help="JSON file for the peak in bytes")
    options = parser.parse_args(argv)
    corpus = read_corpus(Path(options.what)) if options.kind == "disk" else made_up_corpus(int(options.what))
    Path(options.out).write_text(json.dumps(peak_bytes(corpus, options.steps)))


if __name__ == "__main__":
    main(sys.argv[1:])
