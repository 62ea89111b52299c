"""Cut and remembered, a text has the ids and the ends that SentencePiece gives for the whole of it."""

from __future__ import annotations

import functools
import io
import itertools
import re
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sentencepiece
from hypothesis import example, given
from hypothesis import strategies as st

from data_jobs.tokens.sentencepiece_file import BYTE, CONTROL, FIXED, NORMAL, UNKNOWN, ModelFile, read_model
from data_jobs.tokens.text_column import TextColumn, TokenColumn
from data_jobs.tokens.tokenizer import NEWLINES, SPACE, SentencePieceTokenizer
from data_jobs.tokens.tokenizer_settings import TokenizerSettings
from data_jobs.tokens.tokenizer_training import train_tokenizer
from data_jobs.tokens.word_cache import _FIRST_ENTRIES, WordCache
from data_jobs.tokens.word_cuts import cuts_of
from tests.data_jobs.conftest import make_texts

CODE = "def f(x):\n    if x:\n        return [x,\n\n\n                y]\n\tpass\n" * 20
CHINESE = "今天下雨，明天呢？船在海上走，海在船下流。天下的船，都在海上；海里的鱼在船下游。"
TEXTS = [*make_texts(200), CODE, "\t\tdeep\ttabs\n\t\t\tx", CHINESE * 30, "▁▅ <s> </s> [MASK]"]
STDLIB = Path(sysconfig.get_paths()["stdlib"])
# Prose, tables, other scripts, odd characters, long lines, little and much indentation.
FILES = [
    "this.py", "argparse.py", "ast.py", "base64.py", "bdb.py", "calendar.py", "codecs.py", "copy.py",
    "datetime.py", "decimal.py", "difflib.py", "dis.py", "functools.py", "html/entities.py", "inspect.py",
    "json/decoder.py", "keyword.py", "locale.py", "logging/__init__.py", "mimetypes.py", "nturl2path.py",
    "pickletools.py", "pydoc.py", "pydoc_data/topics.py", "random.py", "re/_parser.py", "sre_constants.py",
    "statistics.py", "stringprep.py", "tarfile.py", "token.py", "turtle.py", "typing.py", "unittest/mock.py",
    "xml/dom/minidom.py", "encodings/cp037.py", "encodings/idna.py", "encodings/aliases.py", "LICENSE.txt",
]  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "apart": {"vocab_size": 900},
    "joined": {"vocab_size": 900, "join_punctuation": True},
    "rich": {"vocab_size": 4000},
}


def plain(tokenizer: SentencePieceTokenizer, texts: list[str]) -> TokenColumn:
    """By SentencePiece alone."""
    lists = tokenizer.encode_plainly(texts)
    return TokenColumn.of_pairs([(ids, np.cumsum(tokenizer.piece_lengths[ids])) for ids in lists])


def assert_equal(found: TokenColumn, expected: TokenColumn) -> None:
    for name in TokenColumn._fields:
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == other.dtype and np.array_equal(one, other), name


@functools.cache
def library() -> list[str]:
    """Files of the standard library, as far as this installation has them."""
    found = [STDLIB / name for name in FILES if (STDLIB / name).is_file()]
    assert len(found) > 24
    return [path.read_text(encoding="utf-8") for path in found]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> SentencePieceTokenizer:
    texts = [*TEXTS, *library()[::7]] if request.param == "rich" else TEXTS
    return train_tokenizer(texts, TokenizerSettings.model_validate(KINDS[request.param]))


def new_cache(tokenizer: SentencePieceTokenizer, **changes: Any) -> WordCache:
    cuts = cuts_of(tokenizer._file)
    assert cuts is not None
    known = {SPACE: tokenizer._space_ids.tolist()}
    return WordCache(cuts, tokenizer._by_library, known, tokenizer.piece_lengths, **changes)


def test_the_standard_library(tokenizer: SentencePieceTokenizer) -> None:
    texts = library()
    cache = new_cache(tokenizer)
    expected = plain(tokenizer, texts)
    for _ in ("cold", "warm"):
        assert_equal(cache.encode(TextColumn.of_texts(texts)), expected)
    # With rich entries there are many kinds of units, and the table has grown.
    assert len(cache._table) > 2 * _FIRST_ENTRIES or tokenizer.vocab_size < 4000


TRICKY = st.text(
    alphabet=st.one_of(
        st.sampled_from(
            " \n\t▁▅⁇</s>[MASK]adefthe():,，。今天下雨船海🙂é\u0301\u200d"
            "\x00\x01\x7f\x85\xa0\u2028\ufeff\ufffd\uffff"
        ),
        st.characters(codec="utf-8"),
    ),
    max_size=60,
)


