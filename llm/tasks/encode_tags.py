"""Lists of words with a tag each to rows: token_classification.

Words are tokenized one by one, each but the first with a blank before it, so that each token belongs to one
word. A word's tag stands at its first token, as in Devlin et al. 2019, section 5.3; in a GPT at its last,
since what comes after a token is hidden from it. Words that were cut away, or that the tokenizer drops, have
none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_jobs.tokens.tokenizer import Ids, Tokenizer
from llm.finetune_settings import TaskSettings
from llm.tasks.encoded import Encoded, EncodedRow, chunks, too_long
from llm.tasks.example_fields import BadExample, Example
from llm.tasks.row_layout import Layout


@dataclass(frozen=True)
class TagEncoder:
    """A tag for each word. `labels`: the tags in their order."""

    tokenizer: Tokenizer
    layout: Layout
    task: TaskSettings
    labels: Sequence[str]

    def encode(self, examples: Sequence[Example]) -> Iterator[Encoded | BadExample]:
        """See `Encoder`."""
        number = {name: index for index, name in enumerate(self.labels)}
        for some in chunks(examples):
            texts = [f" {word}" if at else word for example in some for at, word in enumerate(example.texts)]
            distinct = list(dict.fromkeys(texts))
            ids = dict(zip(distinct, self.tokenizer.encode_batch(distinct), strict=True))
            words = iter(texts)
            for example in some:
                pieces = [ids[next(words)] for _ in example.texts]
                assert isinstance(example.label, tuple)
                try:
                    yield self._row(pieces, np.array([number[str(tag)] for tag in example.label], np.int32))
                except BadExample as problem:
                    yield problem

    def _row(self, pieces: list[Ids], tags: np.ndarray) -> Encoded:
        sizes = np.array([len(piece) for piece in pieces])
        whole, room = int(sizes.sum()), self.layout.room(1)
        if not whole:
            raise BadExample(
                "no_tokens", "words without a token: their characters are dropped by the tokenizer"
            )
        if room < 1 or (whole > room and self.task.too_long == "fail"):
            raise too_long(whole, room)
        ends = np.cumsum(sizes)
        places = ends - 1 if self.layout.model == "gpt" else ends - sizes
        seen = (sizes > 0) & (places < room)
        if not seen.any():
            raise too_long(whole, room)
        ids, second_at = self.layout.row(np.concatenate(pieces)[:room])
        columns = {
            "tag_places": (places[seen] + len(self.layout.start)).astype(np.int32),
            "tags": tags[seen],
            "tagged_words": np.flatnonzero(seen).astype(np.int32),
        }
        return Encoded([EncodedRow(ids, second_at, columns)], whole > room, {"words": len(pieces)})
