"""The kernels beside plain Python, on drawn and on real text; what words, lines and sentences are."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_jobs.filters.c4_lines import unwanted_bytes
from data_jobs.filters.filter_settings import C4Filter
from data_jobs.filters.measures import Column
from data_jobs.filters.scanning import LineRules, Scanner
from tests.data_jobs.filters.reference_measures import measures_of, words_of

RULES = LineRules(least_words=3, terminal_only=True)
# Few of each, so that words, lines and paragraphs repeat; every class of characters, of one byte to four.
PIECES = [
    "the", "The", "of", "to,", "“and”", "have", "a", "b", "cd", "x1", "7", "3.", "U.S.", "end.", "end.”",
    "so?)",
    "...", "wait...", "……", "…", "#", "##tag", "{", "[1]", "-", "*", "•", "●", "– ", "é", "größe", "слово",
    "शब्द", "क्या।",
    "海", "が", "한국", "。", "、", "「", "」", "！", "，", "𠀀", "🙂", "🙂🙂", "\u3000", "\u00a0", " ",
    "  ", "\t", "\r",
    "\n", "\n", "\n\n", "\n \n", "JavaScript", "privacy policy", "Use cookies.", "cafe\u0301", "\u200b",
    "\ufeff", "\u0085",
]  # fmt: skip


def scan_of(texts: list[str], rules: LineRules | None) -> list[dict[str, int]]:
    joined = "".join(texts).encode().lower()
    offsets = np.cumsum([0, *(len(text.encode()) for text in texts)])
    marks = unwanted_bytes(joined, offsets, C4Filter()) if rules else None
    counts = SCANNER.scan(texts, rules, marks, ngrams=True).measures.counts
    return [{column.name: int(row[column]) for column in Column} for row in counts]


SCANNER = Scanner()


def expect_equal(texts: list[str]) -> None:
    for rules, plain in ((None, None), (RULES, (3, True))):
        for text, found in zip(texts, scan_of(texts, rules), strict=True):
            assert found == measures_of(text, plain), repr(text)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.lists(st.sampled_from([*PIECES, *[" "] * 30]), max_size=60).map("".join), max_size=4
    )
)  # fmt: skip
def test_kernels_are_the_reference_on_drawn_pieces(texts: list[str]) -> None:
    expect_equal(texts)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=5))
def test_kernels_are_the_reference_on_any_characters(texts: list[str]) -> None:
    expect_equal(texts)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from("ab"), max_size=80).map(" ".join))
def test_kernels_are_the_reference_where_everything_repeats(text: str) -> None:
    expect_equal([text, text.replace(" a", "\na")])


def test_kernels_are_the_reference_on_real_text() -> None:
    """Modules of the standard library: code, prose, licences, and tables of it."""
    folder = Path(sys.modules["json"].__file__ or "").parent.parent
    names = ["json/decoder.py", "this.py", "textwrap.py", "LICENSE.txt", "pydoc.py", "encodings/cp437.py"]
    texts = [(folder / name).read_text("utf-8")[:30_000] for name in names if (folder / name).exists()]
    assert len(texts) >= 5
    expect_equal(texts)


def test_a_measure_does_not_hang_on_the_batch() -> None:
    draw = random.Random(3)
    texts = ["".join(draw.choices([*PIECES, *[" "] * 40], k=draw.randint(0, 400))) for _ in range(60)]
    whole = scan_of(texts, RULES)
    assert whole == [scan_of([text], RULES)[0] for text in texts]
    assert whole == in_parts(texts, 7)


def in_parts(texts: list[str], size: int) -> list[dict[str, int]]:
    return [row for at in range(0, len(texts), size) for row in scan_of(texts[at : at + size], RULES)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat, he said.", ["The", "cat,", "he", "said."]),
        ("海が静か", ["海", "が", "静", "か"]),
        ("Python 3.11で書く。", ["Python", "3.11", "で", "書", "く"]),
        ("他说：“你好”。", ["他", "说", "你", "好"]),
        ("한국어 문장", ["한", "국", "어", "문", "장"]),
        ("- item", ["-", "item"]),
        ("привет, мир", ["привет,", "мир"]),
        (" \u3000\n", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words
    assert scan_of([text], None)[0]["WORDS"] == len(words)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", 3),
        ("He said “no.” Then he left", 2),
        ("It costs 3.50 in the U.S.A today.", 1),
        ("1. Milk", 1),
        ("Born in 1999. Dead in 2001.", 2),
        ("一つ目。二つ目！三つ目", 3),
        ("他说：“你好。”我说：“再见。”", 2),
        ("a line\nanother line", 2),
        ("...", 0),
        ("What?! (Really.)", 2),
    ],
)
def test_sentences(text: str, sentences: int) -> None:
    assert scan_of([text], None)[0]["KEPT_SENTENCES"] == sentences


def test_what_repeats_is_counted_without_its_first() -> None:
    found = scan_of(["one two\n  one two \n\none two\nlast\n\nx\n \nx"], None)[0]
    assert (found["LINES"], found["DUPLICATE_LINES"], found["DUPLICATE_LINE_CHARACTERS"]) == (6, 3, 15)
    assert (found["PARAGRAPHS"], found["DUPLICATE_PARAGRAPHS"], found["DUPLICATE_PARAGRAPH_CHARACTERS"]) == (
        4,
        1,
        1,
    )


def test_words_in_a_row() -> None:
    letters = ["a", "b", "c", "d", "e"]
    found = scan_of([" ".join([*letters, "x", *letters]), " ".join(letters)], None)
    assert (found[0]["TOP_2"], found[0]["TOP_4"], found[0]["DUPLICATE_5"], found[0]["DUPLICATE_6"]) == (
        4,
        8,
        5,
        0,
    )
    assert [found[1][name] for name in ("TOP_2", "DUPLICATE_5")] == [
        0,
        0,
    ]  # what stands once is no repetition
