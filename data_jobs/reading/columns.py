"""Rows of Arrow columns to records, with no Python object for a value that is not wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cluster.errors import UserError
from cluster.places import to_json
from data_jobs.reading.missing import FieldRules, as_text
from data_jobs.reading.raw_bytes import Reading
from data_jobs.reading.records import HEAD_BYTES, Place, Record, Reject, rejected

Values = list[str | bytes | None]
"""A metadata column as text; bytes where a value is not UTF-8, None where it is null."""


def wanted_columns(schema: pa.Schema, rules: FieldRules, path: str) -> list[int]:
    """Numbers of the columns that a source wants and that are there, of equal names the first.

    UserError for one of an extension type: some of those run code when they are read.
    """
    names = dict.fromkeys([rules.text_field, *rules.metadata])
    numbers = [number for name in names for number in schema.get_all_field_indices(name)[:1]]
    for field in map(schema.field, numbers):
        if isinstance(field.type, pa.BaseExtensionType):
            raise UserError(
                f"{path}: column '{field.name}' has the extension type {field.type}: store it as text"
            )
    return numbers


def digest_columns(columns: dict[str, pa.Array], reading: Reading) -> None:
    """The values of columns, for the digest of a piece. Raises pa.ArrowInvalid where one is damaged."""
    for name in sorted(columns):
        texts = Texts.of(columns[name])
        if texts is not None:
            texts.digest(reading.digest.update)
        else:
            reading.digest.update(to_json(_values(columns[name])))


@dataclass
class Rows:
    """Some rows of a table. `columns`: those wanted that are there; `names`: of all that there are."""

    columns: dict[str, pa.Array]
    count: int
    names: tuple[str, ...]
    place_of: Callable[[int], Place]

    def read(self, rules: FieldRules, reading: Reading, max_bytes: int) -> Iterator[Record | Reject]:
        """A record or reject for each row. Raises pa.ArrowInvalid where a column is damaged."""
        metadata = {name: _values(self.columns[name]) for name in rules.metadata if name in self.columns}
        sizes = np.zeros(self.count, np.int64)
        for values in metadata.values():
            sizes += np.fromiter(map(_size, values), np.int64, self.count)
        column = self.columns.get(rules.text_field)
        texts = None if column is None else Texts.of(column)
        reading.bytes_read += int(sizes.sum()) + (0 if texts is None else texts.bytes)
        if column is not None and texts is None:
            detail = f"column '{rules.text_field}' is {column.type}"
            for row in range(self.count):
                place = self.place_of(row)
                yield rejected("text_not_string", detail, place, int(sizes[row]), b"", self.names)
            return
        bare = not rules.metadata
        for row in range(self.count):
            data = None if texts is None else texts[row]
            if data is not None and bare and len(data) <= 4 * max_bytes:
                try:
                    yield Record(str(data, "utf-8"), self.place_of(row), len(data), {})
                    continue
                except UnicodeDecodeError:
                    pass
            kept = {name: values[row] for name, values in metadata.items()}
            yield self._row(
                row, data, texts is not None, kept, int(sizes[row]), rules, reading, 4 * max_bytes
            )

    def _row(
        self,
        row: int,
        data: memoryview | None,
        has_text: bool,
        metadata: dict[str, str | bytes | None],
        metadata_bytes: int,
        rules: FieldRules,
        reading: Reading,
        bound: int,
    ) -> Record | Reject:
        place, head = self.place_of(row), bytes(data[:HEAD_BYTES]) if data is not None else b""
        size = metadata_bytes + (len(data) if data is not None else 0)
        if size - metadata_bytes > bound:
            return rejected("too_long", f"the text has {size - metadata_bytes:,} bytes", place, size, head)
        values: dict[str, Any] = dict(metadata)
        if data is not None:
            try:
                values[rules.text_field] = str(data, "utf-8")
            except UnicodeDecodeError as error:
                detail = f"byte {error.start} of the text is not UTF-8"
                return rejected("invalid_utf8", detail, place, size, bytes(data[error.start :][:HEAD_BYTES]))
        for name, value in values.items():
            if isinstance(value, bytes):
                return rejected("invalid_utf8", f"column '{name}' is not UTF-8", place, size, value)
        return rules.record(values.get, has_text, place, size, head, self.names, reading)


class Texts:
    """A column of text or bytes as slices of its one buffer."""

    def __init__(self, column: pa.Array) -> None:
        self._nulls = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
        _, offsets, data = column.buffers()
        if len(column):
            at = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
        else:  # it may have no buffers at all
            at = np.zeros(1, np.int64)
        self.lengths: npt.NDArray[np.int64] = np.diff(at)
        self.bytes = int(at[-1] - at[0])
        self._at = at.tolist()
        self._data = memoryview(b"" if data is None else data)

    @classmethod
    def of(cls, column: pa.Array) -> Texts | None:
        """None where the column is neither text nor bytes. pa.ArrowInvalid where it is damaged."""
        if pa.types.is_dictionary(column.type):
            values = _as_binary(column.dictionary)
            return None if values is None else cls(values.take(column.indices))
        binary = _as_binary(column)
        return None if binary is None else cls(binary)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> memoryview | None:
        if self._nulls is not None and self._nulls[row]:
            return None
        return self._data[self._at[row] : self._at[row + 1]]

    def digest(self, update: Callable[[Any], None]) -> None:
        """Give what the column holds to a hash."""
        if self._nulls is not None:
            update(self._nulls.tobytes())
        update(self.lengths.tobytes())
        update(self._data[self._at[0] : self._at[-1]])


def _as_binary(column: pa.Array) -> pa.Array | None:
    """A column of text or bytes as large_binary: what is no UTF-8 is no damage of the column."""
    kind = column.type
    if pa.types.is_null(kind):
        return pa.nulls(len(column), pa.large_binary())
    if pa.types.is_string(kind):
        column = column.view(pa.binary())
    elif pa.types.is_large_string(kind):
        column = column.view(pa.large_binary())
    elif pa.types.is_string_view(kind):
        column = column.view(pa.binary_view())
    elif not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)):
        return None
    column.validate(full=True)
    return column.cast(pa.large_binary())


def _values(column: pa.Array) -> Values:
    """A column's values as text, each where it is not null."""
    texts = Texts.of(column)
    if texts is None:
        if pa.types.is_temporal(column.type):
            column = column.cast(pa.string())  # Python's own types are coarser than Arrow's
        return [None if value is None else as_text(value) for value in column.to_pylist()]
    return [_decoded(texts[row]) for row in range(len(texts))]


def _decoded(data: memoryview | None) -> str | bytes | None:
    if data is None:
        return None
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        return bytes(data)


def _size(value: str | bytes | None) -> int:
    if value is None:
        return 0
    return (
        len(value) if isinstance(value, bytes) or value.isascii() else len(value.encode("utf-8", "replace"))
    )
