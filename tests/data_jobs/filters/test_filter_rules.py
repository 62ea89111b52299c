"""Each rule on both sides of its paper's threshold, and the text that it is about."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from data_jobs.filters import filter_rules
from data_jobs.filters.filter_settings import (
    C4Filter,
    FilterSettings,
    FineWebFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LengthFilter,
    WordListFilter,
)
from data_jobs.filters.judging import Dropped, Judge, Kept
from data_jobs.filters.measures import Column, Measures
from data_jobs.settings import CorpusSettings

GOOD = {
    "CHARACTERS": 3000, "WORDS": 600, "WORD_CHARACTERS": 2400, "ALPHABETIC_WORDS": 590, "STOP_WORDS": 7,
    "LINES": 100, "LINE_CHARACTERS": 3000, "PARAGRAPHS": 100, "KEPT_LINES": 100, "KEPT_LINE_CHARACTERS": 3000,
    "KEPT_TERMINAL_LINES": 60, "KEPT_SENTENCES": 20,
}  # fmt: skip


def measures(**columns: int) -> Measures:
    row = np.zeros((1, len(Column)), np.int64)
    for name, value in {**GOOD, **columns}.items():
        row[0, Column[name]] = value
    return Measures(row)


def reasons(family: str, rules: Any, *more: Any, **columns: int) -> list[str]:
    checks = getattr(filter_rules, family)(measures(**columns), rules, *more)
    return [check.reason for check in checks if check.fails[0]]


NONE = np.zeros(1, np.int64)
C4_MORE = (NONE.astype(np.bool_), NONE)


@pytest.mark.parametrize(
    ("reason", "stays", "fails"),
    [
        ("few_words", {"WORDS": 50, "WORD_CHARACTERS": 200, "ALPHABETIC_WORDS": 50},
         {"WORDS": 49, "WORD_CHARACTERS": 200, "ALPHABETIC_WORDS": 49}),
        ("many_words", {"WORDS": 100_000, "WORD_CHARACTERS": 400_000, "ALPHABETIC_WORDS": 100_000},
         {"WORDS": 100_001, "WORD_CHARACTERS": 400_004, "ALPHABETIC_WORDS": 100_001}),
        ("short_words", {"WORD_CHARACTERS": 1800}, {"WORD_CHARACTERS": 1799}),
        ("long_words", {"WORD_CHARACTERS": 6000}, {"WORD_CHARACTERS": 6001}),
        ("hashes", {"HASHES": 60}, {"HASHES": 61}),
        ("ellipses", {"ELLIPSES": 60}, {"ELLIPSES": 61}),
        ("bullet_lines", {"BULLET_LINES": 90}, {"BULLET_LINES": 91}),
        ("ellipsis_lines", {"ELLIPSIS_LINES": 30}, {"ELLIPSIS_LINES": 31}),
        ("alphabetic_words", {"ALPHABETIC_WORDS": 480}, {"ALPHABETIC_WORDS": 479}),
        ("stop_words", {"STOP_WORDS": 2}, {"STOP_WORDS": 1}),
    ],
)  # fmt: skip
def test_gopher_quality(reason: str, stays: dict[str, int], fails: dict[str, int]) -> None:
    assert reasons("gopher_quality", GopherQualityFilter(), **stays) == []
    assert reasons("gopher_quality", GopherQualityFilter(), **fails) == [f"gopher_quality_{reason}"]


TABLE_A1 = {
    "duplicate_lines": ("DUPLICATE_LINES", 30), "duplicate_paragraphs": ("DUPLICATE_PARAGRAPHS", 30),
    "duplicate_line_characters": ("DUPLICATE_LINE_CHARACTERS", 600),
    "duplicate_paragraph_characters": ("DUPLICATE_PARAGRAPH_CHARACTERS", 600),
    "top_2_gram": ("TOP_2", 480), "top_3_gram": ("TOP_3", 432), "top_4_gram": ("TOP_4", 384),
    "duplicate_5_grams": ("DUPLICATE_5", 360), "duplicate_6_grams": ("DUPLICATE_6", 336),
    "duplicate_7_grams": ("DUPLICATE_7", 312), "duplicate_8_grams": ("DUPLICATE_8", 288),
    "duplicate_9_grams": ("DUPLICATE_9", 264), "duplicate_10_grams": ("DUPLICATE_10", 240),
}  # fmt: skip


@pytest.mark.parametrize("reason", TABLE_A1)
def test_gopher_repetition(reason: str) -> None:
    column, most = TABLE_A1[reason]
    assert reasons("gopher_repetition", GopherRepetitionFilter(), **{column: most}) == []
    found = reasons("gopher_repetition", GopherRepetitionFilter(), **{column: most + 1})
    assert found == [f"gopher_repetition_{reason}"]


@pytest.mark.parametrize(
    ("reason", "stays", "fails"),
    [
        ("terminal_lines", {"KEPT_TERMINAL_LINES": 13}, {"KEPT_TERMINAL_LINES": 12}),
        ("duplicate_line_characters", {"KEPT_DUPLICATE_LINE_CHARACTERS": 299},
         {"KEPT_DUPLICATE_LINE_CHARACTERS": 300}),
        ("short_lines", {"KEPT_SHORT_LINES": 66}, {"KEPT_SHORT_LINES": 67}),
    ],
)  # fmt: skip
def test_fineweb(reason: str, stays: dict[str, int], fails: dict[str, int]) -> None:
    assert reasons("fineweb", FineWebFilter(), **stays) == []
    assert reasons("fineweb", FineWebFilter(), **fails) == [f"fineweb_{reason}"]


def test_c4_pages() -> None:
    assert reasons("c4", C4Filter(), *C4_MORE, KEPT_SENTENCES=5) == []
    assert reasons("c4", C4Filter(), *C4_MORE, KEPT_SENTENCES=4) == ["c4_few_sentences"]
    assert reasons("c4", C4Filter(), *C4_MORE, BRACES=1) == ["c4_curly_bracket"]
    assert reasons("c4", C4Filter(curly_brackets=False), *C4_MORE, BRACES=1) == []
    assert reasons("c4", C4Filter(), np.ones(1, np.bool_), NONE) == ["c4_lorem_ipsum"]
    assert reasons("c4", C4Filter(bad_words="list"), C4_MORE[0], NONE + 1) == ["c4_bad_words"]
    assert reasons("c4", C4Filter(min_sentences=0), *C4_MORE, KEPT_LINES=0) == ["c4_no_lines"]


def test_length_and_words() -> None:
    rules = LengthFilter(min_characters=3000, max_characters=3000, min_words=600, max_words=600)
    for size, failed in ((3000, []), (2999, ["length_few_characters"]), (3001, ["length_many_characters"])):
        checks = filter_rules.length_in_characters(np.array([size]), rules)
        assert [check.reason for check in checks if check.fails[0]] == failed
    assert reasons("length_in_words", rules) == []
    assert reasons("length_in_words", rules, WORDS=599) == ["length_few_words"]
    assert reasons("length_in_words", rules, WORDS=601) == ["length_many_words"]
    assert reasons("words", WordListFilter(path="x"), NONE) == []
    assert reasons("words", WordListFilter(path="x"), NONE + 1) == ["words_of_the_list"]
    assert reasons("words", WordListFilter(path="x", max_share=0.01), NONE + 6) == []
    assert reasons("words", WordListFilter(path="x", max_share=0.01), NONE + 7) == ["words_share_of_the_list"]


def test_chinese_is_not_asked_for_english() -> None:
    chinese = {"CJK_WORDS": 600, "WORD_CHARACTERS": 600, "STOP_WORDS": 0, "ALPHABETIC_WORDS": 600}
    assert reasons("gopher_quality", GopherQualityFilter(), **chinese) == []
    half = chinese | {"CJK_WORDS": 300, "WORD_CHARACTERS": 2700}
    assert reasons("gopher_quality", GopherQualityFilter(), **half) == ["gopher_quality_stop_words"]


def judge(texts: list[str], **filters: Any) -> list[Kept | Dropped]:
    settings = CorpusSettings.model_validate({"sources": [{"name": "s", "path": "x"}], "filters": filters})
    return Judge(settings, settings.sources[0]).judge(texts)


def reason_of(text: str, **filters: Any) -> str | None:
    verdict = judge([text], **filters)[0]
    return verdict.reason if isinstance(verdict, Dropped) else None


PROSE = """
The harbour was calm that morning and the boats had gone out before light. Nobody spoke of storms, for
those come without a word. Children with baskets ran down to the stones, where women mended nets. An old
man counted gulls. He has done so since his brother sailed north, and each day he writes the number in a
small book. What will become of the book when he dies? His daughter says that it belongs to whoever asks
for it.
""".strip().replace("\n", " ")
WORDS = PROSE.split()
ROWS = [" ".join(WORDS[i : i + 11]) for i in range(0, len(WORDS), 11)]


def test_prose_stays() -> None:
    everything = {"gopher_quality": {}, "gopher_repetition": {}, "c4": {}, "fineweb": {}, "length": {}}
    assert judge([PROSE], **everything) == [Kept(PROSE)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE[:200], "few_words"),
        ("in a he is at so no up me we " * 10, "short_words"),
        (PROSE + " ######" * 10, "hashes"),
        (PROSE.replace(". ", "... ").replace(", ", "... ").replace(" the ", "... the "), "ellipses"),
        ("\n".join(f"- {word} something" for word in WORDS), "bullet_lines"),
        ("\n".join(row + "..." * (number % 2) for number, row in enumerate(ROWS)), "ellipsis_lines"),
        (PROSE + " 12 345" * 20, "alphabetic_words"),
        ("Die Katze sitzt heute auf einem hohen Baum und schaut hinunter zur Strasse. " * 6, "stop_words"),
    ],
)  # fmt: skip
def test_gopher_quality_of_texts(text: str, reason: str) -> None:
    assert reason_of(text, gopher_quality={}) == f"gopher_quality_{reason}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n".join([*WORDS, *["again"] * 60]), "duplicate_lines"),
        ("\n".join(ROWS) + "\n\nOnce more" * 3, "duplicate_paragraphs"),
        ("\n".join([*ROWS, *WORDS[:9], PROSE[:90], PROSE[:90], PROSE[:90]]), "duplicate_line_characters"),
        (PROSE + " very much" * 20, "top_2_gram"),
        (f"{PROSE} {PROSE}", "duplicate_5_grams"),
    ],
)  # fmt: skip
def test_gopher_repetition_of_texts(text: str, reason: str) -> None:
    assert reason_of(text, gopher_repetition={}) == f"gopher_repetition_{reason}"


def test_c4_takes_lines_out() -> None:
    lines = [
        "Home | About | Contact",
        "The first sentence of the page stands here.[1] Another one follows!",
        "Please enable JavaScript to see this page.",
        "",
        "Is this a question? Yes, it is one of them.[citation needed]",
        "Read our Privacy Policy before you go on.",
        "Too short.",
        "“A quotation ends this line of text.”",
        "no end here",
    ]
    kept = judge(["\n".join(lines)], c4={})
    assert kept == [
        Kept(
            "The first sentence of the page stands here. Another one follows!\n\n"
            "Is this a question? Yes, it is one of them.\n“A quotation ends this line of text.”"
        )
    ]
    assert isinstance(kept[0], Kept) and judge([kept[0].text], c4={}) == kept  # twice is once
    off = dict.fromkeys(("terminal_punctuation", "javascript", "citations", "policy"), False)
    everything = judge(["\n".join(lines)], c4={**off, "min_words_per_line": 0})
    assert everything == [Kept("\n".join(lines))]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE + " Lorem Ipsum dolor.", "c4_lorem_ipsum"),
        (PROSE + " int main() { }.", "c4_curly_bracket"),
        ("One is here. Two is here. Three is here. Four is here.", "c4_few_sentences"),
        ("One is here. Two is here. Three is here. Four is here. Five is here.", None),
        ("一つ目の文です。二つ目の文です。三つ目の文です。四つ目の文です。五つ目の文です。", None),
    ],
)
def test_c4_of_pages(text: str, reason: str | None) -> None:
    assert reason_of(text, c4={}) == reason


def test_fineweb_sees_what_c4_leaves() -> None:
    menu = "\n".join(["Home", "News", "Sport", "Shop", "Jobs", "Help", "Login", "Terms", "Press"])
    text = f"{menu}\n{PROSE}"
    assert reason_of(text, fineweb={}) == "fineweb_terminal_lines"
    assert judge([text], c4={}, fineweb={}) == [Kept(PROSE)]


def test_a_phrase_is_not_seen_over_two_documents() -> None:
    texts = [PROSE + " And java", "script it is. " + PROSE, PROSE + " lorem", " ipsum. " + PROSE]
    c4 = {"terminal_punctuation": False}
    assert (
        judge(texts, c4=c4) == [judge([text], c4=c4)[0] for text in texts] == [Kept(text) for text in texts]
    )


CHINESE = (
    "港口的早晨很安静，船只天亮之前就出海了。没有人谈起暴风雨，因为它总是不声不响地到来。孩子们提着篮子跑到石滩上，"
    "女人们在那里修补渔网。一位老人数着海鸥，自从他的兄弟往北方去了以后，每天都是这样。他把数目写在一个小本子里。"
    "等他去世以后，这个本子会怎么样呢？他的女儿说：“谁来问，就归谁。”"
)


def test_chinese_prose_stays() -> None:
    everything = {"gopher_quality": {}, "gopher_repetition": {}, "c4": {}, "fineweb": {}}
    assert judge([CHINESE], **everything) == [Kept(CHINESE)]
    assert reason_of(CHINESE * 3, gopher_repetition={}) == "gopher_repetition_duplicate_5_grams"


def test_unknown_names_and_wrong_shares_are_refused() -> None:
    for wrong in ({"gopher": {}}, {"language": {}}, {"gopher_repetition": {"max_top_ngram": {5: 0.1}}}):
        with pytest.raises(ValueError):
            FilterSettings.model_validate(wrong)
