"""Characters of valid UTF-8, for all kernels over text.

It is compiled into those that call it, whose fingerprints hold `source_of(code_at)`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit


@njit(nogil=True, forceinline=True)
def code_at(data: npt.NDArray[np.uint8], at: int) -> tuple[np.int64, int]:
    """The code point that begins at a byte, and where the next one begins."""
    first = np.int64(data[at])
    if first < 0x80:
        return first, at + 1
    second = np.int64(data[at + 1]) & 0x3F
    if first < 0xE0:
        return (first & 0x1F) << 6 | second, at + 2
    third = np.int64(data[at + 2]) & 0x3F
    if first < 0xF0:
        return (first & 0x0F) << 12 | second << 6 | third, at + 3
    return (first & 0x07) << 18 | second << 12 | third << 6 | np.int64(data[at + 3]) & 0x3F, at + 4
