"""The texts that the tokenizer is trained on: the first training documents of the global order.

That order is a keyed hash of the content, so they are a fair sample, and they stand at the beginning of
every run: no more is read than is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.errors import UserError
from data_jobs.runs import RunFile

_ALL = 1 << 64


def training_texts(runs: Sequence[dict[str, Any]], sample_bytes: int) -> list[str]:
    """Distinct training documents in the order of (key, c) until they hold `sample_bytes`; the last one is
    cut.
    """
    whole = sum(run["train_bytes"] for run in runs)
    if not whole:
        raise UserError(
            "all documents fell into the validation split, and none is left to train a tokenizer on; "
            "give more documents or a smaller corpus.val_fraction"
        )
    # Keys below this hold about half as much again as is asked for; where that is too little, look further.
    below = min(_ALL, 3 * sample_bytes * _ALL // (2 * whole))
    while True:
        found = _documents_below(runs, below)
        if below == _ALL or sum(len(text.encode()) for text in found.values()) >= sample_bytes:
            break
        below = min(_ALL, 2 * below)
    texts = []
    left = sample_bytes
    for _, text in sorted(found.items()):
        data = text.encode()
        texts.append(text if len(data) <= left else data[:left].decode("utf-8", "ignore"))
        left -= len(data)
        if left <= 0:
            break
    return texts


def _documents_below(runs: Sequence[dict[str, Any]], below: int) -> dict[tuple[int, bytes], str]:
    found = {}
    for run in runs:
        for batch in RunFile(run["file"], run.get("drop")).between(False, 0, below):
            for key, c, text in zip(
                batch["key"].to_pylist(), batch["c"].to_pylist(), batch["text"], strict=True
            ):
                if key < below:
                    found[key, c] = text.as_py()
    return found
