"""Tokenizers in Hugging Face's files give the ids that transformers gives, in a corpus too."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from cluster.errors import RunError, UserError
from data_jobs import open_corpus
from data_jobs.settings import fixed_settings
from data_jobs.tokens.tokenizer import Tokenizer, load_tokenizer
from tests.data_jobs.conftest import fingerprint, make_texts, prepare, settings_for, write_jsonl

TEXTS = [*make_texts(200), "Ünïcode Ärger ÉTÉ it's we'll (a, b)!"]
BERT_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
END = "<|endoftext|>"


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def byte_level(folder: Path) -> None:
    """GPT-2's two files."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=[END],
        show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator(TEXTS, trainer)
    backend.model.save(str(folder))
    write_json(folder / "config.json", {"model_type": "gpt2"})


def word_piece(folder: Path, lower: bool) -> None:
    """BERT's vocab.txt."""
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lower)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=BERT_SPECIALS, show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    backend.model.save(str(folder))
    write_json(folder / "tokenizer_config.json", {"do_lower_case": lower, "tokenizer_class": "BertTokenizer"})


def unigram(folder: Path) -> None:
    """A SentencePiece-like tokenizer.json that puts a blank in front."""
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.save(str(folder / "tokenizer.json"))
    unk = {"__type": "AddedToken", "content": "<unk>", "special": True}
    names = {"eos_token": "</s>", "unk_token": unk, "pad_token": "<pad>"}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})


def saved(write: Callable[[Path], None], folder: Path) -> None:
    """What transformers saves of the same tokenizer: one tokenizer.json."""
    from transformers import AutoTokenizer

    (folder / "own").mkdir()
    write(folder / "own")
    AutoTokenizer.from_pretrained(folder / "own").save_pretrained(folder)


KINDS: dict[str, Callable[[Path], None]] = {
    "byte_level": byte_level,
    "byte_level_json": lambda folder: saved(byte_level, folder),
    "word_piece_lower": lambda folder: word_piece(folder, True),
    "word_piece_cased_json": lambda folder: saved(lambda own: word_piece(own, False), folder),
    "unigram": unigram,
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    KINDS[request.param](path)
    return path


@pytest.fixture(scope="module")
def pair(folder: Path) -> tuple[Tokenizer, Any]:
    """Ours and transformers'."""
    from transformers import AutoTokenizer

    return load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)


TRICKY = st.text(
    alphabet=st.one_of(
        st.sampled_from(" \n\t▁adefTHE'():,.🙂海éÉü\u0301\u200d"), st.characters(codec="utf-8")
    )
)


@given(text=TRICKY)
@example(text="")
@example(text="  The ship, naïve café\tÜBER\n\n größe 海 が  ")
@example(text="e\u0301 ﬁ İ \x00\ufeff\u2028 don't")
def test_ids_are_those_of_transformers(pair: tuple[Tokenizer, Any], text: str) -> None:
    ours, theirs = pair
    assume(not any(special in text for special in theirs.all_special_tokens))
    assert ours.encode(text).tolist() == theirs(text, add_special_tokens=False)["input_ids"]


@given(text=TRICKY)
@example(text="The ship </s> [MASK] went <|endoftext|>. ")
def test_ends_grow_to_the_end_of_the_text(pair: tuple[Tokenizer, Any], text: str) -> None:
    ours, _ = pair
    ids, ends = ours.encode_with_ends([text])[0]
    assert ids.tolist() == ours.encode(text).tolist()
    assert len(ends) == len(ids) and (np.diff(ends) >= 0).all()
    assert not len(ids) or ends[-1] == len(text.encode())
    if ours.lossless:
        assert ours.decode(ids) == text


def test_ends_are_where_the_words_end(pair: tuple[Tokenizer, Any]) -> None:
    text = "größe ship. Norden"
    _, ends = pair[0].encode_with_ends([text])[0]
    assert {len("größe".encode()), len("größe ship.".encode())} <= set(ends.tolist())


def test_a_special_is_never_made_from_text(pair: tuple[Tokenizer, Any]) -> None:
    ours, _ = pair
    never = set(ours.specials.values()) - {ours.specials["unk"]} | {ours.eos_id}
    ids = ours.encode(f"a </s></s> [MASK][SEP] [CLS] {END} <pad> b")
    assert not set(ids.tolist()) & never
    assert all(ours.piece_bytes(token) == b"" for token in ours.specials.values())


def test_the_characters_of_specials_are_as_in_transformers(folder: Path) -> None:
    from transformers import AutoTokenizer

    if folder.name.startswith("unigram"):
        pytest.skip("that model would give the special: its characters are taken apart before it sees them")
    theirs = AutoTokenizer.from_pretrained(folder, split_special_tokens=True)
    for text in (f"a{END} b", "the [MASK] [SEP]", "[CLS]"):
        assert (
            load_tokenizer(folder).encode(text).tolist()
            == theirs(text, add_special_tokens=False)["input_ids"]
        )


def test_the_configuration_stands_above_the_definition(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    saved(lambda own: word_piece(own, False), tmp_path)
    text = "Über the SEA 海"
    before = load_tokenizer(tmp_path).encode(text).tolist()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"do_lower_case": True}
    write_json(tmp_path / "tokenizer_config.json", config)
    after = load_tokenizer(tmp_path).encode(text).tolist()
    assert (
        before
        != after
        == AutoTokenizer.from_pretrained(tmp_path)(text, add_special_tokens=False)["input_ids"]
    )


