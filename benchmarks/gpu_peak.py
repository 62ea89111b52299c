"""What a GPU could do at most, and which share of it a training is."""

from __future__ import annotations

from llm.model.counts import training_flops
from llm.settings import ModelSettings

# Dense products in bf16, TFLOP/s, by a part of the name that the driver gives; of the makers' data sheets.
# The first that fits counts.
PEAKS = (
    ("B200", 2250.0), ("H100 PCIe", 756.0), ("H100 NVL", 835.0), ("H100", 989.4), ("H200", 989.4),
    ("H800", 989.4), ("A100", 312.0), ("A800", 312.0), ("L40S", 362.05), ("L40", 181.05), ("L4", 121.0),
    ("A10G", 70.0), ("A10", 125.0), ("RTX 4090", 165.2), ("RTX 3090", 71.0),
)  # fmt: skip


def peak_flops(device_name: str) -> float | None:
    """Operations a second; None where the name is not known."""
    return next((1e12 * tera for part, tera in PEAKS if part in device_name), None)


def mfu(
    settings: ModelSettings, vocab: int, length: int, tokens_per_second: float, peak: float, every_pair: bool
) -> tuple[float, float]:
    """(Operations of a token in training, share of the peak): Chowdhery et al. 2022 (PaLM), appendix B.

    every_pair: attention counts all T tokens of a row, as PaLM does; else those that a token sees.
    """
    flops = training_flops(settings, vocab, length, every_pair)
    return flops, flops * tokens_per_second / peak
