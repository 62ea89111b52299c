"""Examples of another file, as a trained model reads them: its labels, its rows, nothing on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.errors import UserError
from data_jobs.tokens.tokenizer import Tokenizer
from llm.finetune_settings import FinetuneSettings
from llm.tasks.bad_records import BadRecords
from llm.tasks.example_rows import Examples
from llm.tasks.examples import encoder_of
from llm.tasks.labels import WITH_CLASSES
from llm.tasks.part_columns import encode_part
from llm.tasks.row_layout import make_layout
from llm.tasks.task_data import find_data
from llm.tasks.task_parts import drop_unknown, read_parts

NAME = "test"  # of the one part that there is


def examples_of_file(
    file: str, settings: FinetuneSettings, record: Mapping[str, Any], tokenizer: Tokenizer, model: str
) -> tuple[Examples, list[str]]:
    """All examples of a file, and what is odd about them, a line each. UserError: they are not of the task.

    `record`: of the task that was trained (`kind`, `labels`); `settings` say which fields are read, and how
    many records may be left out; `model`: gpt or bert.
    """
    task, labels = settings.task, list(record["labels"])
    data = settings.data.model_copy(update={"val_fraction": 0.0, "test_fraction": 0.0})
    bad = BadRecords(data.max_bad_fraction)
    found, records = read_parts({NAME: find_data(file, "--data")}, data, task.kind, bad)
    examples = found[NAME]
    if task.kind in WITH_CLASSES:
        examples = drop_unknown({NAME: examples}, labels, False, bad)[NAME]
        bad.check(records)
    layout = make_layout(task.kind, model, tokenizer, settings.length)
    part = encode_part(NAME, examples, encoder_of(settings, tokenizer, layout, labels), settings, labels, bad)
    bad.check(records)
    if not part.examples:
        raise UserError(f"--data {file}: no example is left: {bad.of(NAME)}")
    known = {
        "kind": task.kind, "digest": "", "labels": labels, "length": settings.length, "pad": layout.pad,
        "model": model, "class_weights": None,
    }  # fmt: skip
    return Examples(part.rows, part.columns, known, weighted=False), [*part.notes(NAME), *left_out(bad)]


def left_out(bad: BadRecords) -> Sequence[str]:
    """What gave no example, a line for each reason."""
    return [f"left out {count:,} records: {why}" for why, count in bad.of(NAME).items()]
