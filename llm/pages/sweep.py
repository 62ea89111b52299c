"""A sweep's numbers to the blocks and charts of its page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from llm.pages import blocks
from llm.pages.charts import Chart
from llm.pages.importance import FEW, LEAST
from llm.pages.sweep_charts import importance_chart, lineage_chart, loss_chart, metric_chart, parallel_chart
from llm.pages.task_numbers import chosen_metrics


def sweep_body(numbers: Mapping[str, Any]) -> tuple[str, list[Chart]]:
    """The page of a sweep: its HTML between header and footer, and its charts."""
    body, charts = sweep_sections(numbers)
    folded = [blocks.folded("All metrics of all trials", full_table(numbers))] if numbers["trials"] else []
    folded += [
        blocks.folded(name.capitalize(), blocks.values_table(numbers[name], f"{name} of the sweep"))
        for name in ("record", "summary")
        if numbers[name]
    ]
    return blocks.tiles(sweep_tiles(numbers)) + body + blocks.section("Everything", *folded), charts


def sweep_tiles(numbers: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Key numbers, those that are known."""
    key, best = numbers["key_numbers"], numbers["best"]
    value = best["metrics"].get(numbers["metric"]) if best else None
    items = [
        ("Trials", blocks.number(key["trials"]), "" if key["finished"] else "not finished yet"),
        ("Stopped early", blocks.number(key["stopped_early"]), ""),
        ("Failed", blocks.number(key["statuses"].get("failed")), ""),
        ("Best " + numbers["metric"], blocks.number(value), goal(numbers["mode"])),
        ("Best trial", str(best["trial"]) if best else "–", ""),
        ("Steps, all trials", blocks.number(key["steps"]), ""),
        ("Time, all trials", blocks.duration(key["seconds"]), "added up"),
        ("Start of a trial, median", blocks.duration(key["start_seconds"]), "until its first step"),
    ]
    return [item for item in items if item[1] != "–"]


def goal(mode: str) -> str:
    return "the highest is best" if mode == "max" else "the lowest is best"


def sweep_sections(numbers: Mapping[str, Any], prefix: str = "") -> tuple[str, list[Chart]]:
    """Table, curves, settings and lineage of a sweep; `prefix` keeps its charts apart from others'."""
    if not numbers["trials"]:
        return blocks.section("Trials", blocks.paragraph("No trial has begun yet.", "warning")), []
    drawn = [loss_chart(numbers, prefix), metric_chart(numbers, prefix)]
    curve_charts = [chart for chart in drawn if chart is not None]
    body = blocks.section("Trials", trial_table(numbers))
    if curve_charts:
        body += blocks.section("Curves", *(chart.html() for chart in curve_charts))
    settings, setting_charts = setting_section(numbers, prefix)
    lineage, lineage_charts = lineage_section(numbers, prefix)
    return body + settings + lineage, [*curve_charts, *setting_charts, *lineage_charts]


def trial_table(numbers: Mapping[str, Any]) -> str:
    """The trials, the best first and marked, with the metrics that matter most."""
    metric, best = numbers["metric"], numbers["best"]
    shown = [metric, *(m for m in chosen_metrics(metric_names(numbers)) if m != metric)]
    columns, rows = table_of(numbers, shown)
    marked = bool(best) and numbers["trials"][0]["trial"] == best["trial"]
    if marked:
        rows[0][0] = "1, best"
    rows = [["" if row[0] is None else str(row[0]), *row[1:]] for row in rows]
    caption = f"By {metric}, each trial at its best step: {goal(numbers['mode'])}"
    return blocks.table(columns, rows, caption, mark_first=marked)


def full_table(numbers: Mapping[str, Any]) -> str:
    """The trials with every metric that they have."""
    return blocks.table(*table_of(numbers, metric_names(numbers)), "trials.csv")


def metric_names(numbers: Mapping[str, Any]) -> list[str]:
    return list(numbers["trials"][0]["metrics"])


def table_of(numbers: Mapping[str, Any], metrics: Sequence[str]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the trials with these metrics."""
    settings, trials = numbers["settings"], numbers["trials"]
    last = ["seconds", *(name for name in ("parent", "why") if any(trial[name] for trial in trials))]
    columns = ["rank", "trial", "status", "best step", *metrics, *short_names(settings).values(), *last]
    rows = [
        [
            trial["rank"],
            trial["trial"],
            str(trial["status"]).replace("_", " "),
            trial["step"],
            *(trial["metrics"].get(name) for name in metrics),
            *(trial["settings"].get(name) for name in settings),
            *(trial[name] for name in last),
        ]
        for trial in trials
    ]
    return columns, rows


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Dotted names without what comes before the last dot, where that leaves them apart."""
    ends = Counter(name.rpartition(".")[2] for name in names)
    return {
        name: end if ends[end := name.rpartition(".")[2]] == 1 else ".".join(name.split(".")[-2:])
        for name in names
    }


def setting_section(numbers: Mapping[str, Any], prefix: str = "") -> tuple[str, list[Chart]]:
    """Which settings lead where: parallel coordinates, and what each explains."""
    names = short_names(numbers["settings"])
    parallel, bars = parallel_chart(numbers, names, prefix), importance_chart(numbers, names, prefix)
    charts = [chart for chart in (parallel, bars) if chart is not None]
    parts = [chart.html() for chart in charts]
    if 0 < numbers["compared"] < FEW:
        few = "too few to say anything" if numbers["compared"] < LEAST else "few: the shares may be chance"
        warning = f"Importance of the settings: {numbers['compared']} trials have the metric, {few}."
        parts.append(blocks.paragraph(warning, "warning"))
    return (blocks.section("Settings", *parts), charts) if parts else ("", [])


def lineage_section(numbers: Mapping[str, Any], prefix: str = "") -> tuple[str, list[Chart]]:
    """Which trial took over from which, where a population was trained."""
    chart = lineage_chart(numbers, prefix)
    return ("", []) if chart is None else (blocks.section("Lineage", chart.html()), [chart])