def test_saved_and_loaded_it_is_the_same(pair: tuple[Tokenizer, Any], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    ours, theirs = pair
    ours.save(tmp_path)
    for other in (load_tokenizer(tmp_path), pickle.loads(pickle.dumps(ours))):  # noqa: S301 (our own object)
        assert (other.fingerprint, other.specials) == (ours.fingerprint, ours.specials)
        assert [a.tolist() for a in other.encode_batch(TEXTS)] == [
            a.tolist() for a in ours.encode_batch(TEXTS)
        ]
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(TEXTS)["input_ids"] == theirs(TEXTS)["input_ids"]  # with the specials around a text
    assert again.all_special_ids == theirs.all_special_ids


def test_specials_and_pieces(tmp_path: Path) -> None:
    byte_level(tmp_path)
    gpt = load_tokenizer(tmp_path)
    end = gpt.specials["eos"]
    assert gpt.specials == {"unk": end, "bos": end, "eos": end} and gpt.pad_id == end and gpt.lossless
    assert sum(gpt.is_byte(token) for token in range(gpt.vocab_size)) == 128
    assert len({gpt.piece_bytes(token) for token in range(gpt.vocab_size)}) == gpt.vocab_size
    with pytest.raises(UserError, match="has no mask token"):
        _ = gpt.mask_id
    (tmp_path / "bert").mkdir()
    word_piece(tmp_path / "bert", lower=True)
    bert = load_tokenizer(tmp_path / "bert")
    assert (
        bert.specials == {"pad": 0, "unk": 1, "eos": 3, "cls": 2, "sep": 3, "mask": 4} and not bert.lossless
    )
    pieces = {bert.piece_bytes(token) for token in range(5, bert.vocab_size)}
    assert b" the" in pieces and any(not piece.startswith(b" ") for piece in pieces)
    assert bert.decode(bert.encode("The SHIP went")) == " the ship went"


def test_fingerprint_is_of_what_it_does(tmp_path: Path) -> None:
    word_piece(tmp_path, lower=True)
    fingerprints = []
    for lower in (True, False, True):
        write_json(
            tmp_path / "tokenizer_config.json", {"do_lower_case": lower, "model_max_length": 7 + lower}
        )
        fingerprints.append(load_tokenizer(tmp_path).fingerprint)
    assert fingerprints[0] == fingerprints[2] != fingerprints[1]


def definition(**model: Any) -> str:
    return json.dumps({"version": "1.0", "added_tokens": [], "model": model})


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "no tokenizer here"),
        ({"spiece.model": "x"}, "spiece.model is the file of a slow tokenizer.*save_pretrained"),
        ({"vocab.pkl": "x"}, "vocab.pkl is the file of a slow"),
        (
            {
                "vocab.json": "{}",
                "merges.txt": "",
                "tokenizer_config.json": '{"tokenizer_class": "CLIPTokenizer"}',
            },
            "CLIPTokenizer of vocab.json and merges.txt is not known",
        ),
        ({"tokenizer.json": "{}", "tokenizer_config.json": "{"}, "tokenizer_config.json: no JSON"),
        (
            {
                "tokenizer.json": definition(type="WordLevel", vocab={"<unk>": 0}, unk_token="<unk>"),
                "tokenizer_config.json": '{"eos_token": "<unk>"}',
            },
            "its model is WordLevel",
        ),
        ({"tokenizer.json": definition(type="BPE", vocab={"a": 0}, merges=[])}, "neither eos_token nor sep"),
    ],
)
def test_what_is_refused(files: dict[str, str], says: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=says):
        load_tokenizer(tmp_path)


def test_a_damaged_file(tmp_path: Path) -> None:
    byte_level(tmp_path)
    (tmp_path / "merges.txt").write_text("nothing of this\n")
    with pytest.raises(RunError, match="damaged"):
        load_tokenizer(tmp_path)


def test_a_corpus_with_a_tokenizer_that_is_there(folder: Path, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", [*TEXTS, "ends </s> [SEP] here <|endoftext|>"])
    settings = settings_for(path, tokenizer={"path": str(folder)})
    manifest = prepare(settings, tmp_path / "one")
    tokenizer = load_tokenizer(folder)
    assert manifest["tokenizer"]["fingerprint"] == tokenizer.fingerprint
    assert manifest["counts"]["documents"]["in"] == manifest["counts"]["documents"]["out"]
    corpus = open_corpus(tmp_path / "one")
    assert corpus.tokenizer.encode(TEXTS[0]).tolist() == tokenizer.encode(TEXTS[0]).tolist()
    stream = corpus.stream("docs", "train")
    assert (stream.read(0, stream.tokens) == tokenizer.eos_id).sum() == stream.documents
    # The place of the tokenizer is no part of the corpus, what it does is.
    tokenizer.save(tmp_path / "elsewhere")
    moved = settings_for(path, tokenizer={"path": str(tmp_path / "elsewhere")})
    assert fixed_settings(moved) == fixed_settings(settings) != fixed_settings(settings_for(path))
    prepare(moved, tmp_path / "two")
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")


def test_sentences_end_at_tokens_of_a_tokenizer_that_loses_blanks(tmp_path: Path) -> None:
    word_piece(tmp_path, lower=True)
    text = "The SHIP went by. Nobody had asked for news!  \n\nWinter light falls."
    path = write_jsonl(tmp_path / "in.jsonl", [text])
    prepare(settings_for(path, tokenizer={"path": str(tmp_path)}, val_fraction=0.0), tmp_path / "out")
    corpus = open_corpus(tmp_path / "out")
    batch = pa.ipc.open_file(corpus.path / corpus.shards[0].name).get_batch(0)
    ids, ends = batch["tokens"][0].as_py(), batch["sentence_ends"][0].as_py()
    assert [corpus.tokenizer.decode(ids[:end]).replace(" ", "")[-1] for end in ends] == [".", "!", "."]
    assert ends[-1] == len(ids) - 1
