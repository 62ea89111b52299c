"""Named columns of numbers, lists and texts: an Arrow file that is mapped, and a digest of its values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cluster import places
from cluster.errors import RunError
from cluster.places import ObjectPath, Place


@dataclass(frozen=True, eq=False)
class Ragged:
    """Lists of numbers, one after the other: list i is `values[ends[i]:ends[i + 1]]`."""

    values: npt.NDArray[Any]
    ends: npt.NDArray[np.int64]

    @classmethod
    def of(cls, lists: Sequence[npt.ArrayLike], kind: npt.DTypeLike) -> Ragged:
        """Lists of a type."""
        arrays = [np.asarray(some, kind) for some in lists]
        ends = np.concatenate(
            [np.zeros(1, np.int64), np.cumsum([len(some) for some in arrays], dtype=np.int64)]
        )
        return cls(np.concatenate([*arrays, np.zeros(0, kind)]).astype(kind), ends)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, number: int) -> npt.NDArray[Any]:
        return self.values[self.ends[number] : self.ends[number + 1]]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """How many each list has."""
        return np.diff(self.ends)


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts, as their UTF-8 one after the other."""

    data: npt.NDArray[np.uint8]
    ends: npt.NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Texts:
        """A column of texts."""
        encoded = [text.encode() for text in texts]
        ends = np.concatenate(
            [np.zeros(1, np.int64), np.cumsum([len(some) for some in encoded], dtype=np.int64)]
        )
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, number: int) -> str:
        return self.data[self.ends[number] : self.ends[number + 1]].tobytes().decode()


Column = npt.NDArray[Any] | Ragged | Texts
Columns = Mapping[str, Column]


def digest_of_columns(columns: Columns) -> str:
    """SHA-256 over names, types and values; nothing of how Arrow writes them."""
    whole = hashlib.sha256()
    for name in sorted(columns):
        for part, array in _arrays(columns[name]):
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            whole.update(f"{name}.{part} {little.dtype.str} {len(little)}\n".encode())
            whole.update(np.ascontiguousarray(little).tobytes())
    return whole.hexdigest()


def _arrays(column: Column) -> list[tuple[str, npt.NDArray[Any]]]:
    if isinstance(column, Ragged):
        return [("ends", column.ends), ("values", column.values)]
    if isinstance(column, Texts):
        return [("ends", column.ends), ("data", column.data)]
    return [("values", column)]


def write_columns(path: Place, columns: Columns) -> None:
    """Columns of one length as a file of one record batch; whole or not at all."""
    arrays = {name: _to_arrow(column) for name, column in columns.items()}
    schema = pa.schema([pa.field(name, array.type, nullable=False) for name, array in arrays.items()])
    batch = pa.RecordBatch.from_arrays(list(arrays.values()), schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)
    places.write_bytes(path, memoryview(sink.getvalue()).tobytes())


def read_columns(path: Place) -> dict[str, Column]:
    """The columns of a file, mapped; of an object they are read whole. RunError where it is damaged."""
    try:
        if isinstance(path, ObjectPath):
            source: Any = pa.BufferReader(path.read_bytes())
        else:
            source = pa.memory_map(str(path))
        batch = pa.ipc.open_file(source).get_batch(0)
        return {name: _from_arrow(batch.column(number)) for number, name in enumerate(batch.schema.names)}
    except (pa.ArrowException, OSError, IndexError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}; remove its folder, and it is made anew") from None


def _to_arrow(column: Column) -> pa.Array:
    if isinstance(column, Ragged):
        kind = pa.large_list(pa.field("item", pa.from_numpy_dtype(column.values.dtype), nullable=False))
        return pa.LargeListArray.from_arrays(pa.array(column.ends), pa.array(column.values), type=kind)
    if isinstance(column, Texts):
        buffers = [None, pa.py_buffer(column.ends), pa.py_buffer(column.data)]
        return pa.LargeStringArray.from_buffers(len(column), *buffers[1:])
    return pa.array(column)


def _from_arrow(array: pa.Array) -> Column:
    if pa.types.is_large_list(array.type):
        ends = _offsets(array)
        return Ragged(array.values.to_numpy(zero_copy_only=True), ends)
    if pa.types.is_large_string(array.type):
        ends, data = _offsets(array), array.buffers()[2]
        size = int(ends[-1])
        return Texts(np.frombuffer(data, np.uint8)[:size] if size else np.zeros(0, np.uint8), ends)
    return array.to_numpy(zero_copy_only=True)


def _offsets(array: pa.Array) -> npt.NDArray[np.int64]:
    if not len(array):  # it may have no buffers at all
        return np.zeros(1, np.int64)
    return np.frombuffer(array.buffers()[1], np.int64)[: len(array) + 1]
