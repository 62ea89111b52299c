"""Which examples become validation and test, where they are cut from the training file.

The parts are a function of the examples' content, the shares and the seed: neither the order of the records
nor the names of the files matter. What belongs together (`data.group`; else examples with the same text) is
one unit and goes to one part, so that nothing of a text that is learned is asked for later.

Units are put in a row, stratum by stratum, within a stratum by a hash. Along it each part runs up a debt, its
share of the examples passed, and takes a unit when it owes at least half of it. So a part has its share of
each stratum, give or take one unit, and its share of the whole, too: the small strata of a task of many
classes, which would each round to nothing, pay together. A unit whose leaving would take a class away from
training stays, and does not count.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_jobs.hashes import h64
from llm.finetune_settings import TaskKind
from llm.tasks.example_fields import Answers, Example

TRAIN, VAL, TEST = 0, 1, 2
_BINS = 10  # of a regression's targets, as many examples in each


class Card(NamedTuple):
    """What the split sees of an example."""

    unit: int
    """Equal for examples that stay together."""
    stratum: str
    classes: tuple[str, ...]


def split_cards(cards: Sequence[Card], val: float, test: float, seed: int) -> list[int]:
    """The part of each example: TRAIN, VAL or TEST. `val`, `test`: shares of all, their sum below 1."""
    members: dict[int, list[int]] = defaultdict(list)
    for number, card in enumerate(cards):
        members[card.unit].append(number)
    row = sorted(
        (_stratum([cards[n] for n in some]), h64("split", seed, unit), unit) for unit, some in members.items()
    )
    left = Counter(name for card in cards for name in card.classes)
    parts = [TRAIN] * len(cards)
    debts, shares = {VAL: 0.0, TEST: 0.0}, {VAL: val, TEST: test}
    for _, _, unit in row:
        some = members[unit]
        takes = Counter(name for number in some for name in cards[number].classes)
        if any(left[name] == count for name, count in takes.items()):
            continue
        for part, share in shares.items():
            debts[part] += share * len(some)
        part = max(debts, key=lambda part: debts[part])
        # A share of 1/4 adds up exactly, one of 1/10 does not: half a unit is not missed by a rounding.
        if debts[part] >= len(some) / 2 - 1e-9 and shares[part]:
            debts[part] -= len(some)
            left -= takes
            for number in some:
                parts[number] = part
    return parts


def _stratum(cards: Sequence[Card]) -> str:
    """The most frequent of a unit's members, of equally frequent ones the first by name."""
    counts = Counter(card.stratum for card in cards)
    return min(counts, key=lambda name: (-counts[name], name))


def cards_of(examples: Sequence[Example], kind: TaskKind) -> list[Card]:
    """The cards of examples: strata are classes, sets of classes or tags, tenths of the targets' range of
    ranks, answerable or not; an instruction has none.
    """
    units = [e.content if e.group is None else h64("group", e.group) for e in examples]
    if kind == "regression":
        strata = _tenths([float(e.label) for e in examples if isinstance(e.label, float)])
    else:
        strata = [_words(example) for example in examples]
    return [
        Card(unit, stratum, example.classes)
        for unit, stratum, example in zip(units, strata, examples, strict=True)
    ]


def _words(example: Example) -> str:
    if isinstance(example.label, Answers):
        return "answered" if example.label.texts else "unanswerable"
    return "\0".join(sorted(example.classes))


def _tenths(values: Sequence[float]) -> list[str]:
    """By rank; equal values are in one bin."""
    ordered = np.sort(np.array(values))
    ranks = np.searchsorted(ordered, values, side="left")
    return [f"{rank * _BINS // max(1, len(values)):02d}" for rank in ranks.tolist()]
