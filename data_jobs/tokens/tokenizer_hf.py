"""A tokenizer of Hugging Face's, by their `tokenizers` library (`tokenizer_hf_folder.py` reads their files).

It is one definition, the text of a tokenizer.json, which is what is saved, hashed and pickled. The ids are
those of `transformers.AutoTokenizer` without added specials, but for a text with a special's own characters:
those stay characters here.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, processors
from tokenizers import Tokenizer as Backend

from cluster import places
from cluster.errors import UserError
from cluster.places import Place, to_json, write_bytes, write_json
from data_jobs.hashes import sha256
from data_jobs.tokens.tokenizer import SPACE, SPECIALS, Ids, Tokenizer

TOKENIZER_FILE, CONFIG_FILE, SPECIALS_FILE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
# Texts that no tokenizer gives back whole which loses or adds anything: blanks, forms, case, rare characters.
_PROBES = (
    "a b",
    " a",
    "a  b\t\n\n  \u00c9\n",
    "e\u0301 \u212b \u6d77 \U0001f642\u200d \x00\u2581 \ufb01 \u0130s",
    "\n",
)


def blank_before(mask: str) -> dict[str, Any]:
    """A normalizer: the blank before a mask belongs to it (why: `llm/exchange/tokenizer_files.py`)."""
    return {"type": "Replace", "pattern": {"String": f" {mask}"}, "content": mask}


class HuggingFaceTokenizer(Tokenizer):
    """A definition, the names of its specials, and what else its tokenizer_config.json said.

    Where no end is named, as for a BERT, `eos` is `sep`: it ends documents in a corpus, and stands nowhere
    else there.
    """

    kind = "huggingface"

    def __init__(self, definition: str, names: dict[str, str], config: dict[str, Any]) -> None:
        """`names`: pad, unk, bos, eos, cls, sep, mask to the token's text. UserError where it is unfit."""
        self._arguments = (definition, names, config)
        parts = json.loads(definition)
        backend = Backend.from_str(definition)
        backend.no_truncation()
        backend.no_padding()
        if parts.get("normalizer") == blank_before(names.get("mask", "")):
            backend.normalizer = None  # a mask is never made from text here: its characters keep their blank
        backend.encode_special_tokens = True  # a special is never made from text
        self._backend = backend
        ids = {name: backend.token_to_id(text) for name, text in names.items()}
        if missing := [names[name] for name, token in ids.items() if token is None]:
            raise UserError(f"tokenizer: its special tokens {', '.join(missing)} are not in its vocabulary")
        found = {name: token for name, token in ids.items() if token is not None}
        if "eos" not in found and "sep" in found:
            found["eos"] = found["sep"]
        if "eos" not in found:
            raise UserError(
                "tokenizer: it names neither eos_token nor sep_token, and a corpus needs one to end "
                f"documents: add it to {CONFIG_FILE}"
            )
        self.specials = {name: found[name] for name in SPECIALS if name in found}
        self.fingerprint = f"{self.kind}:{sha256(to_json([parts, self.specials]))}"
        pieces = {token: text for text, token in backend.get_vocab(with_added_tokens=True).items()}
        self.vocab_size = max(pieces) + 1
        added = {token: text.content for token, text in backend.get_added_tokens_decoder().items()}
        spell = _Spelling(parts)
        own = set(self.specials.values())
        self._bytes = [b""] * self.vocab_size
        for token, piece in pieces.items():
            if token not in own:
                self._bytes[token] = added[token].encode() if token in added else spell.bytes_of(piece)
        self._byte_ids = {
            token for token, piece in pieces.items() if token not in added and spell.is_byte(piece)
        }
        self.piece_lengths = np.array([len(data) for data in self._bytes], np.int64)
        # unk may come of a text, where its characters have no entry.
        self._forbidden = np.array(sorted(own - {self.specials.get("unk")} | {self.eos_id}), np.uint32)
        self._marks = sorted({text for text in names.values() if len(text) > 1}, key=len, reverse=True)
        self.text_start = self._text_start()
        """The ids that the tokenizer's own template puts before a text: what its model begins with."""
        self.lossless = all(
            b"".join(self._bytes[token] for token in ids) == text.encode()
            for text, ids in zip(_PROBES, self.encode_batch(_PROBES))
        )

    @property
    def special_texts(self) -> dict[str, int]:
        """See `Tokenizer`: the named ones, and those that the definition adds as specials beside them."""
        added = self._backend.get_added_tokens_decoder().items()
        found = {text.content: token for token, text in added if text.special}
        for text in self._arguments[1].values():
            if (token := self._backend.token_to_id(text)) is not None:
                found[text] = token
        return found

    def _text_start(self) -> list[int]:
        encoding = self._backend.encode("a")
        return [ids for ids, _ in itertools.takewhile(lambda pair: pair[1], _marked(encoding))]

    def starting_with_eos(self) -> HuggingFaceTokenizer:
        """This one, with a template that puts its eos, as its bos, before a text and nothing after it.

        Itself where it does so already.
        """
        if self.text_start == [self.eos_id]:
            return self
        names = self._arguments[1]
        eos = names.get("eos") or names["sep"]
        own = {"bos": eos, "eos": eos}
        return self._with_template([eos, "$A"], [eos, "$A", "$B"], {eos: self.eos_id}, own)

    def ending_with_eos(self, start: Sequence[int]) -> HuggingFaceTokenizer:
        """This one, with a template that puts these tokens before a text and its eos after each."""
        names = self._arguments[1]
        eos = names.get("eos") or names["sep"]
        ids = {str(self._backend.id_to_token(token)): token for token in start}
        single = [*ids, "$A", eos]
        return self._with_template(single, [*single, "$B", eos], ids | {eos: self.eos_id}, {})

    def _with_template(
        self, single: list[str], pair: list[str], ids: dict[str, int], own: dict[str, str]
    ) -> HuggingFaceTokenizer:
        """This one, with another template; `ids` of its specials, `own` names that they get."""
        definition, names, config = self._arguments
        parts = json.loads(definition)
        template = processors.TemplateProcessing(single=single, pair=pair, special_tokens=list(ids.items()))
        old = parts.get("post_processor")
        # The one that may stay: it adds nothing, and mends offsets.
        kept = [part for part in _parts(old, "processors") if part["type"] == "ByteLevel"]
        new = json.loads(template.__getstate__())
        parts["post_processor"] = {"type": "Sequence", "processors": [*kept, new]} if kept else new
        text = json.dumps(parts, ensure_ascii=False)
        return HuggingFaceTokenizer(text, names | own, config)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """See `Tokenizer`."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        lists = [np.array(encoding.ids, np.uint32) for encoding in encodings]
        return [
            self._without_specials(text)[0] if np.isin(ids, self._forbidden).any() else ids
            for text, ids in zip(texts, lists, strict=True)
        ]

    def encode_with_ends(self, texts: Sequence[str]) -> list[tuple[Ids, npt.NDArray[np.int64]]]:
        """See `Tokenizer`; the last end is the text's."""
        if self.lossless:
            return super().encode_with_ends(texts)
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        found = []
        for text, encoding in zip(texts, encodings, strict=True):
            ids = np.array(encoding.ids, np.uint32)
            ends = np.array([stop for _, stop in encoding.offsets], np.int64)
            if np.isin(ids, self._forbidden).any():
                ids, ends = self._without_specials(text)
            found.append((ids, _byte_ends(text, ends)))
        return found

    def _without_specials(self, text: str) -> tuple[Ids, npt.NDArray[np.int64]]:
        """Ids and ends in characters of a text whose own characters some models would take for a special.

        It is cut after the first character of each, and the parts are encoded apart.
        """
        cuts = {0, len(text)}
        for mark in self._marks:
            at = text.find(mark)
            while at >= 0:
                cuts.add(at + 1)
                at = text.find(mark, at + 1)
        ids, ends = [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)]
        edges = sorted(cuts)
        for start, stop in itertools.pairwise(edges):
            encoding = self._backend.encode(text[start:stop], add_special_tokens=False)
            ids.append(np.array(encoding.ids, np.uint32))
            ends.append(np.array([end for _, end in encoding.offsets], np.int64) + start)
        return np.concatenate(ids), np.concatenate(ends)

    def piece_bytes(self, token: int) -> bytes:
        """See `Tokenizer`; nothing for the rows with which a model's vocabulary is filled up."""
        return self._bytes[token] if token < self.vocab_size else b""

    def is_byte(self, token: int) -> bool:
        """See `Tokenizer`. In a byte-level vocabulary: bytes that are no character of their own."""
        return token in self._byte_ids

    def save(self, folder: str | Place) -> None:
        """See `Tokenizer`. transformers reads the folder, too."""
        definition, names, config = self._arguments
        write_bytes(places.at(folder) / TOKENIZER_FILE, definition.encode())
        write_json(places.at(folder) / CONFIG_FILE, config | {f"{name}_token": names[name] for name in names})

    def __reduce__(self) -> tuple[type[HuggingFaceTokenizer], tuple[str, dict[str, str], dict[str, Any]]]:
        return HuggingFaceTokenizer, self._arguments


