"""Rows of every kind: those that transformers makes, and windows and packs that lose nothing."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_jobs.tokens.tokenizer import Tokenizer
from llm.finetune_settings import TaskSettings
from llm.tasks.encode_chat import ChatEncoder, pack_rows
from llm.tasks.encode_spans import SpanEncoder
from llm.tasks.encode_tags import TagEncoder
from llm.tasks.encode_texts import TextEncoder
from llm.tasks.encoded import Encoded, EncodedRow
from llm.tasks.example_fields import Answers, BadExample, Example, Message
from llm.tasks.row_layout import Layout, longest_first, make_layout, window_starts
from llm.tasks.token_spans import spans_of
from tests.llm.tasks.task_files import ours, words, write_bert

LENGTH = 24
Pair = tuple[Tokenizer, Any]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_bert(tmp_path_factory.mktemp("bert"))


def layout_of(
    tokenizer: Tokenizer, model: str = "bert", length: int = LENGTH, kind: str = "classification"
) -> Layout:
    return make_layout(kind, model, tokenizer, length)  # type: ignore[arg-type]


def task(**changes: Any) -> TaskSettings:
    return TaskSettings.model_validate({"stride": 4, **changes})


def good(found: Sequence[Encoded | BadExample]) -> list[Encoded]:
    assert all(isinstance(each, Encoded) for each in found), found
    return [each for each in found if isinstance(each, Encoded)]


def texts(count: int, most: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(words(chance, 1, most)) for _ in range(count)]


def segments(row: EncodedRow) -> list[int]:
    return [int(at >= row.second_at) for at in range(len(row.ids))]


@pytest.mark.parametrize("pairs", [False, True])
def test_rows_are_those_of_transformers(bert: Pair, pairs: bool) -> None:
    mine, theirs = bert
    firsts, seconds = texts(60, 30), texts(60, 30, 1)
    examples = [Example("f:1", (a, b) if pairs else (a,)) for a, b in zip(firsts, seconds, strict=True)]
    encoder = TextEncoder(mine, layout_of(mine), task())
    found = good(list(encoder.encode(examples)))
    wanted = theirs(firsts, seconds if pairs else None, truncation="longest_first", max_length=LENGTH)
    assert [each.rows[0].ids.tolist() for each in found] == wanted["input_ids"]
    assert [segments(each.rows[0]) for each in found] == wanted["token_type_ids"]
    whole = theirs(firsts, seconds if pairs else None)["input_ids"]
    assert [each.truncated for each in found] == [len(ids) > LENGTH for ids in whole]
    assert 0 < sum(each.truncated for each in found) < 60


@pytest.mark.parametrize("stride", [0, 4, 15])
def test_windows_are_those_of_transformers(bert: Pair, stride: int) -> None:
    mine, theirs = bert
    examples = [Example("f:1", (text,)) for text in texts(40, 60)]
    encoder = TextEncoder(mine, layout_of(mine), task(too_long="window", stride=stride))
    for example, each in zip(examples, good(list(encoder.encode(examples))), strict=True):
        wanted = theirs(
            example.texts[0],
            truncation=True,
            max_length=LENGTH,
            stride=stride,
            return_overflowing_tokens=True,
        )
        assert [row.ids.tolist() for row in each.rows] == wanted["input_ids"]


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 60))
def test_longest_first_takes_from_the_longer(first: int, second: int, room: int) -> None:
    kept = longest_first(first, second, room)
    assert sum(kept) == min(room, first + second)
    assert kept[0] <= first and kept[1] <= second
    if kept != (first, second):
        assert abs(kept[0] - kept[1]) <= 1 or (kept[0] == first < kept[1]) or (kept[1] == second < kept[0])


@given(st.integers(1, 200), st.integers(1, 40), st.data())
def test_windows_hold_every_token(size: int, room: int, data: Any) -> None:
    stride = data.draw(st.integers(0, room - 1))
    starts = window_starts(size, room, stride)
    held = [set(range(start, min(start + room, size))) for start in starts]
    assert set().union(*held) == set(range(size)) and all(held)
    for before, after in itertools.pairwise(held):
        assert len(before & after) == stride
        assert after - before  # none is there in vain


def test_windows_of_a_pair_keep_the_shorter(bert: Pair) -> None:
    mine, _ = bert
    short, long = texts(1, 3)[0], " ".join(texts(8, 20, 1))
    encoder = TextEncoder(mine, layout_of(mine), task(too_long="window"))
    for both in ((short, long), (long, short)):
        (each,) = good(list(encoder.encode([Example("f:1", both)])))
        ids = [mine.encode(text).tolist() for text in both]
        fixed, cut = (0, 1) if both[0] == short else (1, 0)
        seen: list[int] = []
        for row in each.rows:
            assert len(row.ids) <= LENGTH
            parts = [row.ids[1 : row.second_at - 1].tolist(), row.ids[row.second_at : -1].tolist()]
            assert parts[fixed] == ids[fixed]
            seen += parts[cut][4 if seen else 0 :]
        assert seen == ids[cut] and len(each.rows) > 1


def test_a_gpt_begins_as_its_texts_do() -> None:
    mine = ours()
    (each,) = good(
        list(TextEncoder(mine, layout_of(mine, "gpt"), task()).encode([Example("f:1", ("sea", "ship"))]))
    )
    eos = mine.eos_id
    assert each.rows[0].ids.tolist() == [eos, *mine.encode("sea"), eos, *mine.encode("ship"), eos]


def test_too_long_can_be_refused(bert: Pair) -> None:
    mine, _ = bert
    encoder = TextEncoder(mine, layout_of(mine), task(too_long="fail"))
    (bad,) = encoder.encode([Example("f:1", (" ".join(texts(9, 9)),))])
    assert isinstance(bad, BadExample) and bad.reason == "too_long" and "room for 22" in bad.detail


def test_a_text_without_tokens(bert: Pair) -> None:
    (bad,) = TextEncoder(bert[0], layout_of(bert[0]), task()).encode([Example("f:1", ("\u200b\u200d",))])
    assert isinstance(bad, BadExample) and bad.reason == "no_tokens"


def test_tags_stand_where_transformers_has_words(bert: Pair) -> None:
    mine, theirs = bert
    chance = random.Random(2)
    lists = [words(chance, 1, 25) for _ in range(40)]
    examples = [Example("f:1", tuple(some), tuple(chance.choice("OP") for _ in some)) for some in lists]
    encoder = TagEncoder(mine, layout_of(mine, kind="token_classification"), task(), "OP")
    for some, example, each in zip(lists, examples, good(list(encoder.encode(examples))), strict=True):
        wanted = theirs(some, is_split_into_words=True, truncation=True, max_length=LENGTH)
        (row,) = each.rows
        assert row.ids.tolist() == wanted["input_ids"]
        of = wanted.word_ids()
        first = {word: at for at, word in reversed(list(enumerate(of))) if word is not None}
        assert row.columns["tag_places"].tolist() == [first[word] for word in sorted(first)]
        assert row.columns["tagged_words"].tolist() == sorted(first)
        assert isinstance(example.label, tuple)
        assert row.columns["tags"].tolist() == ["OP".index(example.label[word]) for word in sorted(first)]


def test_a_gpt_says_a_tag_at_the_end_of_a_word() -> None:
    mine = ours()
    some = ("storms", "harbours", "a")
    encoder = TagEncoder(mine, layout_of(mine, "gpt", kind="token_classification"), task(), "OP")
    (each,) = good(list(encoder.encode([Example("f:1", some, ("O", "P", "O"))])))
    (row,) = each.rows
    ends = np.cumsum([len(mine.encode(text)) for text in ("storms", " harbours", " a")])
    assert row.columns["tag_places"].tolist() == ends.tolist()  # after the start, one before the next word
    assert mine.decode(row.ids) == "storms harbours a"


def squad(count: int, seed: int = 0) -> list[Example]:
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        some = words(chance, 5, 40)
        text = "  ".join(some)
        at = chance.randrange(len(some))
        stop = min(len(some), at + chance.randint(1, 3))
        start = len("  ".join(some[:at])) + (2 if at else 0)
        answer = "  ".join(some[at:stop])
        assert text[start : start + len(answer)] == answer
        label = Answers((answer,), (start,)) if chance.random() < 0.8 else Answers((), ())
        found.append(Example("f:1", (text, "which ship?"), label))
    return found


@pytest.mark.parametrize("model", ["bert", "gpt"])
def test_answers_are_found_again(bert: Pair, model: str) -> None:
    mine = bert[0] if model == "bert" else ours()
    layout = layout_of(mine, model, 32, "question_answering")
    encoder = SpanEncoder(mine, layout, task(too_long="window", stride=8))
    examples = squad(60)
    several = 0
    for example, each in zip(examples, good(list(encoder.encode(examples))), strict=True):
        answers = example.label
        assert isinstance(answers, Answers)
        text, held = example.texts[0], set()
        several += len(each.rows) > 1
        for row in each.rows:
            assert len(row.ids) <= 32
            first, last = row.columns["answer_first"], row.columns["answer_last"]
            starts, stops = row.columns["span_starts"], row.columns["span_stops"]
            assert row.second_at + len(starts) == len(row.ids) - 1
            held |= {at for start, stop in zip(starts, stops, strict=True) for at in range(start, stop)}
            if (first, last) != (0, 0):
                told = text[starts[first - row.second_at] : stops[last - row.second_at]]
                assert told == answers.texts[0]
        assert held >= {at for at, sign in enumerate(text) if not sign.isspace()}
        targets = {(row.columns["answer_first"], row.columns["answer_last"]) for row in each.rows}
        assert (targets == {(0, 0)}) == (not answers.texts or each.lost)
        assert not each.lost or answers.texts
    assert several > 20


def test_windows_of_a_context_are_those_of_transformers(bert: Pair) -> None:
    mine, theirs = bert
    encoder = SpanEncoder(mine, layout_of(mine, length=32), task(too_long="window", stride=6))
    examples = squad(30, 1)
    for example, each in zip(examples, good(list(encoder.encode(examples))), strict=True):
        wanted = theirs(
            example.texts[1], example.texts[0], truncation="only_second", max_length=32, stride=6,
            return_overflowing_tokens=True, return_offsets_mapping=True,
        )  # fmt: skip
        assert [row.ids.tolist() for row in each.rows] == wanted["input_ids"]
        for row, offsets, kinds in zip(
            each.rows, wanted["offset_mapping"], wanted["token_type_ids"], strict=True
        ):
            assert segments(row) == kinds
            theirs_of = [tuple(pair) for pair in offsets[row.second_at : -1]]
            mine_of = list(
                zip(row.columns["span_starts"].tolist(), row.columns["span_stops"].tolist(), strict=True)
            )
            assert mine_of == theirs_of


def test_a_cut_answer_is_told_and_a_long_question_refused(bert: Pair) -> None:
    mine, _ = bert
    text = " ".join(["sea"] * 40) + " harbours"
    example = Example("f:1", (text, "where?"), Answers(("harbours",), (len(text) - 8,)))
    (each,) = good(list(SpanEncoder(mine, layout_of(mine), task()).encode([example])))
    assert each.truncated and each.lost and each.rows[0].columns["answer_first"] == 0
    long = Example("f:1", ("the sea", text), Answers((), ()))
    (bad,) = SpanEncoder(mine, layout_of(mine), task()).encode([long])
    assert isinstance(bad, BadExample) and bad.reason == "question_too_long"


def instructions(count: int) -> list[Example]:
    chance = random.Random(5)

    def some(most: int) -> str:
        return " ".join(words(chance, 1, most))

    return [
        Example("f:1", (), None, (Message("user", some(9)), Message("assistant", some(4))))
        for _ in range(count)
    ]


def test_packing_loses_nothing() -> None:
    mine = ours()
    encoder = ChatEncoder(mine, layout_of(mine, "gpt", 96, "instruction"), task(kind="instruction"))
    rows = [each.rows[0] for each in good(list(encoder.encode(instructions(80))))]
    packs = pack_rows(rows, 96, packing=True)
    assert sorted(number for pack in packs for number in pack) == list(range(80))
    assert all(sum(len(rows[number].ids) - 1 for number in pack) <= 96 for pack in packs)
    assert len(packs) < 60 and all(pack == sorted(pack) for pack in packs)
    assert [pack[0] for pack in packs] == sorted(pack[0] for pack in packs)
    assert pack_rows(rows, 96, packing=False) == [[number] for number in range(80)]


def test_an_answer_that_has_no_room() -> None:
    mine = ours()
    example = Example("f:1", (), None, (Message("user", " ".join(texts(9, 9))), Message("assistant", "sea")))
    layout = layout_of(mine, "gpt", 16, "instruction")
    (bad,) = ChatEncoder(mine, layout, task(kind="instruction")).encode([example])
    assert isinstance(bad, BadExample) and bad.reason == "no_answer_left"
    (bad,) = ChatEncoder(mine, layout, task(kind="instruction", too_long="fail")).encode([example])
    assert isinstance(bad, BadExample) and bad.reason == "too_long"


def test_spans_of_windows_are_those_of_the_whole() -> None:
    mine = ours()
    example = squad(1, 3)[0]
    encoder = SpanEncoder(
        mine, layout_of(mine, "gpt", 32, "question_answering"), task(too_long="window", stride=8)
    )
    (each,) = good(list(encoder.encode([example])))
    ((_, ends),) = mine.encode_with_ends([example.texts[0]])
    spans = spans_of(example.texts[0], ends)
    assert (
        each.rows[0].columns["span_starts"].tolist()
        == spans.starts[: len(each.rows[0].columns["span_starts"])].tolist()
    )
    assert each.rows[-1].columns["span_stops"][-1] == spans.stops[-1]
