"""Keeps numba's cache from giving kernels that were compiled for other constants.

The cache looks at the file in which a kernel stands, and at nothing that it imports: after a change of a
table or of the columns in another file it would go on with the old ones, without a word.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any


def fingerprint(*constants: object) -> int:
    """Of what kernels take from other files."""
    return zlib.crc32(repr(constants).encode())


def renew(compiled_for: Any, now: int, kernels: Sequence[Any]) -> None:
    """Compile kernels again, callees first, where the cache holds those of another fingerprint.

    `compiled_for`: a kernel without arguments that returns the fingerprint it was compiled with.
    """
    if compiled_for() != now:
        for kernel in (*kernels, compiled_for):
            kernel.recompile()
