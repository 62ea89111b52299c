"""RAW DATA -> ARROW SHARDS.

    recipe ── reading/inputs.py ──> splits (pieces of files)
      │ clean_task.py          reading/ -> cleaning/ -> filters/       one sorted run of documents a split
      │ dedup/repeats.py       lines and paragraphs that many share    runs of what is left
      │ dedup/decontaminate.py, near_duplicates.py                     a drop bitmap a run
      │ tokens/tokenizer_making.py                                     on the first documents of the order
      │ tokens/spill_task.py   tokenizer, word cache, sentence ends    the same run as tokens
      │ shards/merge_task.py   exact duplicates                        one shard a task
      └ finish.py              index.arrow, tokenizer/, rejected/, report.json, and last of all manifest.json

`pipeline.py` owns this flow, `work.py` what is done of it, `ray_splits.py` where it runs. Readers of the
result enter by `open_corpus`. Images go the same way: `reading/pixels.py` reads them,
`tokens/tokenizer_pixels.py` makes tokens of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cluster.cache import Cache
    from cluster.places import Place
    from data_jobs.shards.corpus import Corpus


def open_corpus(
    path: str | Place, verify: Literal["start", "read"] | None = None, cache: Cache | None = None
) -> Corpus:
    """Open a corpus folder; see `data_jobs.shards.corpus`. (Imported late: settings need no Arrow.)"""
    from data_jobs.shards.corpus import open_corpus as open_it

    return open_it(path, verify, cache)
