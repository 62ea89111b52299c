"""How much memory a process on this machine may have: the machine's, or less where a container says so."""

from __future__ import annotations

import os
from pathlib import Path

# cgroups of version 2, then 1; without a limit they say "max", or a number above all memory.
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory_bytes(limits: tuple[Path, ...] = LIMITS) -> int:
    """Bytes of memory that this machine, or this container, has in all."""
    least = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in limits:
        try:
            text = file.read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            least = min(least, int(text))
    return least
