"""Metrics by name: sums over examples to the numbers that people compare."""

from __future__ import annotations

import math

Z95 = 1.959963984540054  # the 97.5 % point of the normal distribution


def perplexity(nats: float, tokens: float) -> float:
    """exp(summed nats / tokens); cut at e^700, where doubles end."""
    return math.exp(min(nats / tokens, 700.0))


def bits_per_byte(nats: float, size: float) -> float:
    """Summed nats of every token, document ends included, / ln 2 / UTF-8 bytes of the cleaned text."""
    return nats / math.log(2) / size


def accuracy(hits: float, examples: float) -> float:
    """Share of the examples that were right: masked accuracy over guessed tokens, next sentence accuracy
    over pairs."""
    return hits / examples


def share_interval(share: float, examples: int, z: float = Z95) -> tuple[float, float]:
    """The interval of a share's true value, 95 % by default (Wilson 1927): also right near 0 and 1."""
    centre = share + z * z / (2 * examples)
    spread = z * math.sqrt(share * (1 - share) / examples + z * z / (4 * examples**2))
    scale = 1 + z * z / examples
    return (centre - spread) / scale, (centre + spread) / scale
