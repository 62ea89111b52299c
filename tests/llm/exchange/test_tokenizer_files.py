"""What we write of a tokenizer gives transformers our ids, and the text back."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, pre_tokenizers, processors
from tokenizers.models import BPE

from cluster.errors import RunError, UserError
from data_jobs.tokens.tokenizer import SPECIALS, SentencePieceTokenizer, load_tokenizer
from data_jobs.tokens.tokenizer_hf import HuggingFaceTokenizer
from data_jobs.tokens.tokenizer_settings import TokenizerSettings
from data_jobs.tokens.tokenizer_training import train_tokenizer
from llm.exchange import tokenizer_files
from llm.exchange.tokenizer_files import write_tokenizer
from llm.generate import masked_row
from tests.data_jobs.conftest import make_texts

LIBRARY = Path(os.__file__).parent
CODE = [(LIBRARY / f"{name}.py").read_text() for name in ("argparse", "textwrap", "tarfile", "turtle")]
_draw = random.Random(0)
CHINESE = ["".join(chr(0x4E00 + int(300 * _draw.random() ** 3)) for _ in range(400)) for _ in range(80)]
CORPORA = {
    "code": (CODE, 2000, False),
    "code_joined": (CODE, 8000, True),
    "prose": (make_texts(200), 500, False),
    "chinese": (CHINESE, 1500, True),
}
RUNS = [
    *(" " * n for n in range(1, 51)),
    *("a" + " " * n + "b" for n in range(1, 51)),
    *("\n" * lines + " " * n + "x" for lines in (1, 2, 3, 4) for n in range(40)),
    *("\n" * lines + "\t" * n + "x" for lines in (1, 2, 3) for n in range(8)),
    *(sign * n for sign in "=-#_.\"'0a海*/" for n in range(1, 40)),
]
# Entries of few letters overlap in many ways.
RUNS += ["".join(_draw.choice("er otx0 \n") for _ in range(60)) for _ in range(500)]


@pytest.fixture(scope="module", params=CORPORA)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SentencePieceTokenizer, Any]:
    from transformers import AutoTokenizer

    texts, size, joined = CORPORA[request.param]
    tokenizer = train_tokenizer(texts, TokenizerSettings(vocab_size=size, join_punctuation=joined))
    folder = tmp_path_factory.mktemp(request.param)
    write_tokenizer(tokenizer, folder, "gpt", 1 << 20)
    return tokenizer, AutoTokenizer.from_pretrained(folder)


def same(pair: tuple[SentencePieceTokenizer, Any], text: str) -> None:
    ours, theirs = pair
    ids = theirs(text)["input_ids"]
    assert ids == [ours.eos_id, *ours.encode(text).tolist()]
    assert theirs.decode(ids[1:]) == theirs.decode(ids, skip_special_tokens=True) == text


TRICKY = st.text(
    alphabet=st.one_of(st.sampled_from(" \n\t▁▅⁇</s>[MASK]adef():🙂海é\u200d"), st.characters(codec="utf-8"))
)


@given(text=TRICKY)
@example(text="")
@example(text="  leading, trailing  ")
@example(text="</s><s><pad>[MASK][CLS]<0x0A><unk>")
@example(text="▁ ▁▁ a▁b ▁c")
@example(text="\n\n\n\n" + " " * 67 + "x\n \n  \n   y\n    \n     z\t\n\t\t\t\t\t\tq ")
@example(text="👩‍👩‍👧‍👦 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U0010ffff \x00\x01\x7f\ufeff e\u0301\u0302")
def test_any_text(pair: tuple[SentencePieceTokenizer, Any], text: str) -> None:
    same(pair, text)


def test_documents_and_runs(pair: tuple[SentencePieceTokenizer, Any]) -> None:
    ours, theirs = pair
    texts = [*CODE[:2], *CHINESE[:20], *make_texts(50), *RUNS]
    ids = theirs(texts)["input_ids"]
    assert ids == [[ours.eos_id, *own.tolist()] for own in ours.encode_batch(texts)]
    assert theirs.decode(ids, skip_special_tokens=True) == texts


def test_sizes_and_specials(pair: tuple[SentencePieceTokenizer, Any]) -> None:
    ours, theirs = pair
    assert len(theirs) == ours.vocab_size
    specials = ours.specials | {"bos": ours.eos_id}  # what texts of ours begin with
    assert {name: getattr(theirs, f"{name}_token_id") for name in SPECIALS} == specials
    assert sorted(theirs.all_special_ids) == sorted(set(specials.values()))
    assert theirs.model_input_names == ["input_ids", "attention_mask"]


def test_a_unigram_is_refused(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(make_texts(50), TokenizerSettings(vocab_size=400, kind="unigram"))
    with pytest.raises(UserError, match="is a SentencePiece unigram: only a bpe"):
        write_tokenizer(tokenizer, tmp_path, "gpt", 64)


def test_of_a_bert(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = train_tokenizer(make_texts(100), TokenizerSettings(vocab_size=500))
    write_tokenizer(tokenizer, tmp_path, "bert", 64)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    a, b = (tokenizer.encode(text).tolist() for text in ("the sea", "a ship\n    went"))
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    pair = theirs("the sea", "a ship\n    went")
    assert pair["input_ids"] == [cls, *a, sep, *b, sep]
    assert pair["token_type_ids"] == [0] * (len(a) + 2) + [1] * (len(b) + 1)
    assert theirs("the sea")["input_ids"] == [cls, *a, sep] and theirs.model_max_length == 64
    # '[MASK]' is the special, unless it is asked not to be.
    assert theirs("the [MASK]", add_special_tokens=False)["input_ids"][-1] == tokenizer.mask_id
    plain = AutoTokenizer.from_pretrained(tmp_path, split_special_tokens=True)
    ids = plain("the\n[MASK]</s>", add_special_tokens=False)["input_ids"]
    assert ids == tokenizer.encode("the\n[MASK]</s>").tolist()
    # Read by us, a mask in a text is characters, and they keep the blank before them.
    again = load_tokenizer(tmp_path)
    assert again.encode("the [MASK]</s>").tolist() == tokenizer.encode("the [MASK]</s>").tolist()
    assert again.lossless and again.mask_id == tokenizer.mask_id


@pytest.mark.parametrize(
    "text",
    [
        *("the [MASK] of", "[MASK] of", " [MASK]", "the[MASK]of", "the  [MASK]  of", "[MASK] [MASK] [MASK]."),
        *(
            "a\n[MASK]",
            "a\n [MASK]",
            "a\n    [MASK] b",
            "a\n     [MASK]",
            "a\n\n        [MASK]\n",
            "a\t[MASK]",
        ),
        *("a\n" + " " * n + "[MASK]" for n in (3, 6, 31, 32, 33, 36, 40)),
        *("the \u00a0[MASK]", "\r [MASK]", "\u2581 [MASK] \u6d77[MASK]"),
    ],
)
def test_masks_stand_where_ours_do(
    pair: tuple[SentencePieceTokenizer, Any], text: str, tmp_path: Path
) -> None:
    """With the blanks around them: in transformers, and in the tokenizer that comes in again."""
    from transformers import AutoTokenizer

    ours, _ = pair
    write_tokenizer(ours, tmp_path, "bert", 64)
    row = masked_row(ours, text)
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == row
    assert masked_row(load_tokenizer(tmp_path), text) == row


@pytest.mark.parametrize("byte_level", [False, True])
def test_a_foreign_tokenizer_of_a_run_begins_texts_as_the_run_does(byte_level: bool, tmp_path: Path) -> None:
    """A model that was imported and trained here: its template changes, and nothing else."""
    from transformers import AutoTokenizer

    backend = Backend(BPE({"<s>": 0, "<e>": 1, "a": 2, "b": 3, "ab": 4, "\u0120": 5}, [("a", "b")]))
    backend.add_special_tokens(["<s>", "<e>"])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    template = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    backend.post_processor = processors.ByteLevel(trim_offsets=True) if byte_level else template
    backend.save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<e>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = load_tokenizer(tmp_path)
    assert isinstance(theirs, HuggingFaceTokenizer)
    assert theirs.text_start == ([] if byte_level else [0])
    # What goes out as it came does what it did.
    write_tokenizer(theirs, tmp_path / "same", "gpt", 64)
    same = AutoTokenizer.from_pretrained(tmp_path / "same")
    assert same("ab")["input_ids"] == [*theirs.text_start, 4] and same.bos_token == "<s>"
    own = theirs.starting_with_eos()
    write_tokenizer(own, tmp_path / "own", "gpt", 64)
    loaded, again = AutoTokenizer.from_pretrained(tmp_path / "own"), load_tokenizer(tmp_path / "own")
    assert loaded("ab")["input_ids"] == [1, 4] and loaded("a", "b")["input_ids"] == [1, 2, 3]
    assert loaded.bos_token == loaded.eos_token == "<e>"
    assert isinstance(again, HuggingFaceTokenizer)
    assert again.text_start == [1] and again.starting_with_eos() is again
    assert again.encode("ab a").tolist() == theirs.encode("ab a").tolist()


def test_what_is_written_comes_in_again(pair: tuple[SentencePieceTokenizer, Any], tmp_path: Path) -> None:
    """Our other tokenizer reads these files, and writes them as they came."""
    ours, _ = pair
    write_tokenizer(ours, tmp_path / "one", "gpt", 64)
    again = load_tokenizer(tmp_path / "one")
    assert again.lossless and again.vocab_size == ours.vocab_size
    assert again.specials == ours.specials | {"bos": ours.eos_id}
    texts = [*CODE[:1], *RUNS, "▁<0x41></s>\x00 e\u0301"]
    assert [ids.tolist() for ids in again.encode_batch(texts)] == [
        ids.tolist() for ids in ours.encode_batch(texts)
    ]
    for token in set(range(ours.vocab_size)) - {ours.bos_id}:  # it has no name there, and stands nowhere
        assert again.piece_bytes(token) == ours.piece_bytes(token) and again.is_byte(token) == ours.is_byte(
            token
        )
    write_tokenizer(again, tmp_path / "two", "gpt", 64)
    assert load_tokenizer(tmp_path / "two").fingerprint == again.fingerprint


def test_an_order_of_merges_that_gives_other_ids_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = train_tokenizer(make_texts(100), TokenizerSettings(vocab_size=500))
    tokenizer_files.to_backend(tokenizer)
    monkeypatch.setattr(
        tokenizer, "entries", lambda: [(piece, -score) for piece, score in _entries(tokenizer)]
    )
    with pytest.raises(RunError, match="would be other tokens"):
        tokenizer_files.to_backend(tokenizer)


_entries = SentencePieceTokenizer.entries
