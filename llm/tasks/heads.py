"""Which head a task has: of the examples' record and the settings."""

from __future__ import annotations

from typing import Any

from llm.finetune_settings import TaskSettings
from llm.model.tasks import Head


def head_of(record: dict[str, Any], task: TaskSettings) -> Head | None:
    """None: the task is the model's own, the next token."""
    match task.kind:
        case "instruction":
            return None
        case "regression":
            outputs = 1
        case "question_answering":
            outputs = 2
        case _:
            outputs = len(record["labels"])
    return Head(task.kind, outputs, task.loss, task.dropout)
