"""Whole sentences into segments, with a second part that follows or one of another document."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from data_jobs.hashes import MASK64, h64, mix
from llm.data.samples import Ints


class Segments(NamedTuple):
    """The segments of one group. Tokens are counted from `base`, so that 32 bits hold them.

    A unit is a sentence, a piece of one longer than a segment, or half of one alone in its segment.
    """

    base: int
    starts: np.ndarray  # [segments] int32: first token
    ends: np.ndarray  # [units] int32: where each ends (exclusive), rising
    first: np.ndarray  # [segments + 1] int32: the first unit of each, then the number of units
    halved: np.ndarray  # [segments] bool: its two units are the halves of one sentence
    limit: np.ndarray  # [segments] int32: the unit after the last one of its document, rising
    cuts: np.ndarray  # [cuts] int32: the unit after which each stands, by kind; a cut is inside a segment
    kinds: (
        np.ndarray
    )  # [cuts], rising: 2 x tokens from each cut to the end of its segment + (halves a sentence)

    @property
    def samples(self) -> int:
        """Segments."""
        return len(self.starts)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self[1:])

    def span(self, segment: int) -> tuple[int, int]:
        """Its tokens in the stream, [start, stop)."""
        stop = self.ends[self.first[segment + 1] - 1]
        return self.base + int(self.starts[segment]), self.base + int(stop)


class Pair(NamedTuple):
    """One sample: tokens [start, cut) of the stream, then [second, second + stop - cut)."""

    start: int
    cut: int
    stop: int
    second: int
    is_next: bool


def cut_segments(bounds: Ints, sentence_ends: Ints, budget: int) -> Segments:
    """Segments of documents with these bounds: as many whole sentences as `budget` tokens hold.

    A sentence longer than that is cut hard, into pieces of `budget` tokens and a rest. A segment of one
    sentence takes the last one of the segment before it where both then have two at least, so that there is a
    place to part them; where that cannot be, the sentence is parted in its middle. eos is in no segment.
    """
    if not len(sentence_ends):
        none = np.zeros(0, np.int32)
        return Segments(0, none, none, np.zeros(1, np.int32), none, none, none, none)
    base = int(bounds[0])
    starts, ends, document = _units(bounds, sentence_ends, budget)
    opens = np.flatnonzero(np.diff(document, prepend=-1))
    closes = np.append(opens[1:], len(ends))
    after = np.repeat(closes, closes - opens)  # the unit after the last one of the document
    following = memoryview(np.minimum(np.searchsorted(ends, starts + budget, side="right"), after))
    chain, unit = [], 0
    while unit < len(ends):
        chain.append(unit)
        unit = following[unit]
    first = _with_two(np.array([*chain, len(ends)]), starts, ends, document, budget)
    segment_starts = starts[first[:-1]]
    halved = first[:-1][(np.diff(first) == 1) & (ends[first[:-1]] - segment_starts >= 2)]
    middles = (starts[halved] + ends[halved]) // 2
    ends, is_half = np.insert(ends, halved, middles), np.insert(np.zeros(len(ends), bool), halved, True)
    first, after = (at + np.searchsorted(halved, at, side="left") for at in (first, after[first[:-1]]))
    units = np.arange(len(ends))
    last = np.repeat(first[1:] - 1, np.diff(first))
    cuts = units[units < last]
    kinds = 2 * (ends[last[cuts]] - ends[cuts]) + is_half[cuts]
    if budget < 1 << 15:
        kinds = kinds.astype(np.uint16)  # sorted by radix, 5 times as fast
    by_kind = np.argsort(kinds, kind="stable")
    return Segments(
        base,
        (segment_starts - base).astype(np.int32),
        (ends - base).astype(np.int32),
        first.astype(np.int32),
        is_half[first[:-1]],
        after.astype(np.int32),
        cuts[by_kind].astype(np.int32),
        kinds[by_kind],
    )


def pair(segments: Segments, segment: int, key: int, sample: int) -> Pair | None:
    """A segment as two parts, drawn by H64(key, sample). None where it has none.

    Both parts are whole sentences, parted at a sentence end that is drawn, or halves of a sentence. A false
    second part is looked for whatever the label: a segment of one token, or without such a part, is no pair
    for either label.
    """
    first, end = segments.first[segment : segment + 2].tolist()
    if end - first < 2:
        return None
    draw = h64(key, sample)
    cut = first + ((mix(draw) >> 32) * (end - first - 1) >> 32)
    start, stop = segments.span(segment)
    at = segments.base + int(segments.ends[cut])
    kind = 2 * (stop - at) + int(segments.halved[segment])
    second = false_part(segments, segment, kind, mix(draw ^ 2))
    if second is None:
        return None
    is_next = mix(draw ^ 1) <= MASK64 >> 1
    return Pair(start, at, stop, at if is_next else second, is_next)


def false_part(segments: Segments, segment: int, kind: int, draw: int) -> int | None:
    """Where a false second part begins, for a cut of this kind (see Segments); None where the group has none.

    It is the true second part of a segment of another document, at a cut that leaves exactly as many tokens
    and halves a sentence where this one does, drawn with the weight that it has as a true one: 1 / cuts of
    its segment. So a second part is as likely with the one label as with the other: only what stands before
    it can tell.
    """
    # Of the same width, or numpy would copy all the kinds for each sample.
    low, high = np.searchsorted(segments.kinds, np.array([kind, kind + 1], segments.kinds.dtype))
    cuts = segments.cuts[low:high]
    there = np.searchsorted(segments.first, cuts, side="right") - 1
    weights = 1 / (segments.first[there + 1] - segments.first[there] - 1)
    weights[segments.limit[there] == segments.limit[segment]] = 0
    reached = np.cumsum(weights)
    if not reached[-1]:  # the kind is that of a cut of this segment, so there is one at least
        return None
    hit = np.searchsorted(reached, (draw >> 11) * 2.0**-53 * reached[-1], side="right")
    return segments.base + int(segments.ends[cuts[hit]])


def _units(bounds: Ints, sentence_ends: Ints, budget: int) -> tuple[Ints, Ints, Ints]:
    """Starts, ends and documents of the units."""
    document = np.searchsorted(bounds, sentence_ends, side="left") - 1
    starts = np.concatenate([bounds[:1], sentence_ends[:-1]])
    opens = np.concatenate([[True], document[1:] != document[:-1]])
    starts[opens] = bounds[document[opens]]
    pieces = -(-(sentence_ends - starts) // budget)
    if (pieces == 1).all():
        return starts, sentence_ends, document
    sentence = np.repeat(np.arange(len(pieces)), pieces)
    piece = np.arange(len(sentence)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = starts[sentence] + piece * budget
    return starts, np.minimum(starts + budget, sentence_ends[sentence]), document[sentence]


def _with_two(first: Ints, starts: Ints, ends: Ints, document: Ints, budget: int) -> Ints:
    """First units of segments, moved where a segment of one unit can have the one before it, too."""
    units = np.diff(first)
    single = np.flatnonzero((units[1:] == 1) & (units[:-1] > 2)) + 1
    unit = first[single]
    single = single[(document[unit - 1] == document[unit]) & (ends[unit] - starts[unit - 1] <= budget)]
    first[single] -= 1
    return first
