"""A batch of documents through the kernels, in arrays that are used again for the next batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_jobs.filters.character_classes import class_table
from data_jobs.filters.measures import Column, Measures


@dataclass(frozen=True)
class LineRules:
    """Which lines are kept: C4's rules, as far as the kernel decides them."""

    least_words: int = 0
    terminal_only: bool = False


@dataclass(frozen=True)
class Scan:
    """What a pass over a batch found. The arrays are views that the scanner's next batch overwrites."""

    data: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    measures: Measures
    words: npt.NDArray[np.uint64]
    """A hash of each word."""
    word_characters: npt.NDArray[np.int32]
    word_bounds: npt.NDArray[np.int32]
    word_offsets: npt.NDArray[np.int64]
    line_bounds: npt.NDArray[np.int64]
    """Of each line that holds more than blanks: first byte, byte after the last, characters."""
    line_bits: npt.NDArray[np.uint8]
    line_offsets: npt.NDArray[np.int64]
    table: npt.NDArray[np.uint16]

    def kept_text(self, document: int) -> str:
        """The lines that are kept: neighbours as they stand, others with one newline between, or with a blank
        line where one stood there.
        """
        from data_jobs.filters.line_kernels import join_kept

        room = np.empty(self.offsets[document + 1] - self.offsets[document] + 1, np.uint8)
        first, after = self.line_offsets[document], self.line_offsets[document + 1]
        size = join_kept(self.data, self.line_bounds, self.line_bits, first, after, room)
        return room[:size].tobytes().decode()


class Scanner:
    """Runs the kernels. Room: about 13 bytes for a byte of the largest batch, less where words are longer."""

    def __init__(self, short_line: int = 30) -> None:
        from data_jobs.filters import measure_kernels  # compiled, or read from numba's cache

        self._kernels = measure_kernels
        self._short_line = short_line
        self._table = class_table()
        self._state = np.zeros(1, np.int64)
        self._word_room = self._line_room = self._slots = 0

    def scan(
        self,
        texts: Sequence[str | bytes],
        rules: LineRules | None = None,
        marks: npt.NDArray[np.int64] | None = None,
        ngrams: bool = False,
    ) -> Scan:
        """Measure texts (bytes: UTF-8). `rules`: judge lines; `marks`: bytes whose line is not kept, by
        offset in the concatenated texts; `ngrams`: fill the columns TOP_2 to DUPLICATE_10, too.
        """
        parts = [text.encode() if isinstance(text, str) else text for text in texts]
        joined = bytearray().join(parts)  # bytes would be read-only, and the kernels take no such arrays
        data = np.frombuffer(joined, np.uint8) if joined else np.zeros(0, np.uint8)
        sizes = np.fromiter(map(len, parts), np.int64, len(parts))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        self._make_room(len(joined), len(parts), joined.count(b"\n"))
        self._make_slots(max((part.count(b"\n") for part in parts), default=0) + 1)
        counts = np.zeros((len(parts), len(Column)), np.int64)
        lines = rules or LineRules()
        options = np.array(
            [rules is not None, lines.least_words, lines.terminal_only, self._short_line], np.int64
        )
        word_offsets, line_offsets = np.zeros((2, len(parts) + 1), np.int64)
        self._kernels.scan(
            data, offsets, self._table, np.zeros(0, np.int64) if marks is None else marks, options, counts,
            self._words, self._word_characters, self._word_bounds, word_offsets,
            self._line_bounds, self._line_bits, line_offsets, self._line_hashes, self._paragraph_hashes,
            self._paragraph_characters, self._keys, self._stamps, self._state, self._repeats,
        )  # fmt: skip
        if ngrams:
            from data_jobs.filters.ngram_kernels import count_ngrams

            self._make_slots(int(np.diff(word_offsets).max(initial=1)))
            count_ngrams(
                self._words, self._word_characters, word_offsets, self._keys, self._stamps, self._tally,
                self._state, counts,
            )  # fmt: skip
        n_words, n_lines = int(word_offsets[-1]), int(line_offsets[-1])
        return Scan(
            data,
            offsets,
            Measures(counts),
            self._words[:n_words],
            self._word_characters[:n_words],
            self._word_bounds[:n_words],
            word_offsets,
            self._line_bounds[:n_lines],
            self._line_bits[:n_lines],
            line_offsets,
            self._table,
        )

    def _make_room(self, size: int, documents: int, newlines: int) -> None:
        """A word takes two bytes at least, with the blank after it; a document's last one may take one."""
        words, lines = size // 2 + documents + 1, newlines + documents + 1
        if words > self._word_room:
            self._word_room = words
            self._words = np.empty(words, np.uint64)
            self._word_characters = np.empty(words, np.int32)
            self._word_bounds = np.empty((words, 2), np.int32)
        if lines > self._line_room:
            self._line_room = lines
            self._line_bounds = np.empty((lines, 3), np.int64)
            self._line_bits = np.empty(lines, np.uint8)
            self._line_hashes = np.empty(lines, np.uint64)
            self._paragraph_hashes = np.empty(lines, np.uint64)
            self._paragraph_characters = np.empty(lines, np.int64)
            self._repeats = np.empty(lines, np.uint8)

    def _make_slots(self, hashes: int) -> None:
        """The kernels' table: a power of two, at least twice as many slots as a document has hashes."""
        slots = 1 << max(4, (2 * hashes - 1).bit_length())
        if slots > self._slots:
            self._slots = slots
            self._keys = np.empty(slots, np.uint64)
            self._stamps = np.zeros(slots, np.int32)
            self._tally = np.empty(slots, np.int32)
