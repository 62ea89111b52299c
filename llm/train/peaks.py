"""Published peaks of devices: dense matrix products a second, by precision.

All are the vendors' figures without sparsity (with it a data sheet's number is twice that, and nothing here
is sparse), products of 16-bit numbers added up in fp32, as torch does it. fp32 is the figure without tensor
cores: torch leaves TF32 off. What is not in the table, a CPU among it, has no published peak that one could
be measured by: pretrain.peak_tflops gives one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

TERA = 1e12


class Published(NamedTuple):
    """A device's peaks in TFLOP/s; None where its hardware has no such product."""

    name: str
    """How torch's name of the device begins or what it holds, as a pattern."""
    fp32: float
    fp16: float | None
    bf16: float | None
    source: str


# The first whose pattern is found in torch's name of the device counts: the special ones stand before.
PUBLISHED = (
    Published("B300", 75.0, 2250.0, 2250.0, "NVIDIA HGX B300 data sheet"),
    Published("GB200", 80.0, 2500.0, 2500.0, "NVIDIA GB200 NVL72 data sheet"),
    Published("B200", 75.0, 2250.0, 2250.0, "NVIDIA HGX B200 data sheet"),
    Published("GH200", 67.0, 989.4, 989.4, "NVIDIA GH200 data sheet"),
    Published("H200 NVL", 60.0, 835.5, 835.5, "NVIDIA H200 data sheet"),
    Published("H200", 67.0, 989.4, 989.4, "NVIDIA H200 data sheet"),
    Published("H100 NVL", 60.0, 835.5, 835.5, "NVIDIA H100 data sheet"),
    Published("H100 PCIe", 51.2, 756.0, 756.0, "NVIDIA H100 architecture paper"),
    Published("H100.*HBM3", 66.9, 989.4, 989.4, "NVIDIA H100 architecture paper (SXM5)"),
    Published("A100", 19.5, 312.0, 312.0, "NVIDIA A100 data sheet"),
    Published("A30$", 10.3, 165.0, 165.0, "NVIDIA A30 data sheet"),
    Published("A40$", 37.4, 149.7, 149.7, "NVIDIA A40 data sheet"),
    Published("A10G", 35.0, 70.0, 70.0, "NVIDIA A10G data sheet"),
    Published("A10$", 31.2, 125.0, 125.0, "NVIDIA A10 data sheet"),
    Published("L40S", 91.6, 362.05, 362.05, "NVIDIA L40S data sheet"),
    Published("L40$", 90.5, 181.05, 181.05, "NVIDIA L40 data sheet"),
    Published("L4$", 30.3, 121.0, 121.0, "NVIDIA L4 data sheet"),
    Published("V100S", 16.4, 130.0, None, "NVIDIA V100 data sheet"),
    Published("V100-PCIE", 14.0, 112.0, None, "NVIDIA V100 data sheet"),
    Published(r"V100-SXM\d", 15.7, 125.0, None, "NVIDIA V100 data sheet"),
    Published("T4$", 8.1, 65.0, None, "NVIDIA T4 data sheet"),
    Published("RTX 5090$", 104.8, 209.5, 209.5, "NVIDIA RTX Blackwell architecture paper"),
    Published("RTX 4090$", 82.6, 165.2, 165.2, "NVIDIA Ada architecture paper"),
    Published("RTX 3090$", 35.6, 71.0, 71.0, "NVIDIA GA102 architecture paper"),
    Published("RTX A6000", 38.7, 154.8, 154.8, "NVIDIA RTX A6000 data sheet"),
    Published("MI300X", 163.4, 1307.4, 1307.4, "AMD Instinct MI300X data sheet"),
    Published("MI325X", 163.4, 1307.4, 1307.4, "AMD Instinct MI325X data sheet"),
)


def published_peak(device: str, precision: str) -> tuple[float, str] | None:
    """FLOP/s of a device by torch's name of it, and whose figure that is; None where none is known.

    precision: `fp32`, `fp16` or `bf16`. A slice of a device (MIG) has no published peak.
    """
    if "MIG" in device:
        return None
    for row in PUBLISHED:
        if re.search(rf"\b{row.name}(?!\d)", device):
            tera: float | None = getattr(row, precision)
            return None if tera is None else (tera * TERA, row.source)
    return None
