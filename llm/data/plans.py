"""How many samples each group of a source has: the plan that random access to packed samples goes by (C5).

A group is 2^20 tokens of the stream; a document belongs to the group in which it begins. A rule makes its
samples from one group alone, and how many there are is a function of group, length and rule, never of the
epoch. So the plan is one number a group, and a sample's group is found by searching it.

A plan file is a line of sealed JSON that says what it is a plan of, then the cumulative samples, int64
little-endian.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cluster import places
from cluster.places import Place, write_bytes
from cluster.sealed import seal, unseal
from data_jobs.hashes import h64, sha256
from llm.data.samples import Ints
from llm.data.streams import Corpus, Stream

GROUP_TOKENS = 1 << 20
FORMAT = "manta-plan-1"


class Table(Protocol):
    """The samples of one group."""

    @property
    def samples(self) -> int:
        """How many."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""


class Grouping(Protocol):
    """A rule that makes samples of groups."""

    @property
    def group_tokens(self) -> int:
        """Tokens of a group."""

    def table(self, stream: Stream, group: int) -> Table:
        """The samples of a group."""

    def describe_plan(self) -> dict[str, Any]:
        """All values, beside the corpus, that a plan depends on."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Samples of the groups of one source, added up: `ends[g]` are those of the groups 0..g."""

    ends: Ints

    @property
    def samples(self) -> int:
        """N, the samples of an epoch."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def locate(self, sample: int) -> tuple[int, int]:
        """The group of a sample i in [0, N), and its number in there."""
        group = int(np.searchsorted(self.ends, sample, side="right"))
        return group, sample - (int(self.ends[group - 1]) if group else 0)


def plan_of(corpus: Corpus, split: str, source: str, rule: Grouping, folder: str | Place | None) -> Plan:
    """The plan of a source: from its file in `folder`, or made and written there (None: made, not kept).

    A file that is damaged is made again, with a warning that names it: a plan is a function of the corpus.
    Processes that make it at the same time write the same bytes.
    """
    words: dict[str, Any] = {
        "format": FORMAT, "corpus_id": corpus.corpus_id, "split": split, "source": source,
        "rule": rule.describe_plan(),
    }  # fmt: skip
    stream = corpus.stream(source, split)
    if folder is None:
        return make_plan(stream, rule)
    name = "-".join(str(part) for part in words["rule"].values())
    path = places.at(folder) / f"{name}-{h64(seal(words)):016x}.plan"
    try:
        return read_plan(path, words)
    except FileNotFoundError:
        pass
    except ValueError as error:
        print(f"warning: {path}: damaged plan, made again: {error}", file=sys.stderr, flush=True)
    plan = make_plan(stream, rule)
    write_plan(path, words, plan)
    return plan


def make_plan(stream: Stream, rule: Grouping) -> Plan:
    """Count the samples of all groups, in threads: what they wait for is the reading."""
    groups = -(-stream.tokens // rule.group_tokens)
    count: Callable[[int], int] = lambda group: rule.table(stream, group).samples  # noqa: E731
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return Plan(np.cumsum(np.fromiter(pool.map(count, range(groups)), np.int64, groups)))


def write_plan(path: Place, words: dict[str, Any], plan: Plan) -> None:
    """Write a plan file, whole or not at all."""
    data = plan.ends.astype("<i8").tobytes()
    write_bytes(path, seal(words | {"groups": len(plan.ends), "sha256": sha256(data)}) + data)


def read_plan(path: Place, words: dict[str, Any]) -> Plan:
    """Read a plan file. ValueError where it is damaged or of something else."""
    line, newline, data = path.read_bytes().partition(b"\n")
    said = unseal(line + newline)
    groups, digest = said.pop("groups", None), said.pop("sha256", None)
    if said != words:
        raise ValueError(f"it is a plan of {said}, wanted is one of {words}")
    if sha256(data) != digest or len(data) != 8 * groups:
        raise ValueError(
            f"digest {sha256(data)} of {len(data)} bytes, written as {digest} of {groups} groups"
        )
    return Plan(np.frombuffer(data, "<i8"))
