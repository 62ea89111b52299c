"""What an encoder makes of an example: rows for the model, and what scoring wants to know of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from data_jobs.tokens.tokenizer import Ids
from llm.tasks.example_fields import BadExample, Example

AT_ONCE = 1000
"""Examples that are tokenized together."""


class EncodedRow(NamedTuple):
    """One row with its specials. `second_at`: where the second part begins; without one the row's end."""

    ids: Ids
    second_at: int
    columns: Mapping[str, Any] = MappingProxyType({})
    """Numbers, and arrays of them, by name."""


@dataclass
class Encoded:
    """The rows of one example: one, or its windows; `columns` of the example itself."""

    rows: list[EncodedRow]
    truncated: bool = False
    columns: dict[str, Any] = field(default_factory=dict)
    lost: bool = False
    """Whether what is to be learned of it was cut away."""


class Encoder(Protocol):
    """The encoder of a kind of task."""

    def encode(self, examples: Sequence[Example]) -> Iterator[Encoded | BadExample]:
        """Each example's rows, or why it has none."""


def too_long(tokens: int, room: int) -> BadExample:
    """What too_long: fail says of an example."""
    return BadExample(
        "too_long", f"{tokens:,} tokens, and a row has room for {max(0, room):,}: raise finetune.length, or "
        "choose truncate or window in finetune.task.too_long"
    )  # fmt: skip


def chunks(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    """Some at a time."""
    for first in range(0, len(examples), AT_ONCE):
        yield examples[first : first + AT_ONCE]
