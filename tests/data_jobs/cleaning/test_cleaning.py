"""Cleaning: each step by itself, their order, their counts, cuts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_jobs.cleaning.clean_settings import CleanSettings, rules_of_source
from data_jobs.cleaning.cleaner import Cleaner, clean_text, cut_bytes, cut_text, recorded_rules
from data_jobs.settings import CorpusSettings, fixed_settings


def clean(text: str, **rules: Any) -> str:
    return clean_text(text, CleanSettings(**rules))


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("a\r\nb\rc", "a\nb\nc"),
        ("a\x00b\x1fc\x7fd\x85e\ufffe", "abcde"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("cafe\u0301", "café"),
        (" \n\t ", ""),
        ("  kept  ", "  kept  "),
        ("", ""),
        ("Â£ \u200b x@y.org  1\n\n\n\n\n2", "Â£ \u200b x@y.org  1\n\n\n\n\n2"),
    ],
)
def test_without_a_word_of_the_recipe(raw: str, cleaned: str) -> None:
    assert clean(raw) == cleaned


def test_clean_keeps_what_it_is_told_to_keep() -> None:
    assert clean("e\u0301\x00\r\n", form="none", control_characters="keep") == "e\u0301\x00\r\n"


@pytest.mark.parametrize(("form", "cleaned"), [("NFC", "ﬁ²é，"), ("NFKC", "fi2é,"), ("none", "ﬁ²e\u0301，")])
def test_forms(form: str, cleaned: str) -> None:
    assert clean("ﬁ²e\u0301，", form=form) == cleaned


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("\ufeffzero\u200bwidth\u00ad and\u2060 \u202ehidden\u202c", "zerowidth and hidden"),
        ("می\u200cخواهم", "می\u200cخواهم"),  # Persian: the word has another shape without it
        ("क्\u200dष", "क्\u200dष"),
        ("Lat\u200cin\u200d", "Latin"),
        ("👩\u200d👧", "👩\u200d👧"),
        ("❤\ufe0f\u200d🔥", "❤\ufe0f\u200d🔥"),
        ("👩\u200d x", "👩 x"),
        ("ភាសា\u200bខ្មែរ", "ភាសា\u200bខ្មែរ"),  # Khmer: the only sign of where a word ends
        ("ភាសា\u200b\u200b\ufeffខ្មែរ", "ភាសា\u200bខ្មែរ"),
        ("שלום\u200f!", "שלום!"),
        ("plain", "plain"),
    ],
)
def test_invisible_characters(raw: str, cleaned: str) -> None:
    assert clean(raw, zero_width="remove") == cleaned
    assert clean(cleaned, zero_width="remove") == cleaned


@pytest.mark.parametrize(
    ("kinds", "raw", "cleaned"),
    [
        (["runs"], "a  b\t\tc \td\u3000\u3000e", "a b\tc d\u3000e"),
        (["runs"], "    indented  line\n\tx  y  \n", "    indented line\n\tx y  \n"),
        (["trailing"], "a  \nb\t\n\n c\u3000\nd ", "a\nb\n\n c\nd"),
        (["blank_lines"], "a\n\n\n\n\nb\n \n\t\n \n\nc\n\n\nd", "a\n\n\nb\n\n\nc\n\n\nd"),
        (["runs", "trailing", "blank_lines"], "a   b \n \n  \n\n \n\n  c", "a b\n\n\n  c"),
        ([], "a   b \n\n\n\n\n", "a   b \n\n\n\n\n"),
    ],
)
def test_white_space(kinds: list[str], raw: str, cleaned: str) -> None:
    assert clean(raw, white_space=kinds) == cleaned
    assert clean(cleaned, white_space=kinds) == cleaned


EVERYTHING = {
    "zero_width": "remove", "form": "NFKC", "white_space": ["runs", "trailing", "blank_lines"],
    "private_data": ["email", "phone", "ip", "card", "key"], "ip_addresses": "all",
}  # fmt: skip


@given(
    st.text()
    | st.text(alphabet="a@.b1 +-()\t\n\u3000\u200b\u200d🙂é:क\r")
    | st.text(alphabet="0123456789 -+.@:a")
)
def test_clean_twice_is_clean_once(text: str) -> None:
    for rules in (CleanSettings(), CleanSettings(**EVERYTHING)):
        once = clean_text(text, rules)
        assert clean_text(once, rules) == once


def test_changes_are_counted_by_kind() -> None:
    cleaner = Cleaner(CleanSettings(**EVERYTHING))
    raw = ["a\r\nb\x00\x01", "mail me@here.org or you@there.org", "fine", "ﬁne  x \u200b"]
    cleaned = [cleaner.clean(text) for text in raw]
    assert cleaned == ["a\nb", "mail <email> or <email>", "fine", "fine x"]
    changes = cleaner.to_json()["changes"]
    assert {kind: (change["documents"], change["count"]) for kind, change in changes.items()} == {
        "line_ends": (1, 1), "control_characters": (1, 2), "email": (1, 2), "form": (1, 1), "zero_width": (1,
        1),
        "blank_runs": (1, 1), "trailing_blanks": (1, 1),
    }  # fmt: skip
    lost = sum(change["bytes_removed"] - change["bytes_added"] for change in changes.values())
    assert lost == sum(len(text.encode()) for text in raw) - sum(len(text.encode()) for text in cleaned)


def test_code_is_left_alone_unless_it_is_asked_for() -> None:
    rules = CleanSettings(**EVERYTHING)
    code = rules_of_source(rules, "code", {})
    assert (code.white_space, code.private_data, code.zero_width) == ([], [], "remove")
    asked = rules_of_source(rules, "code", {"private_data": ["key"], "form": "none"})
    assert (asked.private_data, asked.form) == (["key"], "none")
    assert rules_of_source(rules, "text", {}) == rules


def test_a_source_may_differ_and_says_what_it_means() -> None:
    given_clean = {"name": "a", "path": "x", "clean": {"form": "none"}}
    settings = CorpusSettings.model_validate({"sources": [given_clean]})
    assert fixed_settings(settings)["sources.0.clean"] == {"form": "none"}
    for wrong in ({"forms": "none"}, {"form": "NFX"}):
        with pytest.raises(ValueError):
            CorpusSettings.model_validate({"sources": [{**given_clean, "clean": wrong}]})


def test_a_record_from_before_a_rule_means_that_it_did_nothing() -> None:
    assert recorded_rules({"form": "none", "control_characters": "keep"}) == CleanSettings(
        form="none", control_characters="keep"
    )
    rules = CleanSettings(**EVERYTHING)
    assert recorded_rules(rules.model_dump(mode="json")) == rules


@given(st.text(alphabet="ab\n é海🙂"), st.integers(4, 40))
def test_cuts_keep_every_byte_and_the_bound(text: str, bound: int) -> None:
    pieces = cut_text(text, bound)
    assert "".join(pieces) == text
    assert all(len(piece.encode()) <= bound for piece in pieces)


def test_cut_stands_after_a_line_end() -> None:
    assert cut_bytes(b"aaa\nbbb\nccc", 9) == [b"aaa\nbbb\n", b"ccc"]


@pytest.mark.parametrize("blank", "\u00a0\u1680\u2000\u2005\u200a\u202f\u205f\u3000")
def test_blanks_beyond_ascii(blank: str) -> None:
    assert clean(f"a{blank}{blank}b", form="none", white_space=["runs"]) == f"a{blank}b"
    assert clean(f"a{blank}\nb", form="none", white_space=["trailing"]) == "a\nb"
    assert clean(f"a\n{blank}\n\n{blank}\nb", form="none", white_space=["blank_lines"]) == "a\n\n\nb"
    assert clean(f"é{blank}b", form="none", white_space=["runs", "trailing", "blank_lines"]) == f"é{blank}b"
