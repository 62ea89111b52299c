"""Logits to the next id: what may be drawn, how likely, by which draw.

Shapes: B rows, V vocabulary, N ids that can be drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cluster.errors import RunError
from data_jobs.hashes import MASK64, h64, mix

_STEP = 0x9E3779B97F4A7C15  # splitmix64's (Steele, Lea, Flood 2014)


@dataclass(frozen=True)
class Sampling:
    """How text is drawn. ValueError, with all that is wrong, where a number cannot be."""

    tokens: int = 200
    """Most tokens to write after a prompt."""
    temperature: float = 0.8
    """Logits are divided by it; 0: always the likeliest."""
    top_k: int | None = 50
    """Only so many likeliest tokens can be drawn."""
    top_p: float = 1.0
    """Only the likeliest tokens that reach this probability together (Holtzman et al. 2020, section 3.1)."""
    repetition_penalty: float = 1.0
    """Logits of tokens that stand in the text already are divided by it, negative ones multiplied
    (Keskar et al. 2019, CTRL, section 4.1)."""
    seed: int = 0
    """The draw at position i of row r is a function of (seed, r, i) alone."""
    stop: int | None = None
    """The token that ends a text; it is not part of it."""
    forbidden: tuple[int, ...] = ()
    """Tokens that are never drawn."""

    def __post_init__(self) -> None:
        rules = {
            "tokens": (self.tokens >= 1, "at least 1"),
            "temperature": (0 <= self.temperature < float("inf"), "0 or more"),
            "top_k": (self.top_k is None or self.top_k >= 1, "at least 1"),
            "top_p": (0 < self.top_p <= 1, "above 0, at most 1"),
            "repetition_penalty": (0 < self.repetition_penalty < float("inf"), "above 0 (1: none)"),
            "seed": (self.seed >= 0, "0 or more"),
        }
        wrong = [
            f"{name} must be {rule}, it is {getattr(self, name)}"
            for name, (ok, rule) in rules.items()
            if not ok
        ]
        if wrong:
            raise ValueError("; ".join(wrong))


class Sampler:
    """The draws of a batch of rows, step after step. Row numbers count from `first`."""

    def __init__(self, sampling: Sampling, prompts: Sequence[Sequence[int]], first: int = 0) -> None:
        self.sampling, self.position = sampling, 0
        self._texts: list[Sequence[int]] = list(prompts)
        self._keys = [h64(sampling.seed, "generate", first + row) for row in range(len(prompts))]
        self._there: Tensor | None = None  # bool [B, V]: tokens that stand in the text

    @torch.inference_mode()
    def draw(self, logits_BV: Tensor) -> list[int]:
        """The next id of each row. RunError where the logits are no numbers."""
        ids = self._choose(self._allowed(logits_BV.float()))
        if self._there is not None:
            self._there.scatter_(1, ids[:, None].clamp(min=0), True)
        self.position += 1
        chosen: list[int] = ids.tolist()
        if min(chosen) < 0:
            raise RunError(
                "the model's logits are not finite, or every token is forbidden: nothing can be drawn"
            )
        return chosen

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all but these rows."""
        self._keys = [self._keys[row] for row in rows]
        if self._there is not None:
            self._there = self._there[list(rows)]

    def _allowed(self, logits: Tensor) -> Tensor:
        sampling = self.sampling
        if sampling.forbidden:
            forbidden = torch.tensor(sampling.forbidden, device=logits.device)
            logits = logits.index_fill(1, forbidden, -torch.inf)
        if sampling.repetition_penalty != 1:
            if self._there is None:
                self._there = torch.zeros_like(logits, dtype=torch.bool)
                for row, ids in enumerate(self._texts):
                    self._there[row, list(ids)] = True
            weaker = torch.where(
                logits > 0, logits / sampling.repetition_penalty, logits * sampling.repetition_penalty
            )
            logits = torch.where(self._there, weaker, logits)
        return logits

    def _choose(self, logits: Tensor) -> Tensor:
        """Int64 [B]; -1 where no token can be drawn."""
        sampling, ids = self.sampling, None
        if sampling.temperature == 0:
            highest, likeliest = logits.max(1)
            return likeliest.masked_fill_(~highest.isfinite(), -1)
        if sampling.top_k is not None and sampling.top_k < logits.shape[1]:
            logits, ids = logits.topk(sampling.top_k)
        elif sampling.top_p < 1:
            logits, ids = logits.sort(descending=True)
        # Inverse of the distribution function, in fp64: one number in [0, 1) a row and step.
        sums = (logits / sampling.temperature).softmax(1).cumsum(1, dtype=torch.float64)
        total = sums[:, -1:]
        if sampling.top_p < 1:
            last = (sums < sampling.top_p * total).sum(1, keepdim=True)
            total = sums.gather(1, last)
        places = (sums <= self._uniform(logits.device) * total).sum(1, keepdim=True)
        chosen = places if ids is None else ids.gather(1, places)
        return chosen.masked_fill_(~total.isfinite(), -1)[:, 0]

    def _uniform(self, device: torch.device) -> Tensor:
        """Fp64 [B, 1] in [0, 1 - 2^-52]: times a sum it stays below that sum, rounded or not."""
        draws = [(mix(key + self.position * _STEP & MASK64) >> 12) * 2.0**-52 for key in self._keys]
        return torch.tensor(draws, dtype=torch.float64, device=device)[:, None]
