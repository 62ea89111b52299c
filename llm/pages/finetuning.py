"""Sections of a fine-tuned run's page: scores over its steps, its examples, how the classes were told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm.pages import blocks
from llm.pages.charts import Chart, axes, bar_axes, bars, label, points
from llm.pages.task_numbers import chosen_metrics

COLOURS = ("--blue", "--orange", "--green", "--violet", "--red", "--grey")
MOST_CELLS = 30  # classes of a confusion matrix that is drawn; a larger one is a table alone


def task_tiles(numbers: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Key numbers of a task: examples, and the best validation."""
    task, summary = numbers["task"], numbers["summary"]
    best, by = summary.get("best") or {}, task["best_by"]
    train = task["parts"].get("train", {})
    items = [
        ("Training examples", blocks.number(train.get("examples")), task["kind"].replace("_", " ")),
        ("Classes", blocks.number(len(task["labels"]) or None), ""),
        (f"Best {by}", blocks.number(best.get(by)), f"step {blocks.number(best.get('step'))}"),
    ]
    return [item for item in items if item[1] != "–"]


def task_sections(numbers: Mapping[str, Any]) -> tuple[str, list[Chart]]:
    """What a run's page shows of its task, and the charts in it."""
    task = numbers["task"]
    scores = score_chart(numbers["rows"], task["best_by"])
    counts = class_chart(task["parts"])
    charts = [chart for chart in (scores, counts) if chart is not None]
    body = blocks.section("Scores on the validation part", scores.html()) if scores else ""
    told, told_charts = evaluation_section(task)
    parts = [part_table(task["parts"])] if task["parts"] else []
    parts += [blocks.paragraph(note, "note") for note in task["notes"]]
    parts += [counts.html()] if counts else []
    body += told + (blocks.section("Examples", *parts) if parts else "")
    return body, [*charts, *told_charts]


def score_chart(rows: Sequence[Mapping[str, Any]], best_by: str | None) -> Chart | None:
    """Shares and correlations over the steps, those that are looked at first; `best_by` among them."""
    names = list(dict.fromkeys(name for row in rows for name in row if name.startswith("val_")))
    wanted = [name for name in chosen_metrics(names) if name != "val_loss"]
    if best_by in names and best_by not in (*wanted, "val_loss"):
        wanted.append(str(best_by))
    curves = {
        name: [(row["step"], row[name]) for row in rows if row.get(name) is not None] for name in wanted
    }
    curves = {name: curve for name, curve in curves.items() if curve}
    if not curves:
        return None
    traces = [
        points(label(name.removeprefix("val_")), [p[0] for p in curve], [p[1] for p in curve], colour)
        for (name, curve), colour in zip(curves.items(), COLOURS)
    ]
    steps = sorted({step for curve in curves.values() for step, _ in curve})
    found = {name: dict(curve) for name, curve in curves.items()}
    last = "; ".join(
        f"{n.removeprefix('val_')} {blocks.number(curve[-1][1], 3)}" for n, curve in curves.items()
    )
    return Chart(
        "scores", "Scores over the steps", f"Last values: {last}.", traces,
        axes("step (optimizer steps)", "share or correlation", 340), ["step", *curves],
        [[step, *(found[name].get(step) for name in curves)] for step in steps],
    )  # fmt: skip


