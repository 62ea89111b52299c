"""The arrays that a training step takes: what crosses from data to model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """One forward of one worker. Shapes are static: rows that are missing, tokens too, have weight 0."""

    inputs: npt.NDArray[np.int64]  # [rows, L]
    targets: npt.NDArray[np.int64]  # [rows, L]: the token after each input
    weights: npt.NDArray[np.float32]  # [rows, L]
    numbers: npt.NDArray[np.int64]  # [rows]: sample number, or row of an evaluation; -1 where missing


@dataclass(frozen=True, eq=False)
class Batch:
    """One worker's part of the batch of a step."""

    step: int
    numbers: npt.NDArray[np.int64]  # sample numbers of the whole batch, all workers
    next_number: int  # n after this batch: the data state
    micro: list[MicroBatch]  # as many on each worker
    tokens: int  # targets with weight of the whole batch, all workers
    digest: int  # this worker's; the sum over workers, modulo 2^64, is the batch's, however many workers


def micro_batch_of(
    windows: npt.NDArray[np.uint32], targets: npt.NDArray[np.int64], numbers: npt.NDArray[np.int64]
) -> MicroBatch:
    """Rows of L+1 tokens, of which the first `targets` [rows] predictions count, as a micro-batch.

    The arrays are contiguous, writable and shared with nobody, as torch.from_numpy wants them.
    """
    length = windows.shape[1] - 1
    if (targets == length).all():
        weights = np.ones((len(windows), length), np.float32)
    else:
        weights = (np.arange(length) < targets[:, None]).astype(np.float32)
    inputs, following = windows[:, :-1].astype(np.int64), windows[:, 1:].astype(np.int64)
    return MicroBatch(inputs, following, weights, numbers)
