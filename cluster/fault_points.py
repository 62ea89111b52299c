"""Named points at which a test kills the process or spoils a number: deterministic, unlike a sleep.

`MANTA_FAULT=checkpoint.before_index:step=40:rank=0` kills the process (SIGKILL) where all of that matches.
`MANTA_FAULT=train.loss:sample=57:nan` multiplies a number instead, by nan, inf, 1000: the last word. Several
stand behind one another with `;` between. With `MANTA_FAULT_ONCE=FILE` each happens once: FILE (of several,
FILE-0, FILE-1, ...) is created first, and a process that finds it goes on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

Where = int | str | Iterable[int]


def fault_point(name: str, **where: Where) -> None:
    """Die here if the environment asks for it. Costs one look-up otherwise."""
    if _wanted(name, where) is not None:
        os.kill(os.getpid(), signal.SIGKILL)


def fault_factor(name: str, **where: Where) -> float:
    """What a number is to be multiplied by here: 1 if the environment asks for nothing."""
    return float(_wanted(name, where) or 1.0)


def _wanted(name: str, where: dict[str, Where]) -> str | None:
    """The last word (or nothing) of a fault that is asked for here; None: there is none."""
    faults = os.environ.get("MANTA_FAULT", "").split(";")
    for number, fault in enumerate(faults):
        wanted_name, *conditions = fault.split(":")
        action = conditions.pop() if conditions and "=" not in conditions[-1] else ""
        if wanted_name == name and all(_holds(where, *c.split("=", 1)) for c in conditions):
            once = os.environ.get("MANTA_FAULT_ONCE")
            if once and not _first(once if len(faults) == 1 else f"{once}-{number}"):
                continue
            return action
    return None


def _holds(where: dict[str, Where], key: str, wanted: str) -> bool:
    """Whether a value is the wanted one, or has it among its items."""
    value = where.get(key)
    items = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    return any(str(item) == wanted for item in items)


def _first(mark: str) -> bool:
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
