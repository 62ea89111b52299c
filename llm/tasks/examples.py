"""Examples of a task on disk: made once from files and settings, opened by every worker.

`<part>.arrow` has the rows of a part, `<part>.examples.arrow` what is known of its examples; `examples.json`,
written last, is the record: what there is, with digests. All is a function of what the files hold, the
settings and the tokenizer.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from cluster import places
from cluster.errors import RunError, UserError
from cluster.places import Place, to_json
from cluster.sealed import seal, unseal
from data_jobs.hashes import sha256
from data_jobs.tokens.tokenizer import Tokenizer
from llm.finetune_settings import FinetuneSettings, TaskKind
from llm.settings import ModelSettings
from llm.tasks.bad_records import BadRecords
from llm.tasks.columns_file import digest_of_columns, read_columns, write_columns
from llm.tasks.encode_chat import ChatEncoder
from llm.tasks.encode_spans import SpanEncoder
from llm.tasks.encode_tags import TagEncoder
from llm.tasks.encode_texts import TextEncoder
from llm.tasks.encoded import Encoder
from llm.tasks.example_fields import fields_of
from llm.tasks.example_order import ExampleOrder, order_of_examples
from llm.tasks.example_rows import Examples
from llm.tasks.labels import (
    WITH_CLASSES,
    balanced_weights,
    choose_labels,
    count_classes,
    notes_on_classes,
)
from llm.tasks.part_columns import encode_part
from llm.tasks.row_layout import Layout, make_layout
from llm.tasks.task_data import DataFile, digest_of_files
from llm.tasks.task_parts import PARTS, drop_unknown, find_parts, notes_on_repeats, read_parts

__all__ = [
    "ExampleOrder", "ExampleSet", "Examples", "open_examples", "order_of_examples", "prepare_examples",
]  # fmt: skip
FORMAT = "manta-examples-1"
RECORD = "examples.json"
VERSION = 1  # of the rules of this package: another one makes other rows


def examples_key(
    settings: FinetuneSettings,
    tokenizer: Tokenizer,
    model: ModelSettings,
    text_start: Sequence[int] | None = None,
) -> str:
    """A digest of all that examples are made of; what names their folder, so that it never means others."""
    layout = make_layout(settings.task.kind, model.kind, tokenizer, settings.length, text_start)
    return _key(settings, tokenizer, layout, find_parts(settings.data))


def prepare_examples(
    settings: FinetuneSettings,
    tokenizer: Tokenizer,
    model: ModelSettings,
    folder: str | Place,
    text_start: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Make the examples in a folder, or find them there; the record. UserError for all that is wrong.

    `text_start`: ids before a GPT's text, of an imported model those of its tokenizer (default: its eos).
    What is odd about the examples, but no error, is told on stderr when they are made, and stands in `notes`.
    """
    folder = places.at(folder)
    task, data = settings.task, settings.data
    if settings.length > model.context:
        raise UserError(
            f"finetune.length is {settings.length:,}, and the model sees {model.context:,} tokens: lower it"
        )
    layout = make_layout(task.kind, model.kind, tokenizer, settings.length, text_start)
    files = find_parts(data)
    key = _key(settings, tokenizer, layout, files)
    if (old := _read_record(folder)) is not None and old["key"] == key:
        return old
    bad = BadRecords(data.max_bad_fraction)
    found, records = read_parts(files, data, task.kind, bad)
    labels = choose_labels(task.kind, task.labels, found["train"])
    if task.kind in WITH_CLASSES:
        found = drop_unknown(found, labels, bool(task.labels), bad)
        bad.check(records)
    encoder = encoder_of(settings, tokenizer, layout, labels)
    parts = {part: encode_part(part, found[part], encoder, settings, labels, bad) for part in found}
    bad.check(records)
    for name, part in parts.items():
        if not part.examples:
            raise UserError(f"finetune.data: no example is left in {name}: {bad.of(name)}")
    counts = {
        name: count_classes(part.examples, labels, task.kind == "token_classification")
        for name, part in parts.items()
    }
    weights = balanced_weights(list(counts["train"].values())) if task.class_weights == "balanced" else None
    notes = notes_on_repeats({name: part.examples for name, part in parts.items()})
    if task.kind in WITH_CLASSES:
        notes += notes_on_classes(task.kind, counts["train"], weights is not None)
    for name, part in parts.items():
        notes += part.notes(name)
    notes += [
        f"{name}: left out {count:,} records: {why}" for name in parts for why, count in bad.of(name).items()
    ]
    made = {
        "format": FORMAT,
        "kind": task.kind,
        "model": model.kind,
        "length": settings.length,
        "pad": layout.pad,
        "labels": labels,
        "class_weights": weights,
        "parts": {
            name: part.record() | {"left_out": bad.of(name), "class_counts": counts[name]}
            for name, part in parts.items()
        },
    }
    # The digest is of what was made: a resumed run may allow more bad records, or read them from CSV.
    record = made | {"key": key, "notes": notes, "digest": sha256(to_json(made))}
    if old is not None:
        (folder / RECORD).unlink(missing_ok=True)  # it is there only with what it speaks of
    for name, part in parts.items():
        write_columns(folder / f"{name}.arrow", part.rows)
        write_columns(folder / f"{name}.examples.arrow", part.columns)
    places.write_bytes(folder / RECORD, seal({"record": record}))
    for note in notes:
        print(f"examples: {note}", file=sys.stderr, flush=True)
    return record


