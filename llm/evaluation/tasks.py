"""A fine-tuned model on a part of its examples, or on another file: metrics with intervals, tables, words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster import places
from cluster.errors import UserError
from llm.evaluation.answers import judge_answers
from llm.evaluation.subject import Subject
from llm.settings import FinetuneSettings
from llm.tasks.bootstrap import intervals
from llm.tasks.example_rows import Examples
from llm.tasks.examples import ExampleSet, open_examples
from llm.tasks.judged import Classes, Judged, ManyLabels, class_name
from llm.tasks.judging import numbers_of
from llm.tasks.other_examples import examples_of_file
from llm.tasks.scoring import evaluate_part
from llm.train.group import Group
from llm.train.objective import Objective

PARTS = ("train", "val", "test")
WIDEST = 20  # classes of which the confusion is printed


@dataclass(frozen=True)
class Chosen:
    """The examples that are measured."""

    what: str
    examples: Examples
    notes: Sequence[str] = field(default=())


def part_of_run(subject: Subject, split: str | None) -> Chosen:
    """A part of the run's own examples: by default test, else val. UserError where it is not there."""
    recorded = subject.settings["examples"]
    try:
        found = open_examples(places.at(recorded["path"]))
    except UserError as error:
        raise UserError(f"{error}; or give --data FILE") from None
    if found.record["digest"] != recorded["digest"]:
        raise UserError(
            f"{recorded['path']}: not the examples that the run was trained on (their files changed): give "
            "--data FILE"
        )
    name = split or _default(found)
    part = found.part(name, weighted=False)
    if part is None:
        raise UserError(
            f"--split {name}: the run has no such part; it has {', '.join(found.parts)}. Give --split or "
            "--data FILE"
        )
    return Chosen(f"{name} part", part)


def _default(found: ExampleSet) -> str:
    if others := [name for name in ("test", "val") if name in found.parts]:
        return others[0]
    raise UserError(
        "the run has no test part and no validation part, and what a model has learned by heart measures "
        "nothing: give --data FILE, or --split train to see that"
    )


def part_of_file(subject: Subject, file: str) -> Chosen:
    """All examples of a file, which are to be of the run's task."""
    settings = FinetuneSettings.model_validate(subject.settings["finetune"])
    model = subject.model.settings.kind
    examples, notes = examples_of_file(file, settings, subject.settings["task"], subject.tokenizer, model)
    return Chosen(file, examples, notes)


def measure_task(
    subject: Subject,
    chosen: Chosen,
    precision: str,
    batch: int,
    resamples: int,
    generate: bool,
    group: Group,
) -> tuple[dict[str, Any], str]:
    """The numbers, and lines that say them; intervals on the first worker alone."""
    examples, kind = chosen.examples, chosen.examples.kind
    objective = Objective(subject.model, precision).eval()
    scored = evaluate_part(subject.model, objective, examples, group, batch)
    resamples = resamples if group.rank == 0 else 0  # the first worker speaks for all
    metrics = with_intervals(scored.judged, resamples)
    if generate:
        texts, written = judge_answers(subject, examples.references(), batch, group)
        metrics |= with_intervals(written, resamples)
    result = {
        "data": chosen.what,
        "step": subject.step,
        "kind": kind,
        "examples": scored.judged.examples,
        "rows": scored.rows,
        "metrics": metrics,
        **tables(scored.judged),
    }
    if generate:
        result["answers"] = texts
    if chosen.notes:
        result["notes"] = list(chosen.notes)
    return result, words(result)


def with_intervals(judged: Judged, resamples: int) -> dict[str, dict[str, float]]:
    """Of each metric its `value`, and the `low` and `high` of its 95 % interval where there are resamples."""
    found = {name: {"value": value} for name, value in numbers_of(judged).items()}
    for name, (low, high) in intervals(judged.numbers, judged.examples, resamples).items():
        found[name] |= {"low": low, "high": high}
    return found


def tables(judged: Judged) -> dict[str, Any]:
    """Of a task with classes: each one's numbers; and which were taken for which."""
    if not isinstance(judged, Classes | ManyLabels):
        return {}
    tally = judged.tally()
    parts = {
        "precision": tally.precision, "recall": tally.recall, "f1": tally.f1, "examples": tally.actual,
        "guessed": tally.guessed,
    }  # fmt: skip
    rows: list[dict[str, Any]] = [
        {"label": label, **{name: float(values[at]) for name, values in parts.items()}}
        for at, label in enumerate(judged.labels)
    ]
    for row in rows:
        row |= {name: round(row[name]) for name in ("examples", "guessed")}
    found: dict[str, Any] = {"classes": rows}
    if isinstance(judged, Classes):
        found["confusion"] = judged.confusion().astype(int).tolist()
    return found


def words(result: Mapping[str, Any]) -> str:
    """The result for people."""
    lines = [
        f"{result['data']}: {result['kind']}, {result['examples']:,} examples in {result['rows']:,} rows, "
        f"step {result['step']}"
    ]
    by_class = {class_name("f1", row["label"]) for row in result.get("classes", ())}
    shown = {name: each for name, each in result["metrics"].items() if name not in by_class}
    wide = max(map(len, shown))
    for name, each in shown.items():
        interval = f"  (95 %: {each['low']:.4f} to {each['high']:.4f})" if "low" in each else ""
        lines.append(f"  {name:<{wide}}  {each['value']:.4f}{interval}")
    if "classes" in result:
        unit = "words" if result["kind"] == "token_classification" else "examples"
        lines += ["", *_table(["class", "precision", "recall", "f1", unit, "guessed"], _class_rows(result))]
    if "confusion" in result:
        lines += ["", *_confusion(result)]
    lines += [f"note: {note}" for note in result.get("notes", ())]
    return "\n".join(lines)


def _class_rows(result: Mapping[str, Any]) -> list[list[str]]:
    return [
        [row["label"], *(f"{row[name]:.4f}" for name in ("precision", "recall", "f1"))]
        + [f"{row[name]:,}" for name in ("examples", "guessed")]
        for row in result["classes"]
    ]


def _confusion(result: Mapping[str, Any]) -> list[str]:
    labels = [row["label"] for row in result["classes"]]
    if len(labels) > WIDEST:
        return [f"  the confusion of {len(labels)} classes is in --json"]
    rows = [
        [label, *(f"{count:,}" for count in counts)] for label, counts in zip(labels, result["confusion"])
    ]
    return ["  true class (down) taken for (across):", *_table(["", *labels], rows)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns: the first to the left, all others to the right."""
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    return [
        "  " + "  ".join(f"{cell:{'>' if at else '<'}{widths[at]}}" for at, cell in enumerate(row)).rstrip()
        for row in (head, *rows)
    ]
