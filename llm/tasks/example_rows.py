"""Rows of a part's examples to micro-batches, padded to the longest row that they hold.

What stands in a row hangs on nothing but the row; how much padding it has hangs on its neighbours. So the
digest of a micro-batch is over rows without padding, and a batch has the same on any number of workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from data_jobs.hashes import MASK64, h64
from llm.data.samples import Floats, Ints, MicroBatch
from llm.finetune_settings import SEQUENCE_KINDS, TaskKind
from llm.tasks.columns_file import Column, Ragged
from llm.tasks.references import References, references_of

_MULTIPLE = 8  # of which a row's length is one, as matrix products on GPUs like it


class Examples:
    """One part of an example set. `weighted`: classes weigh what the record says."""

    def __init__(
        self,
        rows: Mapping[str, Column],
        columns: Mapping[str, Column],
        record: Mapping[str, Any],
        weighted: bool,
    ) -> None:
        self.kind: TaskKind = record["kind"]
        self.digest: str = record["digest"]
        self.labels: list[str] = record["labels"]
        self._rows, self._columns = rows, columns
        self._length, self._pad = record["length"], record["pad"]
        self._is_gpt = record["model"] == "gpt"
        self._ids = cast(Ragged, rows["ids"])
        self._example = cast(Ints, rows["example"])
        weights = record["class_weights"] if weighted else None
        self._class_weights: Floats = np.array(weights or [1.0] * len(self.labels), np.float32)
        self.examples = len(columns["line"])

    @property
    def rows(self) -> int:
        """Rows for the model: examples, their windows, or packs of them."""
        return len(self._ids)

    @property
    def tokens(self) -> npt.NDArray[np.int64]:
        """[rows]: the inputs of each row, without padding."""
        if self.kind == "instruction":
            return self._ids.lengths - self._list("sizes").lengths
        return self._ids.lengths

    def example_of(self, row: int) -> int:
        """The example that a row is, or is a window of; of packed examples the first."""
        return int(self._example[row])

    def members_of(self, row: int) -> list[int]:
        """All examples of a row."""
        members = self._rows.get("members")
        return [self.example_of(row)] if members is None else cast(Ragged, members)[row].tolist()

    def references(self) -> References:
        """What outputs are scored against."""
        return references_of(self.kind, self.labels, self._rows, self._columns)

    def make(self, indices: Ints, numbers: Ints, rows: int) -> tuple[MicroBatch, int]:
        """Some rows as a micro-batch of `rows`, with their sample numbers; its digest.

        The rows that are missing have number -1 and no weight. The digest is the sum over rows of
        H64(number, what stands in the row), modulo 2^64.
        """
        count = len(indices)
        assert count == len(numbers) <= rows
        chosen = indices.tolist()
        lengths = self.tokens[indices]
        longest = int(lengths.max(initial=1))
        width = min(-(-longest // _MULTIPLE) * _MULTIPLE, self._length)
        inputs = np.full((rows, width), self._pad, np.int64)
        documents = np.ones((rows, width), np.int64)
        all_numbers = np.full(rows, -1, np.int64)
        all_numbers[:count] = numbers
        digest = 0
        if self.kind == "instruction":
            parts = self._instructions(chosen, inputs, documents)
        else:
            for at, row in enumerate(chosen):
                ids = self._ids[row]
                inputs[at, : len(ids)] = ids
                documents[at, : len(ids)] = 0
            parts = self._targets(chosen, rows, width)
            parts |= self._places(lengths, rows) | self._segments(chosen, lengths, rows, width)
        for number, row in zip(numbers.tolist(), chosen, strict=True):
            digest += h64(number, *self._seen(row))
        micro = MicroBatch(inputs=inputs, numbers=all_numbers, documents=documents, **parts)
        return micro, digest & MASK64

    def _list(self, name: str) -> Ragged:
        return cast(Ragged, self._rows[name])

    def _numbers(self, name: str, rows: list[int]) -> npt.NDArray[Any]:
        """A column of rows, or of their examples."""
        if name in self._rows:
            return cast(npt.NDArray[Any], self._rows[name])[rows]
        return cast(npt.NDArray[Any], self._columns[name])[self._example[rows]]

    def _seen(self, row: int) -> list[bytes]:
        """All that the model sees of a row, and all that it is to answer."""
        parts: list[npt.NDArray[Any]] = [self._ids[row]]
        match self.kind:
            case "instruction":
                parts += [self._list("weights")[row], self._list("sizes")[row]]
            case "token_classification":
                parts += [self._list("tag_places")[row], self._list("tags")[row]]
            case "multi_label":
                parts.append(cast(Ragged, self._columns["labels"])[self.example_of(row)])
            case "question_answering":
                parts += [self._numbers(name, [row]) for name in ("answer_first", "answer_last", "second_at")]
            case _:
                parts.append(self._numbers("label" if self.kind == "classification" else "value", [row]))
                parts.append(self._numbers("second_at", [row]))
        return [part.tobytes() for part in parts]

    def _targets(self, chosen: list[int], rows: int, width: int) -> dict[str, Any]:
        """targets, weights and values of all kinds but instruction."""
        count = len(chosen)
        match self.kind:
            case "classification":
                targets, weights = np.zeros((rows, 1), np.int64), np.zeros((rows, 1), np.float32)
                targets[:count, 0] = self._numbers("label", chosen)
                weights[:count, 0] = self._class_weights[targets[:count, 0]]
            case "multi_label":
                targets = np.zeros((rows, len(self.labels)), np.int64)
                weights = np.zeros(targets.shape, np.float32)
                weights[:count] = 1
                labels = cast(Ragged, self._columns["labels"])
                for at, row in enumerate(chosen):
                    targets[at, labels[self.example_of(row)]] = 1
            case "regression":
                targets, weights = np.zeros((rows, 1), np.int64), np.zeros((rows, 1), np.float32)
                values = np.zeros((rows, 1), np.float32)
                values[:count, 0] = self._numbers("value", chosen)
                weights[:count] = 1
                return {"targets": targets, "weights": weights, "values": values}
            case "question_answering":
                targets, weights = np.zeros((rows, 2), np.int64), np.zeros((rows, 2), np.float32)
                targets[:count, 0] = self._numbers("answer_first", chosen)
                targets[:count, 1] = self._numbers("answer_last", chosen)
                weights[:count] = 1
            case _:
                targets, weights = np.zeros((rows, width), np.int64), np.zeros((rows, width), np.float32)
                for at, row in enumerate(chosen):
                    places, tags = self._list("tag_places")[row], self._list("tags")[row]
                    targets[at, places] = tags
                    weights[at, places] = self._class_weights[tags]
        return {"targets": targets, "weights": weights}

    def _places(self, lengths: Ints, rows: int) -> dict[str, Any]:
        """Where a GPT is asked for what it thinks of a text: at its last token, which has seen all."""
        if not self._is_gpt or self.kind not in SEQUENCE_KINDS:
            return {}
        positions = np.zeros((rows, 1), np.int64)
        positions[: len(lengths), 0] = lengths - 1
        return {"positions": positions}

    def _segments(self, chosen: list[int], lengths: Ints, rows: int, width: int) -> dict[str, Any]:
        """Of a BERT; padding is of the first."""
        if self._is_gpt:
            return {}
        segments = np.zeros((rows, width), np.int64)
        second_at = self._numbers("second_at", chosen)
        for at, (begin, end) in enumerate(zip(second_at.tolist(), lengths.tolist(), strict=True)):
            segments[at, begin:end] = 1
        return {"segments": segments}

    def _instructions(self, chosen: list[int], inputs: Ints, documents: Ints) -> dict[str, Any]:
        """Inputs and documents are filled; the next tokens, and the weights of the answers'."""
        targets, weights = np.full_like(inputs, self._pad), np.zeros(inputs.shape, np.float32)
        for at, row in enumerate(chosen):
            ids, sizes = self._ids[row], self._list("sizes")[row]
            ends = np.cumsum(sizes)
            is_last, is_first = np.zeros(len(ids), bool), np.zeros(len(ids), bool)
            is_last[ends - 1] = is_first[ends - sizes] = True
            size = len(ids) - len(sizes)
            inputs[at, :size], targets[at, :size] = ids[~is_last], ids[~is_first]
            documents[at, :size] = np.repeat(np.arange(len(sizes)), sizes - 1)
            documents[at, size:] = len(sizes)
            weights[at, :size] = self._list("weights")[row]
        return {"targets": targets, "weights": weights}
