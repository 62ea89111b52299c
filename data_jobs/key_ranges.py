"""Files of rows with a 64-bit hash, of which a range of hashes is read without the rest.

So work on all rows with equal hashes is cut into tasks with no shuffle by a running service: each writer
sorts its own file, each reader takes its range of every file, and both can be done again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_jobs.work import unreadable

CHUNK_ROWS = 1 << 20
"""Rows that are sorted at once: each such part of a file is sorted for itself, so that memory has a bound."""


class Range(NamedTuple):
    """Hashes of part `number` of `count`: [floor(g * 2^64 / G), floor((g + 1) * 2^64 / G))."""

    low: int
    high: int

    @classmethod
    def of(cls, number: int, count: int) -> Range:
        """The formula above, in integers."""
        return cls((number << 64) // count, ((number + 1) << 64) // count)

    def cut(self, count: int) -> list[Range]:
        """The range in so many parts of about the same width, at least one."""
        count = max(1, count)
        edges = [self.low + (self.high - self.low) * i // count for i in range(count + 1)]
        return [Range(low, high) for low, high in itertools.pairwise(edges)]


WHOLE = Range.of(0, 1)
"""All hashes."""


class KeyedWriter:
    """Rows to such a file, which is whole after the `with`; the first column is the hash."""

    def __init__(self, path: str | Path, columns: dict[str, Any]) -> None:
        self._schema = pa.schema([(name, pa.from_numpy_dtype(kind)) for name, kind in columns.items()])
        assert self._schema.field(0).type == pa.uint64()
        self._path = path
        self._held: list[tuple[npt.NDArray[Any], ...]] = []
        self._rows = 0

    def __enter__(self) -> KeyedWriter:
        self._sink = pa.OSFile(str(self._path), "wb")
        self._writer = pa.ipc.new_file(self._sink, self._schema)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._write()
        self._writer.close()
        self._sink.close()

    def add(self, *columns: npt.NDArray[Any]) -> None:
        """Rows as columns of one length."""
        self._held.append(columns)
        self._rows += len(columns[0])
        if self._rows >= CHUNK_ROWS:
            self._write()

    def _write(self) -> None:
        if not self._rows:
            return
        columns = [np.concatenate(parts) for parts in zip(*self._held)]
        order = np.argsort(columns[0], kind="stable")
        arrays = [pa.array(column[order], field.type) for column, field in zip(columns, self._schema)]
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._held, self._rows = [], 0


def read_range(paths: Iterable[str], keys: Range) -> list[tuple[int, list[npt.NDArray[Any]]]]:
    """(number of the file, columns) of the rows with hashes in the range; a file may come several times."""
    return [
        (number, [column.copy() for column in columns])
        for number, path in enumerate(paths)
        for columns in parts_of_range(path, keys)
    ]


def parts_of_range(path: str, keys: Range) -> Iterator[list[npt.NDArray[Any]]]:
    """The columns of the rows of a file with hashes in the range, for each of its sorted parts, mapped."""
    low, last = np.uint64(keys.low), np.uint64(keys.high - 1)
    try:
        reader = pa.ipc.open_file(pa.memory_map(path))
        batches = [reader.get_batch(n) for n in range(reader.num_record_batches)]
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from None
    for batch in batches:
        sorted_keys = batch.column(0).to_numpy()
        start, stop = np.searchsorted(sorted_keys, low), np.searchsorted(sorted_keys, last, side="right")
        if start < stop:
            yield [column.to_numpy()[start:stop] for column in batch.columns]
