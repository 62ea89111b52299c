"""Sentence ends in text and in tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_jobs.sentences import CODE, PROSE, rule_of, sentence_ends, token_ends


def parts(text: str, rule: str) -> list[str]:
    ends = sentence_ends(text, rule).tolist()
    data = text.encode()
    return [data[a:b].decode() for a, b in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", " Two!", " Three?"]),
        ('He said "No." Then left.', ['He said "No."', " Then left."]),
        ("今天下雨。明天呢？好！", ["今天下雨。", "明天呢？", "好！"]),
        ("Pi is 3.14 here. etc. and so on", ["Pi is 3.14 here. etc. and so on"]),
        ("J. Smith came. Good.", ["J. Smith came.", " Good."]),
        ("A title\n\nThe text", ["A title", "\n\nThe text"]),
        ("Wait... What?!", ["Wait...", " What?!"]),
        ("no end", ["no end"]),
        ("Größe. Über", ["Größe.", " Über"]),
    ],
)
def test_prose(text: str, sentences: list[str]) -> None:
    assert parts(text, PROSE) == sentences


def test_code() -> None:
    text = (
        "import os\n\nx = 1\ndef f():\n    y = 2.5\n    class A:\n        pass\n@deco\nasync def g(): pass\n"
    )
    assert parts(text, CODE) == [
        "import os",
        "\n\nx = 1",
        "\ndef f():\n    y = 2.5",
        "\n    class A:\n        pass",
        "\n@deco",
        "\nasync def g(): pass\n",
    ]


def test_rules_by_format() -> None:
    assert [rule_of(f) for f in ("jsonl", "text", "code")] == [PROSE, PROSE, CODE]


@given(st.text(alphabet="aB. \n。é!def@"), st.sampled_from([PROSE, CODE]))
def test_ends_increase_and_the_last_is_the_end(text: str, rule: str) -> None:
    ends = sentence_ends(text, rule)
    assert (np.diff(ends) > 0).all()
    assert ends.tolist()[-1:] == ([len(text.encode())] if text else [])


def test_long_runs_take_linear_time() -> None:
    for run in (".", "\n", " ", ". ", "!\n"):
        sentence_ends("a" + run * 300_000 + "b", PROSE)
        sentence_ends("a" + run * 300_000 + "b", CODE)


def test_token_ends() -> None:
    lengths = np.array([2, 3, 1, 4])
    assert token_ends(np.array([2, 6, 10]), lengths).tolist() == [1, 3, 4]
    # An end inside a token takes the whole token; two ends inside one token are one.
    assert token_ends(np.array([3, 4, 10]), lengths).tolist() == [2, 4]


def test_tokens_that_add_nothing_stay_with_the_one_before() -> None:
    """Several tokens of one character end at the same byte, for tokenizers that know offsets by character."""
    ends = token_ends(np.array([6, 9]), np.array([3, 0, 0, 3, 0, 3, 0, 0]))
    assert ends.tolist() == [5, 8]
