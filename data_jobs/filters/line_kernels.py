"""Kernel that writes the lines of a document that are kept."""

from __future__ import annotations

from numba import njit

from data_jobs.filters.measures import KEEP
from data_jobs.kernel_cache import fingerprint, renew


@njit("int64(uint8[::1], int64[:, ::1], uint8[::1], int64, int64, uint8[::1])", cache=True, nogil=True)
def join_kept(data, line_bounds, line_bits, first, after, out):  # type: ignore[no-untyped-def]
    """Write the kept ones of some lines: neighbours as they stand, others with one newline between, or two
    where a line of blanks stood there. Returns how many bytes.
    """
    n = 0
    last = -1  # the kept line before
    has_blank = False
    for k in range(first, after):
        # Bounds leave out lines of blanks only: where one stood, the next begins later than a newline after.
        has_blank = has_blank or (k > first and line_bounds[k, 0] > line_bounds[k - 1, 1] + 1)
        if not line_bits[k] & KEEP:
            continue
        begin = line_bounds[k, 0]
        if last >= 0:
            if last == k - 1:
                begin = line_bounds[last, 1]
            else:
                out[n] = 10
                n += 1
                if has_blank:
                    out[n] = 10
                    n += 1
        for i in range(begin, line_bounds[k, 1]):
            out[n] = data[i]
            n += 1
        last = k
        has_blank = False
    return n


_MADE_FOR = fingerprint(KEEP)


@njit("int64()", cache=True)
def _compiled_for():  # type: ignore[no-untyped-def]
    return _MADE_FOR


renew(_compiled_for, _MADE_FOR, [join_kept])
