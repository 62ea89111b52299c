"""RAW DATA -> ARROW SHARDS.

    recipe ── inputs.py ──> splits (pieces of files)
      │ clean_task.py    sources.py -> cleaning.py -> judging.py     one sorted run of documents a split
      │ repeats.py       lines and paragraphs that many share          runs of what is left
      │ decontaminate.py, near_duplicates.py                         a drop bitmap a run
      │ tokenizer_making.py                                          on the first documents of the order
      │ spill_task.py    tokenizer.py, word_cache.py, sentences.py   the same run as tokens
      │ merge_task.py    exact duplicates, shards.py                 one shard a task
      └ manifest.py      index.arrow, tokenizer/, rejected/, report.json, and last of all manifest.json

`pipeline.py` owns this flow, `work.py` what is done of it, `ray_splits.py` where it runs. Readers of the
result enter by `open_corpus`. Images go the same way: `pixels.py` reads them, `tokenizer_pixels.py` makes
tokens of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cluster.cache import Cache
    from cluster.places import Place
    from data_jobs.corpus import Corpus


def open_corpus(
    path: str | Place, verify: Literal["start", "read"] | None = None, cache: Cache | None = None
) -> Corpus:
    """Open a corpus folder; see `data_jobs.corpus.open_corpus`. (Imported late: settings need no Arrow.)"""
    from data_jobs.corpus import open_corpus as open_it

    return open_it(path, verify, cache)
