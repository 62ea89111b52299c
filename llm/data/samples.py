"""The arrays that a training step takes: what crosses from data to model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_jobs.hashes import MASK64, h64

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class Picks(NamedTuple):
    """Samples by what they are made from, one of each array for a sample."""

    numbers: Ints  # sample number in the run: of the mask, and of the digest
    source: Ints  # index of the source
    epoch: Ints  # of that source
    at: Ints  # start token in the source's stream, or sample i of the source's plan

    def part(self, rows: slice) -> Picks:
        """Some of them."""
        return Picks(*(array[rows] for array in self))


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """One forward of one worker. Shapes are static: rows that are missing, tokens too, have weight 0.

    K targets a row: L, one at each input, for a GPT; for a BERT as many as it may have to guess. The arrays
    are contiguous, writable and shared with nobody, as torch.from_numpy wants them.
    """

    inputs: Ints  # [rows, L]
    targets: Ints  # [rows, K]: the token after each input; with `positions`: the one that stood there
    weights: Floats  # [rows, K]
    numbers: Ints  # [rows]: sample number, or row of an evaluation; -1 where missing
    positions: Ints | None = None  # [rows, K]: where in the row each target stands; None: K = L
    documents: Ints | None = None  # [rows, L]: equal in a row = one document; padding has a number of its own
    segments: Ints | None = (
        None  # [rows, L]: 0 first part with [CLS] and its [SEP], and padding; 1 second part
    )
    next_labels: Ints | None = (
        None  # [rows]: 0 the second part follows the first, 1 it is of another document
    )
    next_weights: Floats | None = None  # [rows]: 0 where missing, and for a row without two parts
    values: Floats | None = None  # [rows, K]: targets that are numbers, of a regression


@dataclass(frozen=True, eq=False)
class Batch:
    """One worker's part of the batch of a step."""

    step: int
    numbers: Ints  # sample numbers of the whole batch, all workers
    next_number: int  # n after this batch: the data state
    micro: list[MicroBatch]  # as many on each worker
    cells: int  # tokens of this worker's rows, padding within them included
    tokens: float  # this worker's sum of target weights
    pairs: float  # this worker's sum of next_weights; 0.0 where there are none
    digest: int  # this worker's; the sum over workers, modulo 2^64, is the batch's, however many workers


def micro_batch_of(
    windows: npt.NDArray[np.uint32], targets: Ints, numbers: Ints, eos: int | None = None
) -> MicroBatch:
    """Rows of L+1 tokens, of which the first `targets` [rows] predictions count, as a micro-batch.

    With `eos` its documents, too: an eos that is an input begins the next document, whose start token it is,
    as when text is generated.
    """
    length = windows.shape[1] - 1
    if (targets == length).all():
        weights = np.ones((len(windows), length), np.float32)
    else:
        weights = (np.arange(length) < targets[:, None]).astype(np.float32)
    inputs, following = windows[:, :-1].astype(np.int64), windows[:, 1:].astype(np.int64)
    documents = None
    if eos is not None:
        begins = (inputs == eos) & (weights > 0)
        begins |= np.arange(length) == targets[:, None]  # padding
        documents = np.cumsum(begins, axis=1, dtype=np.int64)
    return MicroBatch(inputs, following, weights, numbers, documents=documents)


def digest_of(numbers: Ints, *arrays: npt.NDArray[Any] | None) -> int:
    """Sum over rows of H64(number, row of all arrays as uint32), modulo 2^64, without those of number -1."""
    rows = [array.reshape(len(array), -1) for array in arrays if array is not None]
    seen = rows[0] if len(rows) == 1 else np.concatenate([row.astype("<u4") for row in rows], axis=1)
    seen = seen.astype("<u4", copy=False)
    pairs = zip(numbers.tolist(), seen, strict=True)
    return sum(h64(number, row.tobytes()) for number, row in pairs if number >= 0) & MASK64
