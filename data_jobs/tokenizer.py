"""Text to token ids and back, without loss.

`Tokenizer` is the small interface that the rest knows; `SentencePieceTokenizer` is the kind that this package
trains (`tokenizer_hf.py` has the kind that imported models bring: it may lose some of a text, and says so).
For every text that can be written in UTF-8, `decode(encode(text)) == text`:

- SentencePiece writes a space as U+2581, so that a U+2581 in the text would come back as a space. It is taken
  out before and spelled in bytes instead.
- A special is never made from text: '</s>' or '[MASK]' in a document are ordinary characters.
"""

from __future__ import annotations

import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cluster import places
from cluster.errors import RunError, UserError
from cluster.places import ObjectPath, Place
from data_jobs.hashes import sha256

if TYPE_CHECKING:
    import sentencepiece

Ids = npt.NDArray[np.uint32]

SPACE = "\u2581"
SPECIALS = {
    "pad": "<pad>",
    "unk": "<unk>",
    "bos": "<s>",
    "eos": "</s>",
    "cls": "[CLS]",
    "sep": "[SEP]",
    "mask": "[MASK]",
}
MODEL_FILE = "sentencepiece.model"
# A newline or two and the indentation after them are one token each: they stand in every text, and as fixed
# entries they are never joined with words.
NEWLINES = [
    *(line_end + SPACE * width for line_end in ("\n", "\n\n") for width in range(0, 33, 4)),
    *("\n" + "\t" * depth for depth in range(1, 5)),
    "\t",
]
# What no entry reaches across (`_units_are_apart`): line ends with their indentation, then blanks and a word.
_UNIT = re.compile(r"\n+(?:(?: {4}){1,8}|\t{1,4})?| *[^ \n]+| +")
# A unit that, put after a newline, leaves the newline a token of its own.
_WORD = re.compile(r" {0,3}[^ \n\t]")
_CACHE_ENTRIES = 1 << 20


