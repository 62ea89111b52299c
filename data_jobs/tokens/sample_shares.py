"""What each source gives of the text that the tokenizer is trained on: its share by weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from data_jobs.reading.source_settings import SourceSettings
from data_jobs.tokens.sample import training_texts


def sample_shares(
    weights: Sequence[float | None], train_bytes: Sequence[int], sample_bytes: int
) -> list[int] | None:
    """Bytes of the sample for each source, at least 1 where it has text; None where no source has a weight.

    As in a mixture: a source without a weight beside others that have one counts with its share of the bytes.
    """
    if not any(weights) or not any(train_bytes):
        return None
    whole = sum(train_bytes)
    parts = [(weight or size / whole) if size else 0.0 for weight, size in zip(weights, train_bytes)]
    return [max(1, int(sample_bytes * part / sum(parts))) if part else 0 for part in parts]


def weighted_texts(
    sources: Sequence[SourceSettings], runs: Sequence[tuple[int, dict[str, Any]]], sample_bytes: int
) -> list[str]:
    """The training sample: of each source the first documents of the order, up to its share.

    `runs`: (number of the source, run). Without weights it is the first documents of all sources in one
    order, of which each source has its share by bytes. A source that is smaller than its share gives all.
    """
    own = [[run for of, run in runs if of == number] for number in range(len(sources))]
    shares = sample_shares(
        [source.weight for source in sources],
        [sum(run["train_bytes"] for run in some) for some in own],
        sample_bytes,
    )
    if shares is None:
        return training_texts([run for _, run in runs], sample_bytes)
    return [text for some, share in zip(own, shares) if share for text in training_texts(some, share)]
