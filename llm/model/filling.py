"""Masks to tokens: what a BERT puts where a token is hidden.

Shapes: T tokens, K masks, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from llm.model.bert import BERT


class Filling(NamedTuple):
    """What can stand at a position of the row, likeliest first."""

    position: int
    candidates: list[tuple[int, float]]
    """(token, probability)"""


@torch.inference_mode()
def fill(
    model: BERT, row: Sequence[int], mask_id: int, top: int = 5, forbidden: Sequence[int] = ()
) -> list[Filling]:
    """The `top` likeliest tokens for each mask of a row [T], which has its [CLS] and [SEP].

    All masks are guessed in one forward, each as if the others stayed hidden. `forbidden` tokens are no
    candidates; the probabilities are those of the softmax over the others.
    """
    ids = torch.tensor([list(row)], device=next(model.parameters()).device)
    positions = (ids[0] == mask_id).nonzero()[:, 0]
    logits_KV = model.lm_head(model.lm_transform(model.hidden(ids)[:, positions]))[0].float()
    logits_KV[:, list(forbidden)] = -torch.inf
    found = logits_KV.softmax(1).topk(min(top, logits_KV.shape[1] - len(set(forbidden))))
    return [
        Filling(position, list(zip(tokens, shares, strict=True)))
        for position, tokens, shares in zip(
            positions.tolist(), found.indices.tolist(), found.values.tolist(), strict=True
        )
    ]
