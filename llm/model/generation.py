"""Ids to more ids: sampling from a causal model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from data_jobs.hashes import h64


def generate(
    forward: Callable[[Tensor], Tensor],
    prompt: list[int],
    tokens: int,
    context: int,
    temperature: float = 0.8,
    top_k: int | None = 50,
    seed: int = 0,
    stop: int | None = None,
    forbidden: tuple[int, ...] = (),
) -> Iterator[int]:
    """Yield up to `tokens` ids, each drawn from softmax(logits / temperature) over the `top_k` likeliest.

    `forward` takes ids [1, T] and gives logits [1, T, V]; the last `context` ids are shown to it.
    temperature 0 takes the likeliest. The draw at position i is a function of (seed, i) alone.
    `forbidden` ids are never drawn; `stop` ends the text and is not yielded.
    """
    ids = list(prompt)
    for position in range(tokens):
        logits = forward(torch.tensor([ids[-context:]]))[0, -1].float().cpu()
        logits[list(forbidden)] = -torch.inf
        chosen = _draw(logits, temperature, top_k, h64(seed, "generate", position))
        if chosen == stop:
            return
        ids.append(chosen)
        yield chosen


def _draw(logits_V: Tensor, temperature: float, top_k: int | None, seed: int) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    if top_k is not None and top_k < len(logits_V):
        lowest = logits_V.topk(top_k).values[-1]
        logits_V = logits_V.masked_fill(logits_V < lowest, -torch.inf)
    generator = torch.Generator().manual_seed(seed >> 1)
    return int(torch.multinomial((logits_V / temperature).softmax(-1), 1, generator=generator))
