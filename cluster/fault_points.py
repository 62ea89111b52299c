"""Named points at which a test kills the process: deterministic, unlike a sleep.

`MANTA_FAULT=checkpoint.before_index:step=40:rank=0` kills the process (SIGKILL) where all of that matches.
With `MANTA_FAULT_ONCE=FILE` it happens once: the file is created first, and a process that finds it goes on.
"""

from __future__ import annotations

import os
import signal


def fault_point(name: str, **where: int | str) -> None:
    """Die here if the environment asks for it. Costs one look-up otherwise."""
    wanted = os.environ.get("MANTA_FAULT")
    if not wanted:
        return
    wanted_name, *conditions = wanted.split(":")
    if wanted_name != name or any(str(where.get(k)) != v for k, v in (c.split("=", 1) for c in conditions)):
        return
    once = os.environ.get("MANTA_FAULT_ONCE")
    if once:
        try:
            os.close(os.open(once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
    os.kill(os.getpid(), signal.SIGKILL)
