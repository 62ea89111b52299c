"""What a GPU could do at most, and which share of it a training is."""

from __future__ import annotations

from llm.model.counts import training_flops
from llm.settings import ModelSettings
from llm.train.peaks import published_peak


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 operations a second; None where the name is not known."""
    found = published_peak(device_name, "bf16")
    return None if found is None else found[0]


def mfu(
    settings: ModelSettings, vocab: int, length: int, tokens_per_second: float, peak: float, every_pair: bool
) -> tuple[float, float]:
    """(Operations of a token in training, share of the peak): Chowdhery et al. 2022 (PaLM), appendix B.

    every_pair: attention counts all T tokens of a row, as PaLM does; else those that a token sees.
    """
    flops = training_flops(settings, vocab, length, every_pair)
    return flops, flops * tokens_per_second / peak
