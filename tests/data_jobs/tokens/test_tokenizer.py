"""The tokenizer loses nothing and makes no special out of text."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.errors import RunError, UserError
from data_jobs.tokens.tokenizer import NEWLINES, SPECIALS, SentencePieceTokenizer, load_tokenizer
from data_jobs.tokens.tokenizer_settings import TokenizerSettings
from data_jobs.tokens.tokenizer_training import train_tokenizer
from tests.data_jobs.conftest import make_texts

CODE = "def f(x):\n    if x:\n        return [x,\n\n\n                y]\n\tpass\n" * 20
TEXTS = [*make_texts(200), CODE, "\t\tdeep\ttabs\n\t\t\tx", "▁▅ <s> </s> [MASK]"]


KINDS: dict[str, dict[str, Any]] = {
    "bpe": {},
    "bpe_joined": {"join_punctuation": True},
    "unigram": {"kind": "unigram"},
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> SentencePieceTokenizer:
    return train_tokenizer(TEXTS, TokenizerSettings(vocab_size=700, **KINDS[request.param]))


TRICKY = st.text(
    alphabet=st.one_of(st.sampled_from(" \n\t▁▅⁇</s>[MASK]adef():🙂海é\u200d"), st.characters(codec="utf-8"))
)


@given(text=TRICKY)
@example(text="  leading, trailing  ")
@example(text="</s><s><pad>[MASK][CLS]<0x0A><unk>")
@example(text="▁ ▁▁ a▁b ▁c")
@example(text="\n\n\n\n" + " " * 67 + "x\n \n  \n   y\n    \n     z\t\n\t\t\t\t\t\tq ")
@example(text="👩‍👩‍👧‍👦 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U0010ffff \x00\x01\x7f\ufeff")
def test_round_trip(tokenizer: SentencePieceTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids.tolist()) & set(tokenizer.specials.values())
    assert int(tokenizer.piece_lengths[ids].sum()) == len(text.encode())


def test_no_text_and_an_empty_one(tokenizer: SentencePieceTokenizer) -> None:
    assert tokenizer.encode_batch([]) == []
    assert [ids.tolist() for ids in tokenizer.encode_batch(["", "▁", ""])] == [
        [], tokenizer._space_ids.tolist(), []
    ]  # fmt: skip


def test_a_pickled_one_is_the_same(tokenizer: SentencePieceTokenizer) -> None:
    fresh = pickle.loads(pickle.dumps(tokenizer))  # noqa: S301 (our own object)
    for one, other in zip(tokenizer.encode_batch(TEXTS), fresh.encode_batch(TEXTS), strict=True):
        assert np.array_equal(one, other)


def test_specials_and_entries(tokenizer: SentencePieceTokenizer) -> None:
    assert list(tokenizer.specials) == list(SPECIALS)
    assert tokenizer.eos_id == tokenizer.specials["eos"] != tokenizer.pad_id
    assert all(tokenizer.piece_bytes(token) == b"" for token in tokenizer.specials.values())
    assert tokenizer.vocab_size <= 700
    assert len(tokenizer.encode("\n        ")) == 1
    assert len({tokenizer.piece_bytes(t) for t in range(tokenizer.vocab_size)}) > 256 + len(NEWLINES)


def test_save_and_load(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "t")
    loaded = load_tokenizer(tmp_path / "t")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode(CODE).tolist() == tokenizer.encode(CODE).tolist()


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_training_is_deterministic_and_depends_on_the_text(kind: Literal["bpe", "unigram"]) -> None:
    settings = TokenizerSettings(vocab_size=600, kind=kind)
    one, again, other = (train_tokenizer(texts, settings) for texts in (TEXTS, TEXTS, TEXTS[:100]))
    assert one.fingerprint == again.fingerprint != other.fingerprint


@pytest.mark.parametrize("mark", ["\t", "▅"])
def test_texts_with_the_trainers_own_characters_are_not_skipped(mark: str) -> None:
    """SentencePiece leaves out each sentence that holds a tab or U+2585."""
    tokenizer = train_tokenizer(
        [f"{mark}the harbour{mark} the storm\n" * 30], TokenizerSettings(vocab_size=400)
    )
    assert len(tokenizer.encode(" the harbour the storm")) <= 6


def test_many_characters_and_a_small_vocabulary() -> None:
    """More kinds of characters than entries: the frequent ones get entries, the rest is spelled in bytes."""
    texts = ["".join(chr(0x4E00 + (i * 37 + j) % 3000) for j in range(80)) for i in range(300)]
    tokenizer = train_tokenizer(texts, TokenizerSettings(vocab_size=500))
    assert tokenizer.vocab_size <= 500
    assert tokenizer.decode(tokenizer.encode(texts[0])) == texts[0]


@pytest.mark.parametrize("texts", [["海海のあい" * 30] * 20, ["海海のあい" * 3000, "海 い"]])
def test_a_blank_in_a_language_that_has_few_or_none(texts: list[str]) -> None:
    tokenizer = train_tokenizer(texts, TokenizerSettings(vocab_size=500, character_coverage=0.99))
    ids = tokenizer.encode("海 い  ")
    assert tokenizer.decode(ids) == "海 い  " and len(ids) <= 5
    assert int(tokenizer.piece_lengths[ids].sum()) == len("海 い  ".encode())


def test_little_text_gives_a_smaller_vocabulary() -> None:
    tokenizer = train_tokenizer(["a b a b"], TokenizerSettings(vocab_size=5000))
    assert tokenizer.vocab_size < 5000
    assert tokenizer.decode(tokenizer.encode("zebra 海")) == "zebra 海"


def test_a_word_longer_than_the_trainer_takes() -> None:
    tokenizer = train_tokenizer(["海" * 200_000, "x" * 200_000], TokenizerSettings(vocab_size=400))
    assert tokenizer.decode(tokenizer.encode("海" * 999)) == "海" * 999


def test_no_tokenizer_and_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "sentencepiece.model").write_bytes(b"not a model")
    with pytest.raises(RunError, match="damaged"):
        load_tokenizer(tmp_path)
