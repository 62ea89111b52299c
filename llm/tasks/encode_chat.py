"""Conversations to rows: instruction, with its examples packed together.

A row's inputs are all tokens of an example but the last, its targets all but the first; answers alone have
weight. So an example of n tokens takes n - 1 places of a row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_jobs.tokens.tokenizer import Tokenizer
from llm.data.packing import best_fit
from llm.finetune_settings import TaskSettings
from llm.tasks.chat import Chat, Piece
from llm.tasks.encoded import Encoded, EncodedRow, chunks, too_long
from llm.tasks.example_fields import BadExample, Example
from llm.tasks.row_layout import Layout


@dataclass(frozen=True)
class ChatEncoder:
    """The answers of a conversation."""

    tokenizer: Tokenizer
    layout: Layout
    task: TaskSettings

    def encode(self, examples: Sequence[Example]) -> Iterator[Encoded | BadExample]:
        """See `Encoder`."""
        chat = Chat(self.task.chat_template, self.tokenizer, self.layout.start)
        for some in chunks(examples):
            cut: list[list[Piece] | BadExample] = []
            for example in some:
                try:
                    cut.append(chat.pieces(example.messages))
                except BadExample as problem:
                    cut.append(problem)
            texts = [
                p.content
                for each in cut
                if isinstance(each, list)
                for p in each
                if isinstance(p.content, str)
            ]
            encoded = iter(self.tokenizer.encode_batch(texts))
            for example, pieces in zip(some, cut, strict=True):
                if isinstance(pieces, BadExample):
                    yield pieces
                    continue
                ids, flags = chat.ids_of(pieces, encoded)
                try:
                    yield self._row(example, ids, flags)
                except BadExample as problem:
                    yield problem

    def _row(self, example: Example, ids: list[int], flags: list[bool]) -> Encoded:
        room = self.layout.length + 1
        if len(ids) > room and self.task.too_long == "fail":
            raise too_long(len(ids), room)
        answer_at = len(flags)
        while answer_at and flags[answer_at - 1]:
            answer_at -= 1
        weights = np.array(flags[1:room], np.uint8)
        if not weights.any():
            raise BadExample(
                "no_answer_left", f"{len(ids):,} tokens, and none of an answer among the first {room:,}: "
                "raise finetune.length"
            )  # fmt: skip
        row = EncodedRow(np.array(ids[:room], np.uint32), min(len(ids), room), {"weights": weights})
        known = {
            "prompt": np.array(ids[:answer_at], np.uint32),
            "answers": json.dumps([example.messages[-1].content], ensure_ascii=False),
        }
        return Encoded([row], len(ids) > room, known)


def pack_rows(rows: Sequence[EncodedRow], length: int, packing: bool) -> list[list[int]]:
    """Which examples stand together in each row, in their order; rows in the order of their first example."""
    sizes = np.array([len(row.ids) - 1 for row in rows], np.int64)
    if not packing or not len(sizes):
        return [[number] for number in range(len(sizes))]
    packs: dict[int, list[int]] = {}
    for number, pack in enumerate(best_fit(sizes, length).tolist()):
        packs.setdefault(pack, []).append(number)
    return list(packs.values())
