"""The most memory that a worker has held: its device's, or where it has none its process's."""

from __future__ import annotations

from pathlib import Path

import torch

STATUS = Path("/proc/self/status")


def peak_bytes(device: torch.device) -> int:
    """Since the process began; 0 where the system does not say.

    On a GPU what its tensors took at once. Else the most resident memory, as the kernel counts it for this
    process: getrusage's maximum is handed on from the process that started it.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        return resident_peak(STATUS.read_text())
    except OSError:  # no Linux
        return 0


def resident_peak(status: str) -> int:
    """Bytes of VmHWM ("high water mark") in the text of /proc/self/status; 0 where it has none."""
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * 1024  # it says kB and means KiB
    return 0