def _marked(encoding: Encoding) -> Iterator[tuple[int, int]]:
    """Each id, and 1 where the template has added it."""
    return zip(encoding.ids, encoding.special_tokens_mask, strict=True)


def _byte_ends(text: str, ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Ends in characters as ends in UTF-8 bytes, never decreasing; the last is the text's."""
    if not len(ends):
        return ends
    ends = np.maximum.accumulate(ends)
    ends[-1] = len(text)
    if text.isascii():
        return ends
    data = np.frombuffer(text.encode(), np.uint8)
    starts = np.append(np.flatnonzero((data & 0xC0) != 0x80), len(data))
    return starts[ends]


class _Spelling:
    """What the pieces of a definition's model spell. UserError where the model is of another kind."""

    def __init__(self, definition: dict[str, Any]) -> None:
        model = definition["model"]
        kind = model.get("type") or ("WordPiece" if "max_input_chars_per_word" in model else "BPE")
        parts = {part["type"] for part in _parts(definition.get("decoder"), "decoders")}
        parts |= {part["type"] for part in _parts(definition.get("pre_tokenizer"), "pretokenizers")}
        suffix = model.get("end_of_word_suffix") or ""
        if kind not in ("BPE", "WordPiece", "Unigram") or suffix:
            what = f"{kind} with end_of_word_suffix {suffix!r}" if suffix else kind
            raise UserError(f"{TOKENIZER_FILE}: its model is {what}; known are BPE, WordPiece, Unigram")
        self._prefix: str | None = model.get("continuing_subword_prefix") if kind == "WordPiece" else None
        self._table = _byte_table() if "ByteLevel" in parts else None
        self._fallback = bool(model.get("byte_fallback"))
        # Where blanks are blanks in the entries themselves, a U+2581 is nothing but that.
        self._blank = SPACE if parts & {"Metaspace", "Replace"} else None

    def bytes_of(self, piece: str) -> bytes:
        """In UTF-8; of a word's first piece in WordPiece with the blank before it."""
        if self._prefix is not None:
            after = piece.startswith(self._prefix) and piece != self._prefix
            return piece[len(self._prefix) :].encode() if after else f" {piece}".encode()
        if self._table is not None:
            return b"".join(self._table.get(char, char.encode()) for char in piece)
        if self._is_fallback(piece):
            return bytes([int(piece[3:5], 16)])
        return (piece.replace(self._blank, " ") if self._blank else piece).encode()

    def is_byte(self, piece: str) -> bool:
        """One of the bytes that spell what has no entry?"""
        if self._table is not None:
            data = self._table.get(piece)
            return data is not None and data[0] >= 0x80
        return self._is_fallback(piece)

    def _is_fallback(self, piece: str) -> bool:
        if not self._fallback or len(piece) != 6 or not (piece.startswith("<0x") and piece.endswith(">")):
            return False
        return all(digit in "0123456789ABCDEF" for digit in piece[3:5])


def _parts(value: dict[str, Any] | None, inside: str) -> Iterator[dict[str, Any]]:
    """The parts of a decoder or pre-tokenizer, those in sequences too."""
    if value is not None:
        yield value
        for part in value.get(inside, ()):
            yield from _parts(part, inside)


def _byte_table() -> dict[str, bytes]:
    """The characters that byte-level BPE writes for bytes (Radford et al. 2019): printable ones for
    themselves, the others from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): bytes([byte]) for byte in printable}
    return table | {chr(0x100 + n): bytes([byte]) for n, byte in enumerate(others)}
