"""Training of the SentencePiece model on a sample of the corpus.

Measured on 12.1 MB of Python's standard library, 6,000 entries, bytes a token: SentencePiece's defaults
2.26; entries of blanks alone 3.60; newline with its indentation as fixed entries 3.68; entries that
join letters and punctuation (`join_punctuation`) 4.12.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator

import numpy as np

from cluster.errors import UserError
from data_jobs.tokens.tokenizer import NEWLINES, SPACE, SPECIALS, SentencePieceTokenizer
from data_jobs.tokens.tokenizer_settings import TokenizerSettings

_FIXED_ENTRIES = len(SPECIALS) + 256 + len(NEWLINES)
# SentencePiece skips any sentence with a tab or U+2585, which it uses itself, and U+2581 is its space.
_RESERVED = re.compile("[\t\u2581\u2585]+")
# Sentences: the trainer keeps positions inside a word in 16 bits, and Chinese has words of any length.
_SENTENCE_CHARACTERS = 4096


def train_tokenizer(texts: Iterable[str], settings: TokenizerSettings) -> SentencePieceTokenizer:
    """A tokenizer of at most `vocab_size` entries (fewer, where the texts do not give that many)."""
    import sentencepiece

    sentences = [sentence for text in texts for sentence in _sentences(text)]
    # A newline is a border that no entry crosses: the trainer sees what the encoder will.
    rare = dict.fromkeys(_rare_characters(sentences, settings), "\n")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(sentence.translate(rare) for sentence in sentences),
            model_writer=model,
            model_type=settings.kind,
            vocab_size=settings.vocab_size,
            hard_vocab_limit=False,
            byte_fallback=True,
            character_coverage=1.0,
            required_chars=SPACE,
            num_threads=settings.threads,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_by_unicode_script=not settings.join_punctuation,
            max_sentence_length=1 << 30,
            user_defined_symbols=NEWLINES,
            control_symbols=[SPECIALS["cls"], SPECIALS["sep"], SPECIALS["mask"]],
            pad_id=0, unk_id=1, bos_id=2, eos_id=3,
            pad_piece=SPECIALS["pad"], unk_piece=SPECIALS["unk"], bos_piece=SPECIALS["bos"],
            eos_piece=SPECIALS["eos"],
            minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:
        raise UserError(f"corpus.tokenizer: training failed: {error}") from None
    return SentencePieceTokenizer(model.getvalue())


def _sentences(text: str) -> Iterator[str]:
    """The text in pieces that the trainer takes, cut at line ends where it can be."""
    for part in _RESERVED.split(text):
        start = 0
        while start < len(part):
            stop = start + _SENTENCE_CHARACTERS
            if stop < len(part):
                stop = part.rfind("\n", start + 1, stop) + 1 or stop
            yield part[start:stop]
            start = stop


def _rare_characters(sentences: list[str], settings: TokenizerSettings) -> list[int]:
    """The characters that get no entry: beyond the asked coverage, or beyond half of the free entries.

    The blank always has one: SentencePiece would spell it in the bytes of U+2581, another character.
    (SentencePiece's own coverage may not be under 0.98, and fails where characters outnumber the entries.)
    """
    codes = np.frombuffer("".join(sentences).encode("utf-32-le"), "<u4")
    kinds, counts = np.unique(codes, return_counts=True)
    order = np.lexsort((kinds, -counts))
    covered = np.cumsum(counts[order])
    asked = int(np.searchsorted(covered, settings.character_coverage * covered[-1])) + 1
    room = max(1, (settings.vocab_size - _FIXED_ENTRIES) // 2)
    rare: list[int] = kinds[order[min(asked, room) :]].tolist()
    return [code for code in rare if code != ord(" ")]
