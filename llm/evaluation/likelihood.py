"""How likely a model holds the last tokens of a row, given those before them.

Shapes: T tokens of a row, C of them are asked for, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from llm.model.bert import BERT
from llm.model.gpt import GPT

Tokens = Sequence[int]


class Likelihood(NamedTuple):
    """Of the tokens that were asked for."""

    nats: float  # log-likelihood, summed: 0 or less
    greedy: bool  # whether each is the likeliest, given those before it (a BERT: all others)


@torch.inference_mode()
def continuations(
    model: GPT, rows: Sequence[tuple[Tokens, Tokens]], context: int, batch: int
) -> Iterator[Likelihood]:
    """Of each (before, asked) how likely `asked` follows. `before` is not empty.

    Of what is longer than the context + 1 the oldest tokens are left out, of `asked` none: ValueError where
    it has more tokens than the context.
    """
    for first in range(0, len(rows), batch):
        some = [
            ([*before, *asked][-context - 1 :], len(asked)) for before, asked in rows[first : first + batch]
        ]
        for row, asked in some:
            if not 0 < asked < len(row):
                raise ValueError(f"{asked} tokens are asked for, with {len(row) - asked} before them")
        # What is to the right of a token is hidden from it, so what pads a row there changes nothing.
        hidden = model.hidden(_padded([row[:-1] for row, _ in some], _device(model)))
        chosen = [hidden[at, len(row) - 1 - asked : len(row) - 1] for at, (row, asked) in enumerate(some)]
        targets = torch.tensor([token for row, asked in some for token in row[-asked:]], device=hidden.device)
        yield from _likelihoods(model.lm_head(torch.cat(chosen)), targets, [asked for _, asked in some])


@torch.inference_mode()
def pseudo_likelihoods(
    model: BERT, rows: Sequence[tuple[Tokens, Tokens]], mask: int, sep: int, context: int, batch: int
) -> Iterator[Likelihood]:
    """Of each (before, asked) the pseudo-log-likelihood of `asked` (Salazar et al. 2020, section 2.1).

    The sum over its tokens of log p(token | the rest of the row), each hidden behind [MASK] in its turn. A
    row is `before`, which begins with [CLS], `asked` and [SEP]; of a longer one the tokens after [CLS] are
    left out, of `asked` none: ValueError where it does not fit.
    """
    for before, asked in rows:
        room = context - 2 - len(asked)
        if room < 0 or not asked:
            raise ValueError(f"{len(asked)} tokens are asked for, and a row has room for {context - 2}")
        rest = before[1:]
        row = torch.tensor([before[0], *rest[max(0, len(rest) - room) :], *asked, sep], device=_device(model))
        places = torch.arange(len(row) - 1 - len(asked), len(row) - 1, device=row.device)
        logits = []
        for some in places.split(batch):
            hidden = row.repeat(len(some), 1)
            hidden[torch.arange(len(some), device=row.device), some] = mask
            states = model.hidden(hidden)[torch.arange(len(some), device=row.device), some]
            logits.append(model.lm_head(model.lm_transform(states)))
        yield from _likelihoods(torch.cat(logits), row[places], [len(asked)])


def _likelihoods(logits: Tensor, targets: Tensor, sizes: Sequence[int]) -> Iterator[Likelihood]:
    """Of rows one after the other: logits [sum of C, V], targets [sum of C]."""
    logs = logits.float().log_softmax(1)
    nats = logs.gather(1, targets[:, None])[:, 0].double()
    hits = logs.argmax(1) == targets
    for some, right in zip(nats.split(list(sizes)), hits.split(list(sizes)), strict=True):
        yield Likelihood(float(some.sum()), bool(right.all()))


def _padded(rows: Sequence[Tokens], device: torch.device) -> Tensor:
    """[B, T]: filled up to the right."""
    most = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (most - len(row))] for row in rows], device=device)


def _device(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device


def windows(tokens: Tokens, start: int, context: int) -> Iterator[tuple[Tokens, Tokens]]:
    """Pairs (before, asked) in which each token of a text is asked for once, with as much before it as fits.

    The first window has `start` before the text. The last one is as long as the context, too, so that its
    tokens are seen with what stands before them.
    """
    for first in range(0, len(tokens), context):
        end = min(first + context, len(tokens))
        if not first:
            yield [start], tokens[:end]
        else:
            yield tokens[max(0, end - context - 1) : first], tokens[first:end]
