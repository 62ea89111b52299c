"""Repair of wrong decoding: what it repairs, what it leaves, and that its quick test misses nothing."""

from __future__ import annotations

import ftfy
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_jobs.cleaning.encoding import is_suspicious, repair_encoding

TEXTS = [
    "Naïve café, über größe: “quoted” – dashed… it’s €5",
    "Ça va, l’été à l’École près du cœur",
    "Žluťoučký kůň úpěl ďábelské ódy",
    "Zażółć gęślą jaźń, łódź",
    "Съешь ещё этих мягких французских булок",
    "Γαζέες καὶ μυρτιὲς δὲν θὰ βρῶ πιά",
    "العربية لغة جميلة",
    "日本語の文章、中文的句子。한국어 문장",
    "हिन्दी में एक वाक्य",
    "emoji 🙂 and ☂, 3 × 4² ≠ 5°, £3, ¥4, §7, ©",
    "Tiếng Việt có dấu",
    "naïveté — “coöperate” «guillemets» ¿qué? ¡sí!",
]
WRONG = ["latin-1", "windows-1252", "windows-1251", "windows-1250", "windows-1253", "windows-1254",
"windows-1257",
         "iso-8859-2", "macroman", "cp437"]  # fmt: skip


def garbled(text: str, encoding: str) -> str:
    """UTF-8 read as something else, as far as it can be."""
    return text.encode().decode(encoding, "ignore")


@pytest.mark.parametrize("text", TEXTS)
def test_clean_text_is_left_alone(text: str) -> None:
    assert repair_encoding(text) == (text, 0)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("encoding", WRONG)
def test_each_line_is_what_ftfy_makes_of_it(text: str, encoding: str) -> None:
    """Whole texts, each of their words, and each of them twice garbled: where ftfy repairs, it is asked."""
    once = garbled(text, encoding)
    for line in (once, *once.split(), garbled(once, encoding), f"plain words before {once}"):
        fixed = ftfy.fix_encoding(line)
        assert repair_encoding(line) == (fixed, int(fixed != line))


@settings(max_examples=500)
@given(
    st.text(
        st.sampled_from(
            "aB .?ÂÃâÐÑŸœŒĂ€™œ\xa0\x80\x93\x9d°±²³µ¹º¼½×ØÙà‚√≈вЂГўВΒ„ ā’“”‘–—…┬├\ufffdé·´¡¿«»ß©®£"
        ),
        max_size=8,
    )
)
@example("ГўВЂВ™s ")
@example("œ!")
@example("à²")
def test_the_quick_test_misses_nothing(line: str) -> None:
    if ftfy.fix_encoding(line) != line:
        assert is_suspicious(line)


@pytest.mark.parametrize(
    ("text", "encoding"), [("аа", "windows-1251"), ("مم", "windows-1252"), ("ѓ", "latin-1")]
)
def test_words_without_a_rare_character(text: str, encoding: str) -> None:
    """Wrong decoding that gives everyday letters alone, or nearly."""
    assert repair_encoding(garbled(text, encoding)) == (text, 1)


def test_lines_are_repaired_by_themselves() -> None:
    text = "good: café\nbad: cafÃ©\n\nПривет\nagain: itâ€™s\nend"
    assert repair_encoding(text) == ("good: café\nbad: café\n\nПривет\nagain: it’s\nend", 2)


@pytest.mark.parametrize("text", ["", "\n", "Ã", "cafÃ©", "\x80", "a\n\xa0\n"])
def test_twice_is_once(text: str) -> None:
    once = repair_encoding(text)[0]
    assert repair_encoding(once) == (once, 0)
