"""Cleaning: control characters, line ends, forms, cuts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_jobs.cleaning import clean_text, cut_bytes, cut_text


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
    ],
)
def test_clean(raw: str, cleaned: str) -> None:
    assert clean_text(raw, "NFC", "remove") == cleaned


def test_clean_keeps_what_it_is_told_to_keep() -> None:
    assert clean_text("e\u0301\x00\r\n", "none", "keep") == "e\u0301\x00\r\n"


@given(st.text())
def test_clean_twice_is_clean_once(text: str) -> None:
    once = clean_text(text, "NFC", "remove")
    assert clean_text(once, "NFC", "remove") == once


@given(st.text(alphabet="ab\n é海🙂"), st.integers(4, 40))
def test_cuts_keep_every_byte_and_the_bound(text: str, bound: int) -> None:
    pieces = cut_text(text, bound)
    assert "".join(pieces) == text
    assert all(len(piece.encode()) <= bound for piece in pieces)


def test_cut_stands_after_a_line_end() -> None:
    assert cut_bytes(b"aaa\nbbb\nccc", 9) == [b"aaa\nbbb\n", b"ccc"]