def part_table(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """What each part holds, and what was left out of it."""
    known = ("examples", "rows", "tokens", "truncated", "windows")
    rows = [
        [name, *(part.get(key) for key in known), sum(part.get("left_out", {}).values())]
        for name, part in parts.items()
    ]
    reasons = [
        f"{name}: {reason.replace('_', ' ')} {count:,}"
        for name, part in parts.items()
        for reason, count in part.get("left_out", {}).items()
    ]
    table = blocks.table(["part", *known, "left out"], rows, "Examples of each part")
    return table + (blocks.paragraph("Left out: " + "; ".join(reasons) + ".", "note") if reasons else "")


def class_chart(parts: Mapping[str, Mapping[str, Any]]) -> Chart | None:
    """How many examples of each class each part has."""
    counts = {name: part.get("class_counts") or {} for name, part in parts.items()}
    classes = list(dict.fromkeys(name for part in counts.values() for name in part))
    if not classes:
        return None
    colours = {"train": "--blue", "val": "--orange", "test": "--green"}
    found = {part: [own.get(name, 0) for name in classes] for part, own in counts.items()}
    traces = [
        bars(label(part), own, classes, colours.get(part, "--grey"), [f"{n:,}" for n in own])
        for part, own in found.items()
    ]
    sums = ", ".join(f"{part} {sum(own):,}" for part, own in found.items())
    layout = {**bar_axes("examples", "class", len(classes)), "height": 110 + 24 * len(found) * len(classes)}
    rows = [[name, *(own[i] for own in found.values())] for i, name in enumerate(classes)]
    return Chart("classes", "Classes", f"Examples: {sums}.", traces, layout, ["class", *found], rows)


def evaluation_section(task: Mapping[str, Any]) -> tuple[str, list[Chart]]:
    """The metrics of the last evaluation with their intervals, each class, and the confusion matrix."""
    found = task["evaluation"]
    if not found or not found.get("metrics"):
        return "", []
    rows = [
        [name, *(each.get(key) for key in ("value", "low", "high"))]
        for name, each in found["metrics"].items()
    ]
    head = [
        "metric",
        "value",
        *(["from (95 %)", "to (95 %)"] if any(row[2] is not None for row in rows) else []),
    ]
    parts = [
        blocks.table(
            head,
            [row[: len(head)] for row in rows],
            f"Metrics over {blocks.number(found.get('examples'))} examples",
        )
    ]
    charts = []
    if found.get("classes"):
        parts.append(class_table(found["classes"]))
    if found.get("confusion") and len(found["confusion"]) <= MOST_CELLS:
        chart = confusion_chart(found["confusion"], [own["label"] for own in found["classes"]])
        charts.append(chart)
        parts.append(chart.html())
    return blocks.section(f"Evaluation: {found['data']}", *parts), charts


def class_table(classes: Sequence[Mapping[str, Any]]) -> str:
    """Precision, recall and F1 of each class, how many examples are of it, and how many were taken for it."""
    names = ("label", "precision", "recall", "f1", "examples", "guessed")
    rows = [[own[name] for name in names] for own in classes]
    return blocks.table(["class", *names[1:4], "examples", "taken for it"], rows, "Each class")


def confusion_chart(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> Chart:
    """Which class was taken for which: rows are the true classes, darker is a larger share of the row."""
    names = [label(name) for name in labels]
    shares = [[n / max(sum(row), 1) for n in row] for row in counts]
    right = sum(row[i] for i, row in enumerate(counts))
    total = sum(map(sum, counts))
    trace = {
        "type": "heatmap", "x": names, "y": names, "z": shares, "zmin": 0, "zmax": 1, "xgap": 2, "ygap": 2,
        "text": [[f"{n:,}" for n in row] for row in counts], "texttemplate": "%{text}", "showscale": False,
        "colorscale": [[0, "--surface"], [1, "--blue"]],
        "hovertemplate": "%{y} taken for %{x}: %{text}<extra></extra>",
    }  # fmt: skip
    layout = axes("taken for", "true class", 150 + 44 * len(names))
    layout["xaxis"] |= {"type": "category", "showgrid": False}
    layout["yaxis"] |= {"type": "category", "autorange": "reversed", "showgrid": False}
    layout["hovermode"] = "closest"
    rows = [[name, *row] for name, row in zip(labels, counts, strict=True)]
    sentence = f"{right:,} of {total:,} told right, on the diagonal."
    return Chart("confusion", "Confusion matrix", sentence, [trace], layout,
                 ["true class", *(f"taken for {name}" for name in labels)], rows)  # fmt: skip
