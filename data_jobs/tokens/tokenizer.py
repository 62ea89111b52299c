"""Text to token ids and back, without loss.

`Tokenizer` is the small interface that the rest knows; `SentencePieceTokenizer` is the kind that this package
trains (`tokenizer_hf.py` has the kind that imported models bring: it may lose some of a text, and says so;
`tokenizer_pixels.py` that of corpora of images).
For every text that can be written in UTF-8, `decode(encode(text)) == text`:

- SentencePiece writes a space as U+2581, so that a U+2581 in the text would come back as a space. It is taken
  out before and spelled in bytes instead.
- A special is never made from text: '</s>' or '[MASK]' in a document are ordinary characters.
"""

from __future__ import annotations

import functools
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cluster import places
from cluster.errors import RunError, UserError
from cluster.places import ObjectPath, Place
from data_jobs.hashes import sha256
from data_jobs.tokens.sentencepiece_file import ModelFile, read_model
from data_jobs.tokens.word_cuts import SPACE, cuts_of

if TYPE_CHECKING:
    import sentencepiece

    from data_jobs.tokens.text_column import TextColumn, TokenColumn
    from data_jobs.tokens.word_cache import WordCache

Ids = npt.NDArray[np.uint32]

SPECIALS = {
    "pad": "<pad>",
    "unk": "<unk>",
    "bos": "<s>",
    "eos": "</s>",
    "cls": "[CLS]",
    "sep": "[SEP]",
    "mask": "[MASK]",
}
MODEL_FILE, PIXELS_FILE = "sentencepiece.model", "pixels.json"
# A newline or two and the indentation after them are one token each: they stand in every text, and as fixed
# entries they are never joined with words.
NEWLINES = [
    *(line_end + SPACE * width for line_end in ("\n", "\n\n") for width in range(0, 33, 4)),
    *("\n" + "\t" * depth for depth in range(1, 5)),
    "\t",
]
# From so much text on a cache of words is made: reading the vocabulary for it and loading numba take time.
_CACHE_FROM = 1 << 16


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

    @property
    def special_texts(self) -> dict[str, int]:
        """How each special is written, by a chat template for instance; never so read in a text."""
        return {SPECIALS[name]: token for name, token in self.specials.items()}

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

    def encode_column(self, texts: TextColumn) -> TokenColumn:
        """The same for a batch that lies in arrays, as a corpus is encoded."""
        from data_jobs.tokens.text_column import TokenColumn

        return TokenColumn.of_pairs(self.encode_with_ends(texts.texts()))

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
            [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()], np.uint32
        )

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

    @property
    def model(self) -> bytes:
        """The model file."""
        return self._model

    @property
    def processor(self) -> sentencepiece.SentencePieceProcessor:
        """SentencePiece itself, with this model."""
        return self._processor

    @functools.cached_property
    def _file(self) -> ModelFile:
        return read_model(self._model)

    @property
    def algorithm(self) -> str:
        """How the model cuts: bpe or unigram (word and char in models of others)."""
        return self._file.algorithm

    @functools.cached_property
    def _words(self) -> WordCache | None:
        """The cache of words; None where the model's texts cannot be cut exactly."""
        from data_jobs.tokens.word_cache import WordCache

        cuts = cuts_of(self._file)
        if cuts is None:
            return None
        return WordCache(cuts, self._by_library, {SPACE: self._space_ids.tolist()}, self.piece_lengths)

    def _words_for(self, size: int) -> WordCache | None:
        """The cache, where it is there already or worth its start."""
        return self._words if size >= _CACHE_FROM or "_words" in self.__dict__ else None

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """See `Tokenizer`."""
        words = self._words_for(sum(map(len, texts)))
        if words is None:
            return self.encode_plainly(texts)
        from data_jobs.tokens.text_column import TextColumn

        return words.encode(TextColumn.of_texts(texts)).lists()

    def encode_column(self, texts: TextColumn) -> TokenColumn:
        """See `Tokenizer`."""
        words = self._words_for(len(texts.data))
        return super().encode_column(texts) if words is None else words.encode(texts)

    def encode_plainly(self, texts: Sequence[str]) -> list[Ids]:
        """The same ids by SentencePiece alone, without the cache of words."""
        parts = [text.split(SPACE) for text in texts]
        encoded = iter(self._by_library([part for some in parts for part in some]))
        found = []
        for some in parts:
            ids: list[npt.NDArray[Any]] = [next(encoded)]
            for _ in some[1:]:
                ids += [self._space_ids, next(encoded)]
            found.append(np.concatenate(ids).astype(np.uint32))
        return found

    def _by_library(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        """The ids of texts without U+2581."""
        filled = [text for text in texts if text]
        ids = iter(self._processor.encode_as_numpy(filled, num_threads=1) if filled else ())
        return [next(ids) if text else np.zeros(0, np.int32) for text in texts]

    def entries(self) -> list[tuple[str, float]]:
        """Each id's piece as the model writes it (a space is U+2581), and its score (the best join first)."""
        of = self._processor
        return [(of.id_to_piece(token), of.get_score(token)) for token in range(self.vocab_size)]

    def save(self, folder: str | Place) -> None:
        """See `Tokenizer`."""
        places.write_bytes(places.at(folder) / MODEL_FILE, self._model)

    def __reduce__(self) -> tuple[type[SentencePieceTokenizer], tuple[bytes]]:
        return SentencePieceTokenizer, (self._model,)


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
    if (folder / PIXELS_FILE).is_file():
        from data_jobs.tokens.tokenizer_pixels import read_pixels

        return read_pixels(folder / PIXELS_FILE)
    path = folder / MODEL_FILE
    if not path.is_file():
        from data_jobs.tokens.tokenizer_hf_folder import read_folder

        return read_folder(folder)
    try:
        return SentencePieceTokenizer(path.read_bytes())
    except (RuntimeError, ValueError) as error:
        raise RunError(f"{path}: not a SentencePiece model, or a damaged one: {error}") from None
