"""Words and phrases of a list, counted in documents.

Compared is what stands between a word's first and last letter or digit, with ASCII capitals as small letters.
Entries in other scripts are looked for as they stand, in small letters, in capitals, and with a capital in
front. A Chinese, Japanese or Korean entry is a row of its characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cluster.errors import UserError
from data_jobs.filters.scanning import Scan, Scanner


class WordList:
    """A list, ready to be looked for."""

    def __init__(self, entries: Sequence[str]) -> None:
        from data_jobs.filters.list_kernels import core_hashes, phrase_hashes

        forms = {form for entry in entries for form in _forms(entry)}
        scan = Scanner().scan(sorted(forms))
        cores = core_hashes(scan.data, scan.word_bounds, scan.table)
        wholes, lengths = phrase_hashes(cores, scan.word_offsets)
        self._wholes = np.unique(wholes[lengths > 0])
        self._firsts = np.unique(cores[scan.word_offsets[:-1][lengths > 0]])
        self._longest = int(lengths.max(initial=0))

    @classmethod
    def of_file(cls, path: str | Path, field: str) -> WordList:
        """One entry a line, without empty lines and those that begin with #. UserError names the setting."""
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UserError(f"{field}: {path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{field}: {path}: not UTF-8 at byte {error.start}") from None
        entries = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not entries:
            raise UserError(f"{field}: {path}: no word in it")
        return cls(entries)

    def count(self, scan: Scan) -> npt.NDArray[np.int64]:
        """How many places of each document an entry begins at."""
        from data_jobs.filters.list_kernels import core_hashes, count_phrases

        cores = core_hashes(scan.data, scan.word_bounds, scan.table)
        return count_phrases(cores, scan.word_offsets, self._firsts, self._wholes, self._longest)


def _forms(entry: str) -> set[str]:
    return {entry} if entry.isascii() else {entry, entry.lower(), entry.upper(), entry.capitalize()}
