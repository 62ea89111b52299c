"""What a SentencePiece model file says that its library does not tell: kinds of entries, and the rules.

The file is one protocol buffer, sentencepiece_model.proto. It is read here by the wire format, because the
library's own classes for it want one exact version of protobuf.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

NORMAL, UNKNOWN, CONTROL, FIXED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Kinds of entries; FIXED is what SentencePiece calls user-defined."""

_ALGORITHMS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
# Field numbers of ModelProto, SentencePiece, TrainerSpec and NormalizerSpec.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _KIND = 1, 3
_MODEL_TYPE, _BYTE_FALLBACK = 3, 35
_CHARACTER_MAP, _DUMMY_PREFIX, _REMOVE_BLANKS, _ESCAPE_BLANKS = 2, 3, 4, 5


@dataclass(frozen=True)
class ModelFile:
    """The parts of a model that say how it cuts."""

    pieces: list[tuple[str, int]]
    """Text (a blank is U+2581) and kind of each entry, by id."""
    algorithm: str
    byte_fallback: bool
    takes_text_as_it_is: bool
    """No normalisation, no blank put before a text, none taken out of it."""


def read_model(model: bytes) -> ModelFile:
    """Read a model file that the library has loaded (so it is whole)."""
    pieces: list[tuple[str, int]] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in _fields(model):
        if number == _PIECES:
            piece = dict(_fields(value))
            pieces.append((piece.get(_TEXT, b"").decode(), piece.get(_KIND, NORMAL)))
        elif number == _TRAINER:
            trainer.update(_fields(value))
        elif number == _NORMALIZER:
            normalizer.update(_fields(value))
    return ModelFile(
        pieces,
        _ALGORITHMS.get(trainer.get(_MODEL_TYPE, 1), "unknown"),
        bool(trainer.get(_BYTE_FALLBACK, 0)),
        not normalizer.get(_CHARACTER_MAP)
        and not normalizer.get(_DUMMY_PREFIX, 1)
        and not normalizer.get(_REMOVE_BLANKS, 1)
        and bool(normalizer.get(_ESCAPE_BLANKS, 1)),
    )


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a message's fields: an integer, or the bytes of anything else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"not a protocol buffer: wire type {wire}")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, and where the next field begins."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