class ExampleSet:
    """Examples that were made."""

    def __init__(self, folder: Place, record: dict[str, Any]) -> None:
        self.folder, self.record = folder, record
        self._parts: dict[tuple[str, bool], Examples] = {}

    @property
    def parts(self) -> list[str]:
        """Names of the parts that there are."""
        return [part for part in PARTS if part in self.record["parts"]]

    def part(self, name: str, weighted: bool | None = None) -> Examples | None:
        """A part, checked against its digest; None where there is none. RunError where it is damaged.

        `weighted`: whether classes weigh what the record says (default: in train alone).
        """
        said = self.record["parts"].get(name)
        if said is None:
            return None
        weighted = name == "train" if weighted is None else weighted
        if (name, weighted) not in self._parts:
            paths = (self.folder / f"{name}.arrow", self.folder / f"{name}.examples.arrow")
            rows, columns = (read_columns(path) for path in paths)
            if [digest_of_columns(rows), digest_of_columns(columns)] != said["digests"]:
                raise RunError(
                    f"{paths[0]}: is not what {RECORD} says; remove {self.folder}, and it is made anew"
                )
            self._parts[name, weighted] = Examples(rows, columns, self.record, weighted)
        return self._parts[name, weighted]


def open_examples(folder: str | Place) -> ExampleSet:
    """The examples in a folder. UserError where there are none."""
    folder = places.at(folder)
    record = _read_record(folder)
    if record is None:
        raise UserError(
            f"{folder}: no examples of this version ({RECORD}): the command that trains makes them"
        )
    return ExampleSet(folder, record)


def _read_record(folder: Place) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = unseal((folder / RECORD).read_bytes())["record"]
        return record if record["format"] == FORMAT else None
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _key(
    settings: FinetuneSettings, tokenizer: Tokenizer, layout: Layout, files: dict[str, list[DataFile]]
) -> str:
    """What the examples are a function of: not where the files lie, nor what only training reads."""
    data, task = settings.data, settings.task
    unused = {"dropout", "loss"}
    value = {
        "version": VERSION,
        "files": {part: digest_of_files(some) for part, some in files.items()},
        "fields": fields_of(data, task.kind),
        "fractions": [data.val_fraction, data.test_fraction, data.split_seed, data.max_bad_fraction],
        "task": {name: value for name, value in task.model_dump(mode="json").items() if name not in unused},
        "layout": [layout.model, layout.length, layout.start, layout.between, layout.end, layout.pad],
        "tokenizer": tokenizer.fingerprint,
    }
    return sha256(to_json(value))


def encoder_of(
    settings: FinetuneSettings, tokenizer: Tokenizer, layout: Layout, labels: Sequence[str]
) -> Encoder:
    """The encoder of the task."""
    kind: TaskKind = settings.task.kind
    match kind:
        case "token_classification":
            return TagEncoder(tokenizer, layout, settings.task, labels)
        case "question_answering":
            return SpanEncoder(tokenizer, layout, settings.task)
        case "instruction":
            return ChatEncoder(tokenizer, layout, settings.task)
    return TextEncoder(tokenizer, layout, settings.task)