@given(texts=st.lists(st.one_of(TRICKY, st.sampled_from(TEXTS)), max_size=5))
@example(texts=[CODE, "", "▁", "", " ", "\n", "▁▁ ▁a ▁\n▁    ▁\t"])
@example(
    texts=["a    b\n      c\n\n\n\t\t d" + "\n" * 5 + " " * 40 + "e", "    at the beginning", "end    \n"]
)
@example(texts=["\n" + " " * 33 + "x", "\n\n\n\n    \n\t\n \n  \t\t\t\t\t\tq ", "x\n", "\n\n" + " " * 31])
@example(texts=["ab\x00\x00ab", "👩‍👩‍👧‍👦 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U0010ffff \ufffd", "\xe2\x96\x81 â–", CHINESE])
def test_generated_texts(tokenizer: SentencePieceTokenizer, texts: list[str]) -> None:
    cache: WordCache | None = tokenizer._words  # the same one for all examples: what was there stays right
    assert cache is not None
    assert_equal(cache.encode(TextColumn.of_texts(texts)), plain(tokenizer, texts))


@given(texts=st.lists(TRICKY, min_size=2, max_size=8), cut=st.integers(1, 7))
def test_a_batch_decides_nothing(tokenizer: SentencePieceTokenizer, texts: list[str], cut: int) -> None:
    cache = tokenizer._words
    assert cache is not None
    parts = [cache.encode(TextColumn.of_texts(some)) for some in (texts[:cut], texts[cut:])]
    whole = cache.encode(TextColumn.of_texts(texts))
    pairs = [pair for part in parts for pair in zip(part.lists(), split_ends(part), strict=True)]
    assert_equal(whole, TokenColumn.of_pairs(pairs))


def split_ends(tokens: TokenColumn) -> list[Any]:
    return np.split(tokens.ends, tokens.bounds[1:-1]) if len(tokens.bounds) > 1 else []


def test_a_full_cache_starts_anew(tokenizer: SentencePieceTokenizer) -> None:
    cache = new_cache(tokenizer, most_bytes=20_000)
    held = []
    for text in library()[:12]:
        assert_equal(cache.encode(TextColumn.of_texts([text])), plain(tokenizer, [text]))
        held.append(cache.held_bytes)
    assert any(after < before for before, after in itertools.pairwise(held))


def test_one_endless_word(tokenizer: SentencePieceTokenizer) -> None:
    """Longer than a call of SentencePiece takes, and than the arena at first."""
    texts = ["the" * 700_000, "x" * 3_000_000, " " * 2_000_000 + "a"]
    cache = new_cache(tokenizer)
    assert_equal(cache.encode(TextColumn.of_texts(texts)), plain(tokenizer, texts))


def test_what_failed_leaves_nothing_half(tokenizer: SentencePieceTokenizer) -> None:
    cuts = cuts_of(tokenizer._file)
    assert cuts is not None
    calls: list[int] = []

    def encode(texts: list[str]) -> list[Any]:
        calls.append(len(texts))
        if len(calls) == 1:
            raise MemoryError
        return tokenizer._by_library(texts)

    cache = WordCache(cuts, encode, {SPACE: tokenizer._space_ids.tolist()}, tokenizer.piece_lengths)
    with pytest.raises(MemoryError):
        cache.encode(TextColumn.of_texts(TEXTS))
    assert_equal(cache.encode(TextColumn.of_texts(TEXTS)), plain(tokenizer, TEXTS))


def test_an_equal_hash_is_not_enough(tokenizer: SentencePieceTokenizer) -> None:
    """Long units are found by a hash, and then compared: here another one stands where it leads to."""
    cache = new_cache(tokenizer)
    cache.encode(TextColumn.of_texts(library()[:6]))
    at = cache._arena_at[: cache._entries + 1]
    entry = int(np.flatnonzero(np.diff(at) > 8 + 1)[-1])
    unit = cache._arena[at[entry] : at[entry + 1] - 1].tobytes().decode()
    cache._arena[at[entry]] ^= 1
    before = cache._entries
    assert_equal(cache.encode(TextColumn.of_texts([unit] * 2)), plain(tokenizer, [unit] * 2))
    assert cache._entries == before + 1


def test_the_tokenizer_takes_it_for_much_text(tokenizer: SentencePieceTokenizer) -> None:
    fresh = SentencePieceTokenizer(tokenizer._model)
    little = fresh.encode_batch(["the sea"])
    assert "_words" not in vars(fresh)  # a prompt does not wait for a cache
    texts = library()[:6]
    expected = plain(tokenizer, texts)
    assert [ids.tolist() for ids in fresh.encode_batch(texts)] == [ids.tolist() for ids in expected.lists()]
    assert "_words" in vars(fresh)
    assert_equal(fresh.encode_column(TextColumn.of_texts(texts)), expected)
    assert fresh.encode("the sea").tolist() == little[0].tolist()


def test_an_arrow_column_with_an_offset() -> None:
    texts = ["one", "", "drei 海", "▁"]
    array = pa.array(["before", *texts, "after"], pa.large_string()).slice(1, 4)
    column = TextColumn.of_arrow(array)
    assert column.texts() == texts and column.bounds[0] == 0
    assert TextColumn.of_arrow(array.slice(0, 0)).texts() == []
    kept = column.take(np.array([True, False, True, False]))
    assert kept.texts() == ["one", "drei 海"] and kept.sizes.tolist() == [3, 8]


