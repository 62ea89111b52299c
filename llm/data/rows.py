"""Samples to rows of tokens: one maker for each rule, which reads what its samples are made from."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np

from llm.data.lanes import epoch_keys
from llm.data.masking import hide
from llm.data.packing import Packed
from llm.data.plans import Plan, Table
from llm.data.rules import BestfitRule, PlannedRule, Rule, SentenceRule, StreamRule
from llm.data.samples import Ints, MicroBatch, Picks, digest_of, micro_batch_of
from llm.data.sentence_rows import Segments, pair
from llm.data.streams import FarStream, Stream, read_cyclic

# Tables that are kept. Of 2^20 tokens in sentences a table takes 0.4 MB (English speeches) to 1.1 MB (Chinese
# help pages, 9 tokens a sentence), so 1 to 3 billion tokens have room; of packed documents under 0.1 MB.
# Where there is none, each row costs the making of its table: 2 and 9 ms, of documents 0.4 to 4 ms.
TABLE_BYTES = 1 << 30


class Origin(NamedTuple):
    """A source that rows are read from."""

    name: str
    stream: Stream
    plan: Plan | None = None


class RowMaker(ABC):
    """Makes the rows of samples; the same sample has the same row, whatever was made before."""

    def make(self, picks: Picks, rows: int) -> tuple[MicroBatch, int]:
        """A micro-batch of `rows` rows, the last ones missing where there are fewer samples; its digest.

        The digest is the sum over samples of a hash of all that the model sees of them, modulo 2^64.
        """
        numbers = np.full(rows, -1, np.int64)
        numbers[: len(picks.numbers)] = picks.numbers
        return self._make(picks, numbers)

    def expect(self, picks: Picks) -> None:
        """Say what will be made, so that what is far away is fetched in this order."""
        return  # those who make groups read far more than their samples

    @abstractmethod
    def _make(self, picks: Picks, numbers: Ints) -> tuple[MicroBatch, int]:
        """`numbers` [rows]: those of the samples, then -1."""


def row_maker(rule: Rule, origins: Sequence[Origin], table_bytes: int = TABLE_BYTES) -> RowMaker:
    """The maker of a rule. `table_bytes`: how much the tables of groups that are kept may take."""
    if isinstance(rule, StreamRule):
        return StreamRows(rule, origins)
    if isinstance(rule, BestfitRule):
        return BestfitRows(rule, origins, table_bytes)
    return SentenceRows(rule, origins, table_bytes)


class StreamRows(RowMaker):
    """Windows of L+1 tokens, cut from the stream wherever a document ends."""

    def __init__(self, rule: StreamRule, origins: Sequence[Origin]) -> None:
        self._rule, self._streams = rule, [origin.stream for origin in origins]

    def expect(self, picks: Picks) -> None:
        if not any(isinstance(stream, FarStream) for stream in self._streams):
            return
        for source, start in zip(picks.source.tolist(), picks.at.tolist(), strict=True):
            stream = self._streams[source]
            stop = min(start + self._rule.length + 1, stream.tokens)
            if isinstance(stream, FarStream):
                stream.expect(start, stop)

    def _make(self, picks: Picks, numbers: Ints) -> tuple[MicroBatch, int]:
        length = self._rule.length
        windows = np.zeros((len(numbers), length + 1), "<u4")
        for window, source, start in zip(windows, picks.source.tolist(), picks.at.tolist(), strict=False):
            read_cyclic(self._streams[source], start, window)
        targets = np.where(numbers >= 0, length, 0)
        micro = micro_batch_of(windows, targets, numbers, self._rule.eos)
        return micro, digest_of(numbers, windows, micro.documents)


class BestfitRows(RowMaker):
    """Whole documents, each with the token before it as its first input: the eos of the one before."""

    def __init__(self, rule: BestfitRule, origins: Sequence[Origin], table_bytes: int = TABLE_BYTES) -> None:
        self._rule, self._origins = rule, origins
        self._tables = Tables(rule, origins, table_bytes)

    def _make(self, picks: Picks, numbers: Ints) -> tuple[MicroBatch, int]:
        rows, length = len(numbers), self._rule.length
        inputs, targets = (
            np.full((rows, length), self._rule.pad, np.int64),
            np.zeros((rows, length), np.int64),
        )
        documents, used = np.zeros((rows, length), np.int64), np.zeros(rows, np.int64)
        window = np.empty(length + 1, "<u4")
        for row, (source, sample) in enumerate(zip(picks.source.tolist(), picks.at.tolist(), strict=True)):
            table, number = self._tables.find(source, sample)
            packed, stream, at = cast(Packed, table), self._origins[source].stream, 0
            items = slice(int(packed.first[number]), int(packed.first[number + 1]))
            places = zip(packed.starts[items].tolist(), packed.sizes[items].tolist(), strict=True)
            for item, (start, size) in enumerate(places):
                read_cyclic(stream, (start - 1) % stream.tokens, window[: size + 1])
                inputs[row, at : at + size] = window[:size]
                targets[row, at : at + size] = window[1 : size + 1]
                documents[row, at : at + size] = item
                at += size
            documents[row, at:] = items.stop - items.start
            used[row] = at
        weights = (np.arange(length) < used[:, None]).astype(np.float32)
        seen = documents if self._rule.confine else None
        digest = digest_of(numbers, inputs, targets, weights, seen)
        return MicroBatch(inputs, targets, weights, numbers, documents=seen), digest


class SentenceRows(RowMaker):
    """[CLS] A [SEP] or [CLS] A [SEP] B [SEP], a share of their tokens hidden."""

    def __init__(self, rule: SentenceRule, origins: Sequence[Origin], table_bytes: int = TABLE_BYTES) -> None:
        self._rule, self._origins = rule, origins
        self._tables = Tables(rule, origins, table_bytes)

    def text_tokens(self, source: int, samples: int) -> int:
        """Tokens of text in the first samples of a source."""
        total = sample = 0
        while sample < samples:
            segments, _ = self._find(source, sample)
            sizes = segments.ends[segments.first[1:] - 1] - segments.starts
            total += int(sizes[: samples - sample].sum())
            sample += segments.samples
        return total

    def _make(self, picks: Picks, numbers: Ints) -> tuple[MicroBatch, int]:
        rule, rows = self._rule, len(numbers)
        inputs = np.full((rows, rule.length), rule.pad, np.int64)
        segments, documents = np.zeros_like(inputs), np.ones_like(inputs)
        labels, paired = np.zeros(rows, np.int64), np.zeros(rows, np.float32)
        for row, (_, source, epoch, sample) in enumerate(zip(*(a.tolist() for a in picks), strict=True)):
            used, first = self._fill(inputs[row], source, epoch, sample)
            documents[row, :used] = 0
            if first is not None:
                segments[row, first.size : used] = 1
                labels[row], paired[row] = not first.is_next, 1
        guesses = hide(inputs, numbers, rule.seed, rule.guesses, rule.masking, rule.vocabulary)
        with_next = (labels, paired) if rule.with_next else (None, None)
        micro = MicroBatch(
            guesses.inputs, guesses.targets, guesses.weights, numbers, guesses.positions, documents, segments,
            *with_next,
        )  # fmt: skip
        digest = digest_of(
            numbers, micro.inputs, micro.targets, micro.weights, micro.positions, documents, segments,
            labels, paired,
        )  # fmt: skip
        return micro, digest

    def _fill(self, row: Ints, source: int, epoch: int, sample: int) -> tuple[int, _FirstPart | None]:
        """Write the tokens of a sample; how many these are, and its first part where there is a second."""
        rule, stream = self._rule, self._origins[source].stream
        table, number = self._find(source, sample)
        parts = None
        if rule.with_next:
            key = epoch_keys(rule.seed, self._origins[source].name, epoch).lanes
            parts = pair(table, number, key, sample)
        row[0] = rule.cls
        if parts is None:
            start, stop = table.span(number)
            row[1 : 1 + stop - start] = stream.read(start, stop)
            row[1 + stop - start] = rule.sep
            return 2 + stop - start, None
        middle, end = 1 + parts.cut - parts.start, 2 + parts.stop - parts.start
        row[1:middle] = stream.read(parts.start, parts.cut)
        row[middle] = row[end] = rule.sep
        row[middle + 1 : end] = stream.read(parts.second, parts.second + parts.stop - parts.cut)
        return end + 1, _FirstPart(middle + 1, parts.is_next)

    def _find(self, source: int, sample: int) -> tuple[Segments, int]:
        table, number = self._tables.find(source, sample)
        return cast(Segments, table), number


class _FirstPart(NamedTuple):
    size: int  # with [CLS] and [SEP]
    is_next: bool  # whether the second part follows it


class Tables:
    """Tables of groups, made when asked for; those used last are kept, up to so many bytes (one at least)."""

    def __init__(self, rule: PlannedRule, origins: Sequence[Origin], limit: int) -> None:
        self._rule, self._origins, self._limit = rule, origins, limit
        self._kept: OrderedDict[tuple[int, int], Table] = OrderedDict()
        self._lock = threading.Lock()
        self.nbytes = 0

    def find(self, source: int, sample: int) -> tuple[Table, int]:
        """The table of a sample's group, and the sample's number in there."""
        plan = self._origins[source].plan
        assert plan is not None, "a rule that packs needs a plan for each source"
        group, number = plan.locate(sample)
        with self._lock:
            return self._table(source, group), number

    def _table(self, source: int, group: int) -> Table:
        table = self._kept.get((source, group))
        if table is not None:
            self._kept.move_to_end((source, group))
            return table
        table = self._rule.table(self._origins[source].stream, group)
        self._kept[source, group] = table
        self.nbytes += table.nbytes
        while self.nbytes > self._limit and len(self._kept) > 1:
            self.nbytes -= self._kept.popitem(last=False)[1].nbytes
        return table