class Tokenizer(ABC):
    """What the corpus and the models need of a tokenizer."""

    kind: str
    vocab_size: int
    fingerprint: str
    """Equal for equal behaviour: a digest of the model."""
    specials: dict[str, int]
    """pad, unk, bos, eos, cls, sep, mask to id; eos is always there."""
    piece_lengths: npt.NDArray[np.int64]
    """`len(piece_bytes(id))` for every id."""
    lossless: bool = True
    """Do the pieces of a text spell it exactly? If not, `encode_with_ends` says where they end."""

    pad_id = property(lambda self: self.specials.get("pad", self.eos_id))  # what pads has no weight anywhere
    unk_id = property(lambda self: self._special("unk"))
    bos_id = property(lambda self: self._special("bos"))
    eos_id = property(lambda self: self._special("eos"))
    cls_id = property(lambda self: self._special("cls"))
    sep_id = property(lambda self: self._special("sep"))
    mask_id = property(lambda self: self._special("mask"))

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text; no special among them."""

    @abstractmethod
    def piece_bytes(self, token: int) -> bytes:
        """What the token adds to the text, in UTF-8; nothing for a special."""

    @abstractmethod
    def is_byte(self, token: int) -> bool:
        """Is the token one of the 256 bytes that spell what has no entry?"""

    @abstractmethod
    def save(self, folder: str | Place) -> None:
        """Write the files that `load_tokenizer` reads."""

    def encode(self, text: str) -> Ids:
        """The ids of one text; no special among them."""
        return self.encode_batch([text])[0]

    def encode_with_ends(self, texts: Sequence[str]) -> list[tuple[Ids, npt.NDArray[np.int64]]]:
        """The ids of each text, and where each of them ends in its UTF-8 bytes (never decreasing)."""
        return [(ids, np.cumsum(self.piece_lengths[ids])) for ids in self.encode_batch(texts)]

    def _special(self, name: str) -> int:
        if name not in self.specials:
            there = ", ".join(self.specials)
            raise UserError(f"the tokenizer ({self.fingerprint[:24]}) has no {name} token (there: {there})")
        return self.specials[name]

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of the ids; bytes that are no UTF-8 (a cut character) become U+FFFD."""
        return b"".join(self.piece_bytes(int(token)) for token in ids).decode("utf-8", "replace")


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model with byte fallback and no normalisation of its own."""

    kind = "sentencepiece"

    def __init__(self, model: bytes) -> None:
        import sentencepiece  # the one door of this package; `import data_jobs` stays light

        self._model = model
        self._processor: sentencepiece.SentencePieceProcessor = sentencepiece.SentencePieceProcessor(
            model_proto=model
        )
        self.vocab_size = self._processor.vocab_size()
        self.fingerprint = f"{self.kind}:{sha256(model)}"
        pieces = [self._processor.id_to_piece(token) for token in range(self.vocab_size)]
        self.specials = {name: pieces.index(piece) for name, piece in SPECIALS.items() if piece in pieces}
        self._bytes = [self._bytes_of(token, piece) for token, piece in enumerate(pieces)]
        self.piece_lengths = np.array([len(data) for data in self._bytes], np.int64)
        self._space_ids = np.array(
            [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()], "<u4"
        ).tobytes()
        self._apart = _units_are_apart(pieces)
        self._newline_id: int = self._processor.piece_to_id("\n")
        self._cache: dict[str, bytes] = {SPACE: self._space_ids}

    def _bytes_of(self, token: int, piece: str) -> bytes:
        if self._processor.is_byte(token):
            return bytes([int(piece[3:5], 16)])
        if self._processor.is_control(token) or self._processor.is_unknown(token):
            return b""
        return piece.replace(SPACE, " ").encode()

    def is_byte(self, token: int) -> bool:
        """See `Tokenizer`."""
        return bool(self._processor.is_byte(token))

    def piece_bytes(self, token: int) -> bytes:
        """See `Tokenizer`."""
        return self._bytes[token]

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """See `Tokenizer`. Each unit of text is encoded once and then remembered."""
        lists = [self._units(text) for text in texts]
        units = set[str]().union(*lists)
        if len(self._cache) > _CACHE_ENTRIES:
            self._cache = {SPACE: self._space_ids}
        self._remember(units - self._cache.keys())
        look_up = self._cache.__getitem__
        return [np.frombuffer(b"".join(map(look_up, units)), "<u4") for units in lists]

    def _units(self, text: str) -> list[str]:
        """The text in pieces that are encoded apart; a U+2581 is a piece of its own."""
        if SPACE in text:
            parts = re.split(f"({SPACE})", text)
            return [unit for part in parts for unit in ([SPACE] if part == SPACE else self._units(part))]
        return _UNIT.findall(text) if self._apart else [text]

    def _remember(self, new: set[str]) -> None:
        """Encode units: plain words a thousand a call with newlines between them, because calls cost more.

        Measured on 204,000 words of source code: a call a word 1.5 to 1.8 s, all in one 2.2, so 0.7.
        """
        words = [unit for unit in new if self._apart and _WORD.match(unit)]
        others = list(new.difference(words))
        for unit, ids in zip(others, self._processor.encode_as_numpy(others, num_threads=1)):
            self._cache[unit] = ids.astype("<u4").tobytes()
        for at in range(0, len(words), 1000):
            some = words[at : at + 1000]
            joined = self._processor.encode_as_numpy("\n".join(some)).astype("<u4")
            ends = np.flatnonzero(joined == self._newline_id).tolist()
            data = joined.tobytes()
            for word, start, stop in zip(some, [-1, *ends], [*ends, len(joined)], strict=True):
                self._cache[word] = data[4 * start + 4 : 4 * stop]

    def entries(self) -> list[tuple[str, float]]:
        """Each id's piece as the model writes it (a space is U+2581), and its score (the best join first)."""
        of = self._processor
        return [(of.id_to_piece(token), of.get_score(token)) for token in range(self.vocab_size)]

    def save(self, folder: str | Place) -> None:
        """See `Tokenizer`."""
        places.write_bytes(places.at(folder) / MODEL_FILE, self._model)

    def __reduce__(self) -> tuple[type[SentencePieceTokenizer], tuple[bytes]]:
        return SentencePieceTokenizer, (self._model,)


def _units_are_apart(pieces: list[str]) -> bool:
    """Is the encoding of a text that of its units, one after the other?

    BPE joins two neighbours only into an entry. So no join crosses the end of a unit if no entry reaches from
    a word across a following space, and none but the fixed ones holds a newline (those are found before any
    join, longest first, and a unit of newlines ends where the last of them ends). Exact, not nearly.
    """
    reaches = re.compile(f"[^{SPACE}]{SPACE}|\n")
    fixed = set(NEWLINES)
    return fixed <= set(pieces) and not any(reaches.search(piece) for piece in pieces if piece not in fixed)


def load_tokenizer(folder: str | Place) -> Tokenizer:
    """The tokenizer that a folder holds: ours, or one in Hugging Face's files."""
    folder = places.at(folder)
    if isinstance(folder, ObjectPath):
        with tempfile.TemporaryDirectory() as copy:
            places.fetch_folder(folder, Path(copy))
            try:
                return load_tokenizer(copy)
            except (UserError, RunError) as error:
                raise type(error)(str(error).replace(copy, str(folder))) from None
    path = folder / MODEL_FILE
    if not path.is_file():
        from data_jobs.tokenizer_hf_folder import read_folder

        return read_folder(folder)
    try:
        return SentencePieceTokenizer(path.read_bytes())
    except (RuntimeError, ValueError) as error:
        raise RunError(f"{path}: not a SentencePiece model, or a damaged one: {error}") from None
