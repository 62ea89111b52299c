"""`python -m data_jobs.verify CORPUS`: check every digest of a corpus."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

from tqdm import tqdm

from cluster import places
from cluster.errors import RunError, UserError, run_command
from data_jobs.shards.corpus import Corpus
from data_jobs.shards.manifest import Shard, read_index, read_manifest
from data_jobs.shards.shard_file import ShardFile


def problems(corpus: Corpus, quiet: bool = False) -> Iterator[str]:
    """Everything that is not as it was written, in words; goes on after each."""
    for shard in tqdm(corpus.shards, unit="shard", disable=True if quiet else None):
        yield from _shard_problems(corpus, shard)
        if corpus.copies:
            corpus.copies.release(shard)
    try:
        _ = corpus.tokenizer
    except (RunError, UserError) as error:
        yield str(error)


def _shard_problems(corpus: Corpus, shard: Shard) -> Iterator[str]:
    width = corpus.token_width
    try:
        file = (
            corpus.copies.open_copy(shard)
            if corpus.copies
            else ShardFile(str(corpus.path / shard.name), shard.digest)
        )
    except RunError as error:
        yield str(error)
        return
    at, _, size = file.buffers["tokens.values"]
    if (at, size) != (shard.values_at, shard.tokens * width):
        yield f"{file.name}: tokens at byte {at} ({size} bytes), the index says {shard.values_at}"
    yield from file.problems()


def main(argv: list[str]) -> int:
    """Entry of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m data_jobs.verify", description="Check every digest of a corpus."
    )
    parser.add_argument("corpus", metavar="CORPUS", help="a corpus folder; a path or s3://bucket/name")
    parser.add_argument("--json", action="store_true", help="print {corpus_id, shards, problems} as JSON")
    try:
        options = parser.parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    manifest = read_manifest(options.corpus)
    corpus = Corpus(places.at(options.corpus), manifest, read_index(options.corpus, manifest))
    found = list(problems(corpus, quiet=options.json))
    if options.json:
        print(json.dumps({"corpus_id": corpus.corpus_id, "shards": len(corpus.shards), "problems": found}))
    else:
        print(*found, sep="\n", end="\n" if found else "")
        print(f"{options.corpus}: {len(corpus.shards)} shards, {len(found) or 'no'} problems")
    return 1 if found else 0


if __name__ == "__main__":
    run_command(main)
