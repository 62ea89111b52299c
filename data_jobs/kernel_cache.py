"""What numba's cache does not do: it says nothing of a compilation, and sees the file of a kernel alone.

A kernel that takes a table, columns or another kernel from elsewhere would stay what it was after a change
there, without a word. So it stands in its cache beside a fingerprint of what it takes. A kernel that others
call has no cache of its own: it is compiled into theirs.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numba.core import event


class _Teller(event.Listener):
    """Says once that this process compiles: it takes a while in which nothing else is seen."""

    def __init__(self) -> None:
        self._has_told = False

    def on_start(self, event: Any) -> None:
        if not self._has_told:
            self._has_told = True
            print("compiling kernels, once after each change of theirs ...", file=sys.stderr, flush=True)

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:compile", _Teller())  # nothing is heard of what comes out of the cache


def fingerprint(*constants: object) -> int:
    """Of what kernels take from other files."""
    return zlib.crc32(repr(constants).encode())


def source_of(kernel: Any) -> str:
    """The file in which a kernel stands, for the fingerprint of those that call it."""
    return Path(kernel.py_func.__code__.co_filename).read_text(encoding="utf-8")


def renew(compiled_for: Any, now: int, kernels: Sequence[Any]) -> None:
    """Compile kernels again, callees first, where the cache holds those of another fingerprint.

    `compiled_for`: a kernel without arguments that returns the fingerprint it was compiled with.
    """
    if compiled_for() != now:
        for kernel in (*kernels, compiled_for):
            kernel.recompile()
