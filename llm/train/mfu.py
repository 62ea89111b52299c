"""Model FLOPs utilisation (MFU): what share of its devices' peak a training gets out of them.

Chowdhery et al. 2022 (PaLM), appendix B: tokens/s over those that the peak would allow, with the operations
that the model needs, not those that are computed again. Rows count whole: their padding does, and attention
is not cut at the ends of documents. Figures of MFU differ between projects by what is counted and by the
peak, so both are said at the start and lie in the run folder (tracking.json).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from llm.model.counts import training_flops
from llm.run_settings import RunSettings
from llm.settings import ModelSettings
from llm.train.group import Group
from llm.train.peaks import TERA, published_peak

FORMULA = (
    "mfu = tokens/s x FLOPs of a token in training / (peak of a device x workers); FLOPs of a token = 3 x "
    "the forward's matrix products (2 for each weight, and attention over the tokens that its mask lets by)"
)


@dataclass(frozen=True)
class Utilisation:
    """What tokens/s are measured by."""

    flops_per_token: float
    """In training (llm.model.counts)."""
    length: int
    """Of the rows, which attention's share hangs on."""
    peaks: tuple[float, ...] | None
    """FLOP/s of each worker's device; None where one of them is not known."""
    device: str
    """The first worker's, as torch names it."""
    precision: str
    source: str | None
    """Whose figure its peak is."""
    section: str = "pretrain"
    """Of the recipe, for messages."""

    @property
    def peak(self) -> float | None:
        """FLOP/s of all workers together."""
        return None if self.peaks is None else sum(self.peaks)

    def values(self, tokens_per_second: float) -> dict[str, float]:
        """`flops_per_second` of all workers together, and `mfu` where the peak is known."""
        rate = tokens_per_second * self.flops_per_token
        return {"flops_per_second": rate} | ({} if self.peak is None else {"mfu": rate / self.peak})

    def describe(self) -> dict[str, Any]:
        """For the run folder: a program finds all that the numbers came from."""
        return {
            "formula": FORMULA,
            "training_flops_per_token": self.flops_per_token,
            "length": self.length,
            "device": self.device,
            "precision": self.precision,
            "peak_tflops": None if self.peaks is None else [peak / TERA for peak in self.peaks],
            "peak_source": self.source,
        }

    def __str__(self) -> str:
        """For a person, in a line."""
        each = f"{self.flops_per_token:.4g} FLOPs for each token of a row of {self.length}"
        if self.peaks is None:
            return (
                f"FLOP/s: {each} (3 x the forward's matrix products). No mfu: no published {self.precision} "
                f"peak of {self.device} is known here; {self.section}.peak_tflops gives one"
            )
        kinds = sorted(set(self.peaks))
        peaks = " or ".join(f"{peak / TERA:g}" for peak in kinds)
        return f"{FORMULA}. {each}; peak {peaks} TFLOP/s ({self.source}) x {len(self.peaks)}"


def measure_by(
    model: ModelSettings, vocab_size: int, settings: RunSettings, group: Group, guessed: float
) -> Utilisation:
    """What this group's tokens/s are measured by; all workers call it.

    `guessed`: share of a row's tokens whose logits over the vocabulary are needed.
    """
    device = _name(group.device)
    peak, source = _peak(device, settings)
    peaks = group.sum([peak if rank == group.rank else 0.0 for rank in range(group.world)])
    return Utilisation(
        flops_per_token=training_flops(model, vocab_size, settings.length, guessed=guessed),
        length=settings.length,
        peaks=tuple(peaks) if all(peaks) else None,
        device=device,
        precision=settings.precision,
        source=source,
        section=settings.section,
    )


def _peak(device: str, settings: RunSettings) -> tuple[float, str | None]:
    """FLOP/s of this worker's device, 0 where it is not known, and who says so."""
    if settings.peak_tflops is not None:
        return settings.peak_tflops * TERA, f"{settings.section}.peak_tflops"
    found = published_peak(device, settings.precision)
    if found is None:
        return 0.0, None
    return found[0], f"{found[1]}: {device}, {settings.precision}, dense"


def _name(device: torch.device) -> str:
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else f"a {device.type.upper()}"
