"""Sentence ends in text and in tokens."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_jobs.tokens.sentence_kernel import NO_SMALL_FROM, SMALL, kinds
from data_jobs.tokens.sentences import CODE, PROSE, WHOLE, rule_of, sentence_ends, token_ends
from data_jobs.tokens.text_column import Offsets, TextColumn, TokenColumn

# The same rules as regular expressions, over one text: what the kernel is compared with.
_SPACED, _CLOSED = ".!?…‼⁇⁈⁉؟۔܀։߹।॥᙮፧፨។៕᭚᭛᱾᱿", "。！？．｡︒﹒﹖﹗၊။"
_QUOTES = "[\"'”’»)\\]}」』】）》〉]*"
_PROSE = re.compile(
    f"(?<![{_SPACED}])[{_SPACED}]++{_QUOTES}+(?=\\s+(?P<next>\\S)|\\s*$)|[{_CLOSED}]+{_QUOTES}"
    "|(?<=\\S)(?=[^\\S\n]*\n\\s*\n)"
)
_CODE = re.compile(
    r"(?<=\S)(?=[^\S\n]*\n\s*\n)"
    r"|(?<=\S)(?=\s*\n[^\S\n]*(?:(?:async|export|public|private|protected|static|pub|abstract|final)\s+)*"
    r"(?:@\w|(?:def|class|func|fn|function|interface|struct|impl|enum)\b))"
)
_INITIAL = re.compile(r"(?:^|[\s(])[A-Z]\.$")


def expected_ends(text: str, rule: str) -> list[int]:
    """In UTF-8 bytes."""
    found = [m.end() for m in _CODE.finditer(text)] if rule == CODE else []
    for match in _PROSE.finditer(text) if rule == PROSE else ():
        goes_on = match["next"] is not None and match["next"].islower()
        end = match.end()
        if not goes_on and not (match[0] == "." and _INITIAL.search(text, max(0, end - 3), end)):
            found.append(end)
    return [len(text[:at].encode()) for at in sorted({*found, len(text)}) if at > 0]


def ends_of(text: str, rule: str) -> list[int]:
    return sentence_ends(TextColumn.of_texts([text]), rule).values.tolist()


def parts(text: str, rule: str) -> list[str]:
    ends = ends_of(text, rule)
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
        ("Größe. über", ["Größe. über"]),
        ("von\u3000A. Nun", ["von\u3000A. Nun"]),
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


def test_an_image_is_one() -> None:
    column = TextColumn.of_texts(["\n\n. A", "", "é"])
    ends = sentence_ends(column, WHOLE)
    assert (ends.values.tolist(), ends.bounds.tolist()) == ([5, 2], [0, 1, 1, 2])


def test_rules_by_format() -> None:
    formats = ("jsonl", "text", "code", "images")
    assert [rule_of(f) for f in formats] == [PROSE, PROSE, CODE, WHOLE]


MARKS = ["aB. \n。é!def@", "aZ.?…！\"' )(\n\t\u3000\xa0é»ß\u1680\U0001d41a", "\x1c\x85\u2028.。 Aa"]
WORDS = [
    "def", "class ", "pub fn", "static ", "final\n", "public", "@x", "@ ", "enum", "enumé", "func",
    "function", "protected", "\n", "\n\n", " ", "\t", "x", "abstract", "export\u3000", "interface_", "A.",
    " B.", "(C. ", "Dr.",
]  # fmt: skip


@given(
    text=st.one_of(
        *(st.text(alphabet=marks, max_size=40) for marks in MARKS),
        st.text(max_size=30),
        st.lists(st.sampled_from(WORDS), max_size=12).map("".join),
    ),
    rule=st.sampled_from([PROSE, CODE]),
)
@example(text="final\nfinal\n static \n  def f", rule=CODE)
@example(text="a\nfinal\npublic x\nfinal class", rule=CODE)
@example(text=".\n\na", rule=PROSE)
@example(text="  \n\n a", rule=CODE)
@example(text="A. b (C. d  ) E.", rule=PROSE)
def test_the_kernel_gives_what_the_regular_expressions_give(text: str, rule: str) -> None:
    assert ends_of(text, rule) == expected_ends(text, rule)


def test_the_standard_library_in_one_batch() -> None:
    folder = Path(sysconfig.get_paths()["stdlib"])
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("[a-e]*.py"))[:40]]
    texts += [(folder / "pydoc_data/topics.py").read_text(encoding="utf-8"), "", "\n"]
    assert len(texts) > 30
    for rule in (PROSE, CODE):
        found = sentence_ends(TextColumn.of_texts(texts), rule)
        each = np.split(found.values, found.bounds[1:-1])
        assert [ends.tolist() for ends in each] == [expected_ends(text, rule) for text in texts]


def test_kinds_of_characters() -> None:
    table = kinds()
    assert not any(chr(code).islower() for code in range(NO_SMALL_FROM, 0x110000))
    for code in (*range(0x500), 0x1E943, 0x2170, 0x3000, 0xFF41):
        assert bool(table[code] & SMALL) == chr(code).islower(), hex(code)


def test_long_runs_take_linear_time() -> None:
    for run in (".", "\n", " ", ". ", "!\n", "final\n", "\n@", "。 "):
        for rule in (PROSE, CODE):
            assert ends_of("a" + run * 300_000 + "b", rule)[-1] == 2 + 300_000 * len(run.encode())


def tokens_of(*lengths: list[int]) -> TokenColumn:
    return TokenColumn.of_pairs([(np.zeros(len(own), np.uint32), np.cumsum(own)) for own in lengths])


def offsets(*values: list[int]) -> Offsets:
    flat = np.array([v for own in values for v in own], np.int64)
    return Offsets(flat, np.cumsum([0, *map(len, values)]))


def lists(found: Offsets) -> list[list[int]]:
    return [part.tolist() for part in np.split(found.values, found.bounds[1:-1])]


def test_token_ends() -> None:
    lengths = [2, 3, 1, 4]
    assert lists(token_ends(offsets([2, 6, 10]), tokens_of(lengths))) == [[1, 3, 4]]
    # An end inside a token takes the whole token; two ends inside one token are one.
    assert lists(token_ends(offsets([3, 4, 10]), tokens_of(lengths))) == [[2, 4]]
    both = token_ends(offsets([3, 4, 10], [1], [2, 6, 10]), tokens_of(lengths, [1], lengths))
    assert lists(both) == [[2, 4], [1], [1, 3, 4]]
    assert token_ends(offsets(), tokens_of()).bounds.tolist() == [0]


def test_tokens_that_add_nothing_stay_with_the_one_before() -> None:
    """Several tokens of one character end at the same byte, for tokenizers that know offsets by character."""
    lengths = [3, 0, 0, 3, 0, 3, 0, 0]
    assert lists(token_ends(offsets([6, 9], [4]), tokens_of(lengths, [0, 0, 4, 0]))) == [[5, 8], [4]]


@given(
    st.lists(
        st.tuples(st.lists(st.integers(1, 4), min_size=1, max_size=9), st.sets(st.integers(1, 36))),
        max_size=4,
    )
)
def test_token_ends_of_a_batch_are_those_of_each(documents: list[tuple[list[int], set[int]]]) -> None:
    lengths = [own for own, _ in documents]
    marks = [sorted({m for m in wanted if m < sum(own)} | {sum(own)}) for own, wanted in documents]
    found = token_ends(offsets(*marks), tokens_of(*lengths))
    expected = [
        sorted({next(i for i in range(1, len(own) + 1) if sum(own[:i]) >= m) for m in some})
        for own, some in zip(lengths, marks, strict=True)
    ]
    assert lists(found) == (expected or [[]])
