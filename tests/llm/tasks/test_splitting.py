"""Parts that are cut from train: their shares, what stays together, and what they do not hang on."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from llm.tasks.example_fields import Example
from llm.tasks.splitting import TEST, TRAIN, VAL, Card, cards_of, split_cards


def cards(counts: dict[str, int]) -> list[Card]:
    names = [name for name, count in counts.items() for _ in range(count)]
    return [Card(number, name, (name,)) for number, name in enumerate(names)]


def per_class(found: list[Card], parts: list[int], part: int) -> Counter[str]:
    return Counter(card.stratum for card, at in zip(found, parts, strict=True) if at == part)


def test_shares_are_those_of_scikit_learn() -> None:
    found = cards({"a": 500, "b": 120, "c": 31, "d": 10})
    names = [card.stratum for card in found]
    _, theirs = train_test_split(names, test_size=0.1, stratify=names, random_state=0)
    ours = per_class(found, split_cards(found, 0.1, 0.0, 0), VAL)
    assert abs(ours.total() - len(theirs)) <= 1
    for name, count in Counter(theirs).items():
        assert abs(ours[name] - count) <= 1


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 60), min_size=1),
    st.sampled_from([0.05, 0.1, 0.25, 0.4]),
    st.sampled_from([0.0, 0.1, 0.3]),
    st.integers(0, 5),
)
def test_each_class_has_its_share_and_stays_in_train(
    counts: dict[str, int], val: float, test: float, seed: int
) -> None:
    found = cards(counts)
    parts = split_cards(found, val, test, seed)
    assert len(parts) == len(found)
    train = per_class(found, parts, TRAIN)
    for name, count in counts.items():
        assert train[name] >= 1
        if count > 4:
            for part, share in ((VAL, val), (TEST, test)):
                assert abs(per_class(found, parts, part)[name] - share * count) <= 1.5


def test_small_classes_pay_together() -> None:
    found = cards({f"c{number}": 3 for number in range(100)})
    parts = split_cards(found, 0.1, 0.0, 0)
    assert abs(parts.count(VAL) - 30) <= 1
    assert max(per_class(found, parts, VAL).values()) == 1


def test_the_order_of_the_records_does_not_matter() -> None:
    found = cards({"a": 50, "b": 20, "c": 3})
    parts = dict(zip((card.unit for card in found), split_cards(found, 0.2, 0.1, 7), strict=True))
    shuffled = random.Random(0).sample(found, len(found))
    again = split_cards(shuffled, 0.2, 0.1, 7)
    assert [parts[card.unit] for card in shuffled] == again
    assert split_cards(found, 0.2, 0.1, 8) != split_cards(found, 0.2, 0.1, 7)


def examples(kind: str, count: int) -> list[Example]:
    chance = random.Random(1)
    label: dict[str, Any] = {
        "classification": lambda: chance.choice("ab"),
        "multi_label": lambda: tuple(sorted(chance.sample("abcd", chance.randint(0, 3)))),
        "regression": lambda: chance.gauss(0, 5),
    }
    return [
        Example(f"f:{number}", (f"text {number}",), label[kind](), group=f"g{chance.randint(0, 30)}")
        for number in range(count)
    ]


@pytest.mark.parametrize("kind", ["classification", "multi_label", "regression"])
def test_groups_are_not_torn(kind: Any) -> None:
    found = examples(kind, 300)
    parts = split_cards(cards_of(found, kind), 0.2, 0.2, 0)
    where: dict[Any, set[int]] = {}
    for example, part in zip(found, parts, strict=True):
        where.setdefault(example.group, set()).add(part)
    assert all(len(some) == 1 for some in where.values())
    assert all(abs(parts.count(part) / 300 - 0.2) < 0.06 for part in (VAL, TEST))


def test_equal_texts_are_not_torn() -> None:
    found = [Example(f"f:{n}", (f"text {n % 40}",), "ab"[n % 3 == 0]) for n in range(200)]
    parts = split_cards(cards_of(found, "classification"), 0.25, 0.0, 3)
    texts = [{e.texts for e, at in zip(found, parts, strict=True) if at == part} for part in (TRAIN, VAL)]
    assert texts[1] and not texts[0] & texts[1]


def test_targets_are_spread_as_in_train() -> None:
    found = [Example(f"f:{n}", (f"t {n}",), float(np.exp(n / 100))) for n in range(1000)]
    parts = np.array(split_cards(cards_of(found, "regression"), 0.1, 0.0, 0))
    tenths = np.arange(1000) // 100
    assert np.bincount(tenths[parts == VAL], minlength=10).tolist() == [10] * 10


def test_sets_of_classes_keep_their_shares() -> None:
    found = examples("multi_label", 2000)
    found = [Example(e.place, e.texts, e.label) for e in found]
    parts = split_cards(cards_of(found, "multi_label"), 0.2, 0.0, 0)
    for name in "abcd":
        has = [name in e.classes for e in found]
        share = sum(at == VAL for at, yes in zip(parts, has, strict=True) if yes) / sum(has)
        assert abs(share - 0.2) < 0.03
