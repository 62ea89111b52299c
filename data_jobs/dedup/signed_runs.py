"""Documents of many runs by number: their ranks, signatures and texts, read where they lie.

Runs are numbered in the order of their names; a document is run << 32 | row. So a number is a function of
what the runs hold, and says where the document stands.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from data_jobs.reading.records import HEAD_BYTES
from data_jobs.runs import RunFile, text_buffers

T = TypeVar("T")
Vertices = npt.NDArray[np.uint64]
_OPEN_RUNS = 256
_ROW = np.uint64(0xFFFFFFFF)
_RUN = np.uint64(32)


class SignedRuns:
    """Rows {name, run, source, source_name, bands, signatures, ranks}, in the order of names."""

    def __init__(self, path: str | Path) -> None:
        self.rows: list[dict[str, Any]] = json.loads(Path(path).read_bytes())
        self._runs: OrderedDict[int, _Rows] = OrderedDict()

    def vertices(self, number: int, rows: npt.NDArray[Any]) -> Vertices:
        """The documents of some rows of a run."""
        return np.uint64(number) << _RUN | rows.astype(np.uint64)

    def ranks(self, vertices: Vertices) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
        """(number of the source, rank) of documents."""
        sources = np.empty(len(vertices), np.int64)
        for number, places, _ in _by_run(vertices):
            sources[places] = self.rows[number]["source"]
        return sources, self._gather("ranks", vertices)

    def signatures(self, vertices: Vertices) -> npt.NDArray[np.uint8]:
        """[documents, minima]."""
        return self._gather("signatures", vertices)

    def text(self, vertex: int) -> tuple[npt.NDArray[np.uint8], int, int]:
        """(buffer, start, stop) of a document's UTF-8."""
        return self._rows_of(vertex >> 32).text(vertex & 0xFFFFFFFF)

    def place(self, vertex: int) -> dict[str, Any]:
        """Where the document stood in the input."""
        return self._rows_of(vertex >> 32).place(vertex & 0xFFFFFFFF)

    def head(self, vertex: int) -> str:
        """The beginning of the text, escaped."""
        values, start, stop = self.text(vertex)
        return head_of(values[start : min(stop, start + 4 * HEAD_BYTES)].tobytes())

    def source_name(self, vertex: int) -> str:
        """The name of the document's source."""
        name: str = self.rows[vertex >> 32]["source_name"]
        return name

    def _gather(self, what: str, vertices: Vertices) -> npt.NDArray[Any]:
        result: npt.NDArray[Any] | None = None
        for number, places, rows in _by_run(vertices):
            values = np.load(self.rows[number][what], mmap_mode="r")
            if result is None:
                result = np.empty((len(vertices), *values.shape[1:]), values.dtype)
            result[places] = values[rows]
        assert result is not None, "no documents asked for"
        return result

    def _rows_of(self, number: int) -> _Rows:
        return cached(self._runs, number, lambda: _Rows(self.rows[number]["run"]), _OPEN_RUNS)


def cached(held: OrderedDict[int, T], key: int, make: Callable[[], T], room: int) -> T:
    """The value of a key, made if need be; the one used longest ago makes room."""
    if key in held:
        held.move_to_end(key)
        return held[key]
    held[key] = value = make()
    if len(held) > room:
        held.popitem(last=False)
    return value


def head_of(data: bytes) -> str:
    """The first characters of a text, escaped, as samples of dropped documents show them."""
    return repr(data.decode("utf-8", "ignore")[:HEAD_BYTES])[1:-1]


class _Rows:
    """Single documents of one run."""

    def __init__(self, path: str) -> None:
        self._run = RunFile(path)
        lengths = [batch.num_rows for batch in self._run.batches()]
        self._starts = np.concatenate([[0], np.cumsum(lengths)])

    def text(self, row: int) -> tuple[npt.NDArray[np.uint8], int, int]:
        batch, row = self._find(row)
        values, offsets = text_buffers(self._run.batch(batch)["text"])
        return values, int(offsets[row]), int(offsets[row + 1])

    def place(self, row: int) -> dict[str, Any]:
        batch, row = self._find(row)
        place: dict[str, Any] = json.loads(self._run.batch(batch)["place"][row].as_py())
        return place

    def _find(self, row: int) -> tuple[int, int]:
        batch = int(np.searchsorted(self._starts, row, side="right")) - 1
        return batch, row - int(self._starts[batch])


def _by_run(vertices: Vertices) -> Iterator[tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """(run, places in `vertices`, rows) for each run that has some of them."""
    runs = (vertices >> _RUN).astype(np.int64)
    order = np.argsort(runs, kind="stable")
    edges: Sequence[int] = np.flatnonzero(np.diff(runs[order], prepend=-1)).tolist()
    for start, stop in zip(edges, [*edges[1:], len(order)], strict=True):
        places = order[start:stop]
        yield int(runs[places[0]]), places, (vertices[places] & _ROW).astype(np.int64)
