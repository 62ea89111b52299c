"""How texts stand in a row of a model, and how much of them has room.

| model | one text | a pair |
| --- | --- | --- |
| BERT | [CLS] a [SEP] | [CLS] a [SEP] b [SEP], segments 0 and 1 (Devlin et al. 2019, figure 2) |
| GPT | start a eos | start a eos b eos |

A GPT's start is what stands before each text in its training: our eos, or what an imported tokenizer puts
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cluster.errors import UserError
from data_jobs.tokens.tokenizer import Ids, Tokenizer
from data_jobs.tokens.tokenizer_pixels import PixelTokenizer
from llm.finetune_settings import TaskKind


@dataclass(frozen=True)
class Layout:
    """The specials of a row, and the most tokens that it may have."""

    model: str
    """gpt or bert."""
    length: int
    start: tuple[int, ...]
    between: tuple[int, ...]
    end: tuple[int, ...]
    pad: int

    def room(self, parts: int) -> int:
        """Tokens that are left for so many texts; may be negative."""
        return self.length - len(self.start) - (parts - 1) * len(self.between) - len(self.end)

    def row(self, first: npt.ArrayLike, second: npt.ArrayLike | None = None) -> tuple[Ids, int]:
        """The ids of a row, and where its second part begins: at its end where there is none."""
        parts: list[npt.ArrayLike] = [self.start, first]
        if second is not None:
            parts += [self.between, second]
        begin = sum(np.size(part) for part in parts[: 3 if second is not None else 2])
        ids = np.concatenate([np.asarray(part, np.uint32) for part in [*parts, self.end]])
        return ids, begin if second is not None else len(ids)


def make_layout(
    kind: TaskKind, model: str, tokenizer: Tokenizer, length: int, text_start: Sequence[int] | None = None
) -> Layout:
    """The layout of a model of a kind (gpt, bert). UserError where the model cannot do the task.

    `text_start`: what stands before a GPT's text (default: its eos).
    """
    if isinstance(tokenizer, PixelTokenizer):
        raise UserError("finetune.task: the model is one of images, and its tasks are about texts")
    if model == "bert":
        if kind == "instruction":
            raise UserError(
                "finetune.task.kind instruction: needs a gpt, the model is a bert: it writes no answers; "
                "take a gpt as finetune.start_from, or another task"
            )
        return Layout(
            model, length, (tokenizer.cls_id,), (tokenizer.sep_id,), (tokenizer.sep_id,), tokenizer.pad_id
        )
    eos = (tokenizer.eos_id,)
    start = eos if text_start is None else tuple(text_start)
    return Layout(model, length, start, eos, eos, tokenizer.pad_id)


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Tokens of each part of a pair that stay: one at a time goes from the end of the longer one.

    As the truncation `longest_first` of Hugging Face's tokenizers, in closed form.
    """
    if first + second <= room:
        return first, second
    short = min(first, second)
    if 2 * short <= room:
        return (first, room - first) if first <= second else (room - second, second)
    half = room // 2
    return (half, room - half) if first <= second else (room - half, half)


def window_starts(size: int, room: int, stride: int) -> list[int]:
    """Where windows of `room` tokens begin, neighbours sharing `stride`, until one holds the last token."""
    assert 0 <= stride < room
    step = room - stride
    count = 1 if size <= room else -(-(size - room) // step) + 1
    return [step * number for number in range(count)]
