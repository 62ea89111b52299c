"""Sample number to (source, start token or planned sample): the order as a pure function (C1 with C2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.errors import UserError
from cluster.places import Place
from llm.data.lanes import DEFAULT_LANES, Lanes
from llm.data.mixture import Mixture, Weight, cycle_length, exact, realised_weights, share_out
from llm.data.plans import Plan, plan_of
from llm.data.rules import Rule, StreamRule
from llm.data.samples import Picks
from llm.data.streams import Corpus


@dataclass(frozen=True)
class Source:
    """A source as the order knows it: its name (part of the hash) and the tokens of its training stream."""

    name: str
    tokens: int
    plan: Plan | None = None  # for a rule that packs

    def lanes(self, length: int, seed: int, lanes: int) -> Lanes:
        """Its own order. UserError where it has too little text for a sample."""
        planned = None if self.plan is None else self.plan.samples
        return Lanes(self.name, self.tokens, length, seed, lanes, planned)


@dataclass(frozen=True)
class Standing:
    """How far one source has been read, at some sample number."""

    source: str
    samples: int  # taken so far, over all epochs
    epoch: int
    samples_of_epoch: int  # taken in this epoch
    samples_per_epoch: int


class Order:
    """The order of one segment of a run. Memory: the mixture's table (6 MB at most), whatever the corpus.

    `counts` are the mixture's q_k: their sum Q is its cycle, their ratios its weights. Raises UserError for
    a source with fewer than length + 1 tokens, or without a sample in its plan.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        counts: Sequence[int],
        length: int,
        seed: int,
        lanes: int = DEFAULT_LANES,
        rule: Rule | None = None,
    ) -> None:
        """`rule`: how samples are made (default: cut from the stream); one that packs needs plans."""
        _check_sources(sources, counts, "counts")
        self.rule: Rule = rule or StreamRule(length)
        assert self.rule.length == length
        assert all((s.plan is None) == isinstance(self.rule, StreamRule) for s in sources)
        self.sources, self.length, self.seed = tuple(sources), length, seed
        self.max_lanes = lanes
        self._lanes = [source.lanes(length, seed, lanes) for source in sources]
        self._samples = np.array([lanes.samples for lanes in self._lanes], np.int64)
        self._mixture = Mixture([int(count) for count in counts])

    @classmethod
    def from_weights(
        cls,
        sources: Sequence[Source],
        weights: Sequence[Weight] | None,
        planned: int,
        length: int,
        seed: int,
        lanes: int = DEFAULT_LANES,
        rule: Rule | None = None,
    ) -> Order:
        """Mix by weight (None: by size, each sample of each source equally often) for `planned` samples."""
        samples = [source.lanes(length, seed, lanes).samples for source in sources]  # tells who is too short
        if weights is None:
            weights = samples
        _check_sources(sources, weights, "weights")
        counts = share_out(weights, cycle_length(weights, planned))
        if len(sources) == 1:
            counts = [1]  # one source has nothing to place, so its order does not hang on the plan
        return cls(sources, counts, length, seed, lanes, rule)

    @classmethod
    def from_repeats(
        cls,
        sources: Sequence[Source],
        repeats: Sequence[Weight],
        length: int,
        seed: int,
        lanes: int = DEFAULT_LANES,
    ) -> Order:
        """Read each source so many times; ends exactly there where that is at most 2^20 samples."""
        _check_sources(sources, repeats, "repeats")
        samples = [
            exact(times) * (source.tokens // length) for source, times in zip(sources, repeats, strict=True)
        ]
        return cls.from_weights(sources, samples, round(sum(samples)), length, seed, lanes)

    @property
    def counts(self) -> list[int]:
        """q_k."""
        return [int(count) for count in self._mixture.counts]

    @property
    def cycle(self) -> int:
        """Q: places after which the mixture's pattern begins again."""
        return self._mixture.cycle

    @property
    def weights(self) -> list[float]:
        """The realised weights q_k/Q."""
        return realised_weights(self.counts)

    @property
    def samples_per_epoch(self) -> list[int]:
        """N_k = T_k div L, or those of the plans."""
        return [lanes.samples for lanes in self._lanes]

    @property
    def unread_per_epoch(self) -> list[int]:
        """T_k mod L: tokens of each source that an epoch leaves out."""
        return [lanes.unread for lanes in self._lanes]

    def positions(
        self, numbers: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Sample numbers to (source index, position in that source)."""
        return self._mixture.locate(numbers)

    def picks(self, numbers: npt.NDArray[np.int64]) -> Picks:
        """Sample numbers to what the samples are made from. As with `rows`, ask for many at once."""
        source, position = self._mixture.locate(numbers)
        return Picks(numbers, source, position // self._samples[source], self.starts(source, position))

    def rows(self, numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Sample numbers to (source index, start token): the sample is the L+1 tokens from there, cyclically.

        Ask for some 16 batches at once: the cost of a call is per source and epoch, that of a sample small.
        """
        source, position = self._mixture.locate(numbers)
        return source, self.starts(source, position)

    def starts(self, source: npt.NDArray[np.int64], position: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Start tokens of (source index, position); by plan, samples i."""
        if len(self._lanes) == 1:
            return self._lanes[0].start(position)
        by_source = np.argsort(source.astype(np.uint16), kind="stable")  # radix sort: 16 bits
        ends = np.cumsum(np.bincount(source, minlength=len(self._lanes))).tolist()
        position = position[by_source]
        sorted_start = np.empty_like(position)
        begin = 0
        for lanes, end in zip(self._lanes, ends, strict=True):
            if end > begin:
                sorted_start[begin:end] = lanes.start(position[begin:end])
            begin = end
        start = np.empty_like(position)
        start[by_source] = sorted_start
        return start

    def standing(self, n: int) -> list[Standing]:
        """How far each source has been read when the next sample number is n (skipped ones count as read)."""
        taken = self._mixture.taken(n)
        return [
            Standing(lanes.source, samples, *divmod(samples, lanes.samples), lanes.samples)
            for lanes, samples in zip(self._lanes, taken, strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        """All values that the order depends on, for the checkpoint: equal descriptions are equal orders."""
        plan = {} if isinstance(self.rule, StreamRule) else {"plan": self.rule.describe_plan()}
        return {
            "sources": [
                {"name": source.name, "tokens": source.tokens, "count": count}
                | ({"samples": source.plan.samples} if source.plan else {})
                for source, count in zip(self.sources, self.counts, strict=True)
            ],
            "length": self.length,
            "seed": self.seed,
            "lanes": self.max_lanes,
            "rule": self.rule.name,
            **plan,
        }


def order_of_corpus(
    corpus: Corpus,
    split: str,
    weights: dict[str, float] | None,
    planned: int,
    length: int,
    seed: int,
    lanes: int = DEFAULT_LANES,
    rule: Rule | None = None,
    plans: str | Place | None = None,
) -> Order:
    """The order over a split of a corpus: all its sources by size, or those named in `weights` by weight.

    `plans`: the folder that keeps the plans of a rule that packs (None: they are made each time).
    """
    there = corpus.sources(split)
    names = there if weights is None else list(weights)
    missing = [name for name in names if name not in there]
    if missing or not names:
        raise UserError(
            f"split '{split}' of the corpus has no source {', '.join(repr(name) for name in missing)}; "
            f"it has: {', '.join(there) or 'none'}"
        )
    sources = [
        Source(
            name,
            corpus.stream(name, split).tokens,
            None
            if rule is None or isinstance(rule, StreamRule)
            else plan_of(corpus, split, name, rule, plans),
        )
        for name in sorted(names)
    ]
    by_name = None if weights is None else [weights[source.name] for source in sources]
    return Order.from_weights(sources, by_name, planned, length, seed, lanes, rule)


def _check_sources(sources: Sequence[Source], values: Sequence[Any], what: str) -> None:
    names = [source.name for source in sources]
    if not sources or len(set(names)) < len(names):
        raise UserError(f"an order needs one source or more with different names, got {names}")
    if len(values) != len(sources):
        raise UserError(f"{len(sources)} sources and {len(values)} {what}: one for each")
