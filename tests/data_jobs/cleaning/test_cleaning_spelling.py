"""Spelling: what is corrected, and how much is left alone."""

from __future__ import annotations

import pytest

from data_jobs.cleaning.spelling import MAX_UNKNOWN, Speller, sum_corrections

SENTENCE = "the people of this town have always known where the river comes from and where it goes"


@pytest.fixture(scope="module")
def speller() -> Speller:
    return Speller()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("recieve", "receive"), ("goverment,", "government,"), ("(beleive)", "(believe)"), ("occured.",
        "occurred."),
        ("“freind”", "“friend”"),
    ],
)  # fmt: skip
def test_corrected(speller: Speller, before: str, after: str) -> None:
    text, count = speller.correct(f"{SENTENCE} {before} {SENTENCE}")
    assert (text, count) == (f"{SENTENCE} {after} {SENTENCE}", 1)
    assert speller.correct(text) == (text, 0)


@pytest.mark.parametrize(
    "word",
    [
        "Recieve", "RECIEVE", "teh", "recieve2", "re-cieve", "recieve_x", "`recieve`", "recieve()",
        "qwzzkxj", "their",
        "doesn't", "recieve@x.org", "<email>", "naïve",
    ],
)  # fmt: skip
def test_left_alone(speller: Speller, word: str) -> None:
    text = f"{SENTENCE} {word} {SENTENCE}"
    assert speller.correct(text) == (text, 0)


@pytest.mark.parametrize(
    "text",
    [
        f"{SENTENCE}\n    recieve indented\n",
        f"{SENTENCE}\n```\nrecieve\n```\n",
        f"{SENTENCE}\nif recieve = beleive;\n",
        "der hund und die katze sitzen heute abend zusammen vor dem haus und schauen in den garten",
        "recieve freind occured",
        "",
    ],
)
def test_code_and_other_languages_are_left_alone(speller: Speller, text: str) -> None:
    assert speller.correct(text) == (text, 0)


def test_a_text_with_many_unknown_words_is_another_language() -> None:
    known = SENTENCE.split()
    long_words = [word for word in known if len(word) >= 4]
    few = int(MAX_UNKNOWN * len(long_words) / (1 - MAX_UNKNOWN))
    assert Speller().correct(" ".join([*known, *["recieve"] * few]))[1] == few
    assert Speller().correct(" ".join([*known, *["recieve"] * (few + 1)]))[1] == 0


def test_the_sample_is_counted_and_adds_up() -> None:
    parts = []
    for words in (["recieve", "recieve"], ["recieve", "freind"]):
        speller = Speller()
        speller.correct(f"{SENTENCE} {' '.join(words)} {SENTENCE}")
        parts.append(speller.sample())
    assert parts[0] == [{"before": "recieve", "after": "receive", "count": 2}]
    whole = {row["before"]: (row["after"], row["count"]) for row in sum_corrections(parts)}
    assert whole == {"recieve": ("receive", 3), "freind": ("friend", 1)}
