"""Texts and pairs of texts to rows: classification, multi_label, regression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_jobs.tokens.tokenizer import Ids, Tokenizer
from llm.finetune_settings import TaskSettings
from llm.tasks.encoded import Encoded, EncodedRow, chunks, too_long
from llm.tasks.example_fields import BadExample, Example
from llm.tasks.row_layout import Layout, longest_first, window_starts


@dataclass(frozen=True)
class TextEncoder:
    """One label for a text, or for a pair.

    Windows go over the longer text of a pair; the shorter stays whole, up to half of the room.
    """

    tokenizer: Tokenizer
    layout: Layout
    task: TaskSettings

    def encode(self, examples: Sequence[Example]) -> Iterator[Encoded | BadExample]:
        """See `Encoder`."""
        for some in chunks(examples):
            ids = iter(self.tokenizer.encode_batch([text for example in some for text in example.texts]))
            for example in some:
                parts = [next(ids) for _ in example.texts]
                try:
                    yield self._rows(parts)
                except BadExample as problem:
                    yield problem

    def _rows(self, parts: list[Ids]) -> Encoded:
        if not all(len(part) for part in parts):
            raise BadExample(
                "no_tokens", "a text without a token: all its characters are dropped by the tokenizer"
            )
        room, size = self.layout.room(len(parts)), sum(map(len, parts))
        if room < len(parts):
            raise too_long(size, room)
        if size <= room:
            return Encoded([self._row(*parts)])
        match self.task.too_long:
            case "fail":
                raise too_long(size, room)
            case "truncate":
                kept = [room] if len(parts) == 1 else longest_first(len(parts[0]), len(parts[1]), room)
                return Encoded([self._row(*(part[:n] for part, n in zip(parts, kept)))], truncated=True)
        longer = int(np.argmax([len(part) for part in parts]))
        whole = [part if number == longer else part[: room // 2] for number, part in enumerate(parts)]
        left = room - sum(len(part) for number, part in enumerate(whole) if number != longer)
        stride = min(self.task.stride, left - 1)
        rows = []
        for start in window_starts(len(whole[longer]), left, stride):
            cut = [*whole]
            cut[longer] = whole[longer][start : start + left]
            rows.append(self._row(*cut))
        return Encoded(rows, truncated=any(len(a) < len(b) for a, b in zip(whole, parts)))

    def _row(self, *parts: Ids) -> EncodedRow:
        return EncodedRow(*self.layout.row(*parts))
