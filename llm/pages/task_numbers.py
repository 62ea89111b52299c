"""What a fine-tuned run's folder says of its task: the parts' examples, and how they were told."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cluster import places
from cluster.places import Place

SCORES = (
    "accuracy", "f1_macro", "f1", "matthews", "exact_match", "token_accuracy", "pearson", "spearman", "r2",
    "precision_macro", "recall_macro",
)  # fmt: skip
"""Shares and correlations, those that are looked at first standing first."""
MOST = 5
UNITS = {
    "classification": "nats per example",
    "multi_label": "nats per class of an example",
    "regression": "squared error",
    "token_classification": "nats per word",
    "question_answering": "nats per end of a span",
    "instruction": "nats per token of the answer",
}


def chosen_metrics(names: Sequence[str]) -> list[str]:
    """Of all metrics those that a table or chart shows first: the loss, and at most MOST scores."""
    plain = {name.removeprefix("val_"): name for name in names}
    scores = [plain[name] for name in SCORES if name in plain]
    return [*(name for name in ("val_loss",) if name in names), *scores[:MOST]]


def loss_unit(settings: Mapping[str, Any]) -> str:
    """The unit of the loss of a run with these settings (its settings.json)."""
    if "finetune" not in settings:
        return "nats per token"
    task = settings["finetune"].get("task", {})
    if task.get("loss") == "hinge":
        return "hinge loss"
    return UNITS.get(task.get("kind", "classification"), "nats")


def task_numbers(run: Place, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Kind, classes, parts and evaluation of a fine-tuned run; None where the run is no such one."""
    if "finetune" not in settings:
        return None
    task, evaluation = settings.get("task") or {}, _read(run / "evaluation.json")
    at = (settings.get("examples") or {}).get("path")
    record = (at and _read(places.at(at) / "examples.json")) or _read(run / "examples" / "examples.json")
    return {
        "kind": task.get("kind") or settings["finetune"]["task"]["kind"],
        "labels": list(task.get("labels") or record.get("labels") or ()),
        "best_by": settings["finetune"].get("best_by"),
        "parts": record.get("parts", {}),
        "class_weights": record.get("class_weights"),
        "notes": record.get("notes", []),
        "evaluation": evaluation or None,
    }


def _read(path: Place) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return value
