"""Drop bitmaps: which documents of a run go on to no further stage.

One file beside a run, with a batch for each of its batches, so that whoever reads a part of the run reads
the same part of the bitmap. No join, and nothing that grows with the corpus.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_jobs.work import unreadable

_SCHEMA = pa.schema([("drop", pa.bool_())])


def write_drops(path: str | Path, drop: npt.NDArray[np.bool_], batch_rows: Sequence[int]) -> None:
    """`drop` has an entry for each document of the run; `batch_rows` are the lengths of its batches."""
    assert sum(batch_rows) == len(drop)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        at = 0
        for rows in batch_rows:
            writer.write_batch(pa.record_batch([pa.array(drop[at : at + rows])], schema=_SCHEMA))
            at += rows


class Drops:
    """A drop bitmap, memory-mapped."""

    def __init__(self, path: str | Path) -> None:
        try:
            self._reader: Any = pa.ipc.open_file(pa.memory_map(str(path)))
        except (pa.ArrowException, OSError) as error:
            raise unreadable(path, error) from None

    def kept(self, number: int) -> pa.BooleanArray:
        """Which documents of one batch of the run stay."""
        return pc.invert(self._reader.get_batch(number).column(0))

    def all(self) -> npt.NDArray[np.bool_]:
        """Which documents of the run are dropped."""
        batches = [self._reader.get_batch(n) for n in range(self._reader.num_record_batches)]
        parts = [batch.column(0).to_numpy(zero_copy_only=False) for batch in batches]
        return np.concatenate(parts) if parts else np.zeros(0, bool)
