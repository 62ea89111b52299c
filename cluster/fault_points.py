"""Named points at which a test kills the process: deterministic, unlike a sleep.

`MANTA_FAULT=checkpoint.before_index:step=40:rank=0` kills the process (SIGKILL) where all of that matches.
Several stand behind one another with `;` between. With `MANTA_FAULT_ONCE=FILE` each happens once: FILE (of
several, FILE-0, FILE-1, ...) is created first, and a process that finds it goes on.
"""

from __future__ import annotations

import os
import signal


def fault_point(name: str, **where: int | str) -> None:
    """Die here if the environment asks for it. Costs one look-up otherwise."""
    wanted = os.environ.get("MANTA_FAULT")
    if not wanted:
        return
    faults = wanted.split(";")
    for number, fault in enumerate(faults):
        wanted_name, *conditions = fault.split(":")
        if wanted_name == name and all(
            str(where.get(key)) == value for key, value in (c.split("=", 1) for c in conditions)
        ):
            once = os.environ.get("MANTA_FAULT_ONCE")
            if once and not _first(once if len(faults) == 1 else f"{once}-{number}"):
                continue
            os.kill(os.getpid(), signal.SIGKILL)


def _first(mark: str) -> bool:
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
