"""The examples of one part to the columns that are kept of them, and what is counted on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm.finetune_settings import FinetuneSettings, TaskKind
from llm.tasks.bad_records import BadRecords
from llm.tasks.columns_file import Column, Ragged, Texts, digest_of_columns
from llm.tasks.encode_chat import pack_rows
from llm.tasks.encoded import Encoded, EncodedRow, Encoder
from llm.tasks.example_fields import BadExample, Example
from llm.tasks.task_data import Bad

_LISTS = {
    "tag_places": np.int32, "tags": np.int32, "tagged_words": np.int32, "span_starts": np.int32,
    "span_stops": np.int32, "prompt": np.uint32,
}  # fmt: skip
_NUMBERS = ("answer_first", "answer_last", "words")
_TEXTS = ("context", "answers")


@dataclass(frozen=True, eq=False)
class Part:
    """A part: its examples, in their order; the columns of its rows and of its examples; counts."""

    examples: list[Example]
    rows: dict[str, Column]
    columns: dict[str, Column]
    truncated: int
    """Examples of which something was cut away."""
    windows: int
    """Rows of examples that have several."""
    lost: int
    """Examples whose answer was cut away."""
    tokens: int
    """Of all rows, specials included, without padding; of instructions places with an input."""
    untagged: int
    """Words without a token that could have their tag."""

    def record(self) -> dict[str, Any]:
        """What the record says of it."""
        return {
            "examples": len(self.examples),
            "rows": len(self.rows["ids"]),
            "tokens": self.tokens,
            "truncated": self.truncated,
            "windows": self.windows,
            "digests": [digest_of_columns(self.rows), digest_of_columns(self.columns)],
        }

    def notes(self, name: str) -> list[str]:
        """What was lost, a line each."""
        notes = []
        if self.truncated:
            notes.append(
                f"{name}: {self.truncated:,} of {len(self.examples):,} examples are longer than a row and cut"
            )
        if self.lost:
            notes.append(
                f"{name}: the answers of {self.lost:,} examples stand whole in no row: choose "
                "finetune.task.too_long window, or a larger finetune.task.stride or finetune.length"
            )
        if self.untagged:
            notes.append(
                f"{name}: {self.untagged:,} words have no token in their row, so their tags are not used"
            )
        return notes


def encode_part(
    name: str,
    examples: Sequence[Example],
    encoder: Encoder,
    settings: FinetuneSettings,
    labels: Sequence[str],
    bad: BadRecords,
) -> Part:
    """The columns of a part; what gives no row is counted in `bad`."""
    kept: list[Example] = []
    encoded: list[Encoded] = []
    for example, made in zip(examples, encoder.encode(examples), strict=True):
        if isinstance(made, BadExample):
            bad.add(name, Bad(made.reason, made.detail, example.place))
        else:
            kept.append(example)
            encoded.append(made)
    kind = settings.task.kind
    if kind == "instruction":
        rows = _packed([each.rows[0] for each in encoded], settings.length, settings.task.packing)
        tokens = int((rows["sizes"].values - 1).sum()) if len(kept) else 0  # type: ignore[union-attr]
    else:
        rows = _plain(encoded)
        tokens = len(rows["ids"].values)  # type: ignore[union-attr]
    columns = _columns([each.columns for each in encoded])
    # Of the place the line alone: what is made hangs on no file's name.
    columns["line"] = np.array([int(example.place.rpartition(":")[2]) for example in kept], np.int64)
    columns |= _labels(kind, kept, labels)
    several = [len(each.rows) for each in encoded if len(each.rows) > 1]
    words = columns.get("words")
    untagged = int(np.sum(words)) - len(rows["tags"].values) if words is not None else 0  # type: ignore[union-attr, arg-type]
    return Part(
        kept,
        rows,
        columns,
        truncated=sum(each.truncated for each in encoded),
        windows=sum(several),
        lost=sum(each.lost for each in encoded),
        tokens=tokens,
        untagged=untagged,
    )


def _plain(encoded: Sequence[Encoded]) -> dict[str, Column]:
    """A row for each window."""
    rows = [row for each in encoded for row in each.rows]
    counts = np.array([len(each.rows) for each in encoded], np.int64)
    found: dict[str, Column] = {
        "ids": Ragged.of([row.ids for row in rows], np.uint32),
        "example": np.repeat(np.arange(len(encoded), dtype=np.int64), counts),
        "second_at": np.array([row.second_at for row in rows], np.int32),
    }
    return found | _columns([row.columns for row in rows])


def _packed(rows: Sequence[EncodedRow], length: int, packing: bool) -> dict[str, Column]:
    """A row for each pack: whole sequences in a row, `sizes` their tokens, `members` their examples."""
    packs = pack_rows(rows, length, packing)

    def joined(arrays: Sequence[Any]) -> list[Any]:
        return [np.concatenate([arrays[number] for number in pack]) for pack in packs]

    return {
        "ids": Ragged.of(joined([row.ids for row in rows]), np.uint32),
        "weights": Ragged.of(joined([row.columns["weights"] for row in rows]), np.uint8),
        "sizes": Ragged.of(joined([[len(row.ids)] for row in rows]), np.int64),
        "members": Ragged.of(packs, np.int64),
        "example": np.array([pack[0] for pack in packs], np.int64),
    }


def _columns(values: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    """Columns by name, as their kinds are."""
    found: dict[str, Column] = {}
    for name in values[0] if values else ():
        column = [value[name] for value in values]
        if name in _LISTS:
            found[name] = Ragged.of(column, _LISTS[name])
        elif name in _TEXTS:
            found[name] = Texts.of(column)
        else:
            assert name in _NUMBERS, name
            found[name] = np.array(column, np.int32)
    return found


def _labels(kind: TaskKind, examples: Sequence[Example], labels: Sequence[str]) -> dict[str, Column]:
    """The labels of examples as numbers."""
    number = {name: index for index, name in enumerate(labels)}
    match kind:
        case "classification":
            return {"label": np.array([number[str(each.label)] for each in examples], np.int32)}
        case "multi_label":
            return {
                "labels": Ragged.of([[number[name] for name in each.classes] for each in examples], np.int32)
            }
        case "regression":
            return {"value": np.array([each.label for each in examples], np.float64)}
    return {}
