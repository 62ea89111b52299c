"""Classes of a task: their order, how often each occurs, what each weighs, what is odd about them."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence

from cluster.errors import UserError
from llm.finetune_settings import TaskKind
from llm.tasks.example_fields import Answers, Example

WITH_CLASSES = ("classification", "multi_label", "token_classification")
IMBALANCED = 4  # times as many of the most frequent class as of the rarest: worth a line
_SHOWN = 5


def classes_of(examples: Sequence[Example]) -> list[str]:
    """All classes of examples: by value where all are whole numbers, else by their characters."""
    found = {name for example in examples for name in example.classes}
    try:
        return sorted(found, key=lambda name: (int(name), name))
    except ValueError:
        return sorted(found)


def choose_labels(kind: TaskKind, given: Sequence[str], examples: Sequence[Example]) -> list[str]:
    """The classes in their order: those given, else those of the training part. UserError for too few."""
    if kind not in WITH_CLASSES:
        if given:
            raise UserError(f"finetune.task.labels: task.kind {kind} has no classes: leave it out")
        return []
    if len(set(given)) < len(given):
        twice = next(name for name, count in Counter(given).items() if count > 1)
        raise UserError(f"finetune.task.labels: '{twice}' stands there twice")
    labels = list(given) or classes_of(examples)
    seen = {name for example in examples for name in example.classes}
    if kind != "multi_label" and len(seen) < 2:
        only = f"only the class '{next(iter(seen))}'" if seen else "no class"
        raise UserError(f"finetune.data: the training part has {only}: there is nothing to tell apart")
    if kind == "multi_label" and not seen:
        raise UserError(
            "finetune.data: no example of the training part has a class: there is nothing to learn"
        )
    return labels


def unknown_class(example: Example, labels: Sequence[str], where: str) -> str | None:
    """What is wrong with the classes of an example, or None. `where`: what the classes are of."""
    for name in example.classes:
        if name not in labels:
            near = difflib.get_close_matches(name, labels, n=1, cutoff=0.6)
            hint = f"; did you mean '{near[0]}'?" if near else f" ({_named(labels)})"
            return f"class '{name}' is none of {where}{hint}"
    return None


def count_classes(examples: Sequence[Example], labels: Sequence[str], per_word: bool) -> dict[str, int]:
    """Examples of each class; of token_classification words."""
    found: Counter[str] = Counter()
    for example in examples:
        if per_word and isinstance(example.label, tuple) and not isinstance(example.label, Answers):
            found.update(example.label)
        else:
            found.update(example.classes)
    return {name: found[name] for name in labels}


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """examples / (classes x examples of the class), as scikit-learn's "balanced"; 0 for a class without one.

    King and Zeng 2001. Classes without an example do not count among the classes.
    """
    whole, there = sum(counts), sum(1 for count in counts if count)
    return [whole / (there * count) if count else 0.0 for count in counts]


def notes_on_classes(kind: TaskKind, counts: dict[str, int], balanced: bool) -> list[str]:
    """What is odd about the classes of the training part, a line each."""
    notes = []
    what = "words" if kind == "token_classification" else "examples"
    if absent := [name for name, count in counts.items() if not count]:
        notes.append(f"no {what} of class {_named(absent)} in the training part: it cannot be learned")
    there = {name: count for name, count in counts.items() if count}
    if there and kind != "multi_label":
        most, least = max(there, key=there.__getitem__), min(there, key=there.__getitem__)
        if there[most] >= IMBALANCED * there[least]:
            advice = "" if balanced else "; finetune.task.class_weights balanced counts all alike"
            notes.append(
                f"classes are unbalanced: {there[most]:,} {what} of '{most}', {there[least]:,} of '{least}'; "
                f"compare models by f1_macro, not by accuracy{advice}"
            )
    alike: dict[str, list[str]] = {}
    for name in counts:
        alike.setdefault(" ".join(name.casefold().split()), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            notes.append(f"classes {_named(names)} differ only by capitals or blanks: are they one?")
    return notes


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + more