def test_no_unit_holds_a_cut(tokenizer: SentencePieceTokenizer) -> None:
    """The law read off the vocabulary itself: what is joined stands side by side in an entry."""
    cuts = cuts_of(tokenizer._file)
    assert cuts is not None and cuts.separator is not None and chr(cuts.separator[0]) == "\t"
    inside = {
        text[at : at + 2].replace(SPACE, " ")
        for text, kind in tokenizer._file.pieces
        if kind in (NORMAL, FIXED)
        for at in range(len(text) - 1)
    }
    cache = new_cache(tokenizer)
    cache.encode(TextColumn.of_texts(TEXTS))
    at = cache._arena_at[: cache._entries + 1].tolist()
    units = [cache._arena[a : b - 1].tobytes().decode() for a, b in itertools.pairwise(at)]
    assert len(units) == len(set(units)) > 300
    assert max(map(len, units)) > 3
    assert all(unit[i : i + 2] in inside for unit in units for i in range(len(unit) - 1))
    prose = [unit for unit in units if re.search(r"\w", unit) and unit not in cuts.fixed]
    assert not any(re.search(r"[^ ] |\n", unit) for unit in prose)  # a blank begins a unit


def test_the_model_file_is_read_as_the_library_reads_it(tokenizer: SentencePieceTokenizer) -> None:
    file, library_ = read_model(tokenizer._model), tokenizer._processor
    assert [text for text, _ in file.pieces] == [library_.id_to_piece(i) for i in range(tokenizer.vocab_size)]
    kinds = [kind for _, kind in file.pieces]
    assert [kind == BYTE for kind in kinds] == [library_.is_byte(i) for i in range(len(kinds))]
    assert [kind == CONTROL for kind in kinds] == [library_.is_control(i) for i in range(len(kinds))]
    assert [kind == UNKNOWN for kind in kinds] == [library_.is_unknown(i) for i in range(len(kinds))]
    assert {text for text, kind in file.pieces if kind == FIXED} == set(NEWLINES)
    assert (file.algorithm, file.byte_fallback, file.takes_text_as_it_is) == ("bpe", True, True)


def foreign(**changes: Any) -> bytes:
    """A model as others train it."""
    settings = {
        "model_type": "bpe", "vocab_size": 500, "byte_fallback": True, "normalization_rule_name": "identity",
        "add_dummy_prefix": False, "remove_extra_whitespaces": False, "hard_vocab_limit": False,
    }  # fmt: skip
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, minloglevel=2, **settings | changes
    )
    return model.getvalue()


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "unigram"},
        {"byte_fallback": False},
        {"add_dummy_prefix": True},
        {"remove_extra_whitespaces": True},
        {"normalization_rule_name": "nmt_nfkc"},
        {"user_defined_symbols": ["a b"]},
    ],
)
def test_models_that_cannot_be_cut_take_the_plain_path(changes: dict[str, Any]) -> None:
    model = foreign(**changes)
    assert cuts_of(read_model(model)) is None
    tokenizer = SentencePieceTokenizer(model)
    texts = [CODE * 60, TEXTS[0]]
    assert tokenizer._words_for(1 << 20) is None
    found = [ids.tolist() for ids in tokenizer.encode_batch(texts)]
    assert found == [ids.tolist() for ids in tokenizer.encode_plainly(texts)]


@pytest.mark.parametrize(
    ("symbols", "separator"),
    [
        ([], None),
        (["<x>", "<x>y", "ab"], None),  # of one byte there is none
        (["|", "|>", "a"], ord("a")),  # | goes on
        (["|", "b|c"], None),  # b is no entry, so that b|c may begin inside a unit
        (["|", "b|c", "b"], ord("|")),  # b is one, so that b|c begins at no other place
        (["|", "h|c", "h", "th"], ord("|")),  # "th" may stand behind letters that are joined
    ],
)
def test_foreign_fixed_entries(symbols: list[str], separator: int | None) -> None:
    tokenizer = SentencePieceTokenizer(foreign(user_defined_symbols=symbols))
    cuts = cuts_of(tokenizer._file)
    assert cuts is not None and set(cuts.fixed) == set(symbols)
    assert (cuts.separator or (None,))[0] == separator
    texts = [
        *TEXTS,
        "ab|c b|cd|>a| <x>y<x> ab|cb|c|",
        "a" * 100,
        "|" * 9,
        "<x",
        "b|",
        "|>|>b",
        "with|d bith|c white|",
    ]
    assert_equal(new_cache(tokenizer).encode(TextColumn.of_texts(texts)), plain(tokenizer, texts))


def test_an_unused_entry_is_not_cut() -> None:
    """SentencePiece takes it apart again as it was first made anywhere in the text."""
    pieces = [("a", NORMAL), ("b", NORMAL), ("ab", 5)]
    assert cuts_of(ModelFile(pieces, "bpe", True, True)) is None
    assert cuts_of(ModelFile(pieces[:2], "bpe", True, True)) is not None
