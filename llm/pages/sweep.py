"""A sweep's folder to numbers, and those to the blocks and charts of its page."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from cluster.errors import RunError, UserError
from cluster.places import Place
from llm.pages import blocks
from llm.pages.charts import Chart
from llm.pages.importance import FEW, LEAST, importances
from llm.pages.sweep_charts import importance_chart, lineage_chart, loss_chart, metric_chart, parallel_chart
from llm.pages.task_numbers import chosen_metrics
from llm.pages.training import smooth
from llm.train.run_folder import read_lines, read_metrics

FORMAT = "manta-sweep-1"
OF_A_TRIAL = ("trial", "status", "step", "seconds", "start_seconds", "parent")
"""Columns of trials.csv that are neither a setting nor a metric."""
POINTS = 8000  # of the curves of all trials together


def sweep_numbers(sweep: Place) -> dict[str, Any]:
    """Everything that the page of a sweep shows, as plain values (this is its report.json)."""
    record = read_object(sweep / "sweep.json")
    if record.get("format") != FORMAT:
        raise UserError(
            f"{sweep / 'sweep.json'}: format {record.get('format')!r}, this version reads {FORMAT!r}"
        )
    summary = read_object(sweep / "summary.json", needed=False)
    metric, mode = record["metric"], record["mode"]
    table = read_table(sweep / "trials.csv")
    trials = ranked([as_trial(row, record["space"]) for row in table], metric, mode)
    best = summary.get("best") or best_of(trials, metric)
    return {
        "kind": "sweep",
        "name": sweep.resolve().name,
        "metric": metric,
        "mode": mode,
        "space": record["space"],
        "settings": [name for name in column_names(table) if is_setting(name, record["space"])],
        "key_numbers": key_numbers(trials, summary),
        "best": best,
        "trials": trials,
        "curves": {
            trial["trial"]: curves(sweep / "trials" / trial["trial"], metric, len(trials)) for trial in trials
        },
        "importance": [asdict(each) for each in explained(trials, metric)],
        "compared": len(compared(trials, metric)),
        "lineage": list(read_lines(sweep / "lineage.jsonl")),
        "record": record,
        "summary": summary,
    }


def read_object(path: Place, needed: bool = True) -> dict[str, Any]:
    """A JSON file's object. RunError where it is damaged; without `needed`, {} where it is not there."""
    try:
        value: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        if needed:
            raise UserError(f"{path}: no such file") from None
        return {}
    except ValueError as error:
        raise RunError(f"{path}: damaged: {error}") from None
    return value


def read_table(path: Place) -> list[dict[str, str]]:
    """The rows of trials.csv; none while no trial has begun."""
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        return []
    return list(csv.DictReader(io.StringIO(text, newline="")))


def column_names(table: Sequence[Mapping[str, str]]) -> list[str]:
    return list(table[0]) if table else []


def is_setting(name: str, space: Mapping[str, Any]) -> bool:
    """Whether a column is a setting of the space; what has a dot in its name can be nothing else."""
    return name in space or "." in name


def as_trial(row: Mapping[str, str], space: Mapping[str, Any]) -> dict[str, Any]:
    """A row of trials.csv with values instead of text, settings and metrics apart."""
    values = {name: as_value(text) for name, text in row.items()}
    return {
        **{name: values.get(name) for name in OF_A_TRIAL},
        "trial": row["trial"],  # a name, also where it looks like a number
        "parent": row.get("parent") or None,
        "settings": {name: value for name, value in values.items() if is_setting(name, space)},
        "metrics": {
            name: value
            for name, value in values.items()
            if name not in OF_A_TRIAL and not is_setting(name, space)
        },
    }


def as_value(text: str) -> Any:
    """What a cell holds: None where it is empty, a value of JSON, else the text."""
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "nan": math.nan, "inf": math.inf, "-inf": -math.inf}.get(
            text, text
        )


def ranked(trials: Sequence[dict[str, Any]], metric: str, mode: str) -> list[dict[str, Any]]:
    """The trials with their rank, the best first; those without a number of the metric last, unranked."""
    sign = -1 if mode == "max" else 1

    def order(trial: Mapping[str, Any]) -> tuple[bool, float, str]:
        value = score_of(trial, metric)
        return (value is None, 0.0 if value is None else sign * value, trial["trial"])

    rank = 0
    found = []
    for trial in sorted(trials, key=order):
        has = score_of(trial, metric) is not None
        rank += has
        found.append({"rank": rank if has else None, **trial})
    return found


def score_of(trial: Mapping[str, Any], metric: str) -> float | None:
    """A trial's number of the metric, where it is finite."""
    value = trial["metrics"].get(metric)
    is_real = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_real else None


def best_of(trials: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any] | None:
    """The best so far, as a finished sweep's summary names it; None where no trial has the metric."""
    if not trials or score_of(trials[0], metric) is None:
        return None
    return {name: trials[0][name] for name in ("trial", "settings", "metrics")}


def compared(trials: Sequence[Mapping[str, Any]], metric: str) -> list[Mapping[str, Any]]:
    """The trials that have the metric."""
    return [trial for trial in trials if score_of(trial, metric) is not None]


def explained(trials: Sequence[Mapping[str, Any]], metric: str) -> list[Any]:
    """The importance of each setting over the trials that have the metric."""
    having = compared(trials, metric)
    if not having:
        return []
    columns = {name: [trial["settings"].get(name) for trial in having] for name in having[0]["settings"]}
    return importances(columns, [float(score_of(trial, metric) or 0.0) for trial in having])


def key_numbers(trials: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> dict[str, Any]:
    """The few numbers on top of the page."""
    statuses = Counter(str(trial["status"]) for trial in trials)
    starts = [trial["start_seconds"] for trial in trials if trial["start_seconds"] is not None]
    seconds = [trial["seconds"] for trial in trials if trial["seconds"] is not None]
    return {
        "trials": summary.get("trials", len(trials)),
        "finished": bool(summary.get("finished")),
        "stopped_early": summary.get("stopped_early", statuses.get("stopped", 0)),
        "statuses": dict(sorted(statuses.items())),
        "seconds": sum(seconds) if seconds else None,
        "start_seconds": median(starts) if starts else None,
        "steps": sum(trial["step"] or 0 for trial in trials),
    }


def curves(run: Place, metric: str, trials: int) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of a trial: its smoothed training loss, and the sweep's metric."""
    try:
        rows = list({line["step"]: line for line in read_metrics(run)}.values())
    except UserError:  # it has not begun, or it failed before it had a folder
        return {"loss": [], "metric": []}
    rows.sort(key=lambda row: row["step"])
    found = [(row["step"], row[metric]) for row in rows if isinstance(row.get(metric), int | float)]
    most = max(50, POINTS // max(trials, 1))
    return {"loss": blocks.thin(smooth(rows), most), "metric": blocks.thin(found, most)}


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
        body += blocks.section("Curves", blocks.panels(chart.html() for chart in curve_charts))
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
    caption = f"By {metric}: {goal(numbers['mode'])}"
    return blocks.table(columns, rows, caption, mark_first=marked)


def full_table(numbers: Mapping[str, Any]) -> str:
    """The trials with every metric that they have."""
    return blocks.table(*table_of(numbers, metric_names(numbers)), "trials.csv")


def metric_names(numbers: Mapping[str, Any]) -> list[str]:
    return list(numbers["trials"][0]["metrics"])


def table_of(numbers: Mapping[str, Any], metrics: Sequence[str]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the trials with these metrics."""
    settings, trials = numbers["settings"], numbers["trials"]
    last = ["seconds", *(["parent"] if any(trial["parent"] for trial in trials) else [])]
    columns = ["rank", "trial", "status", "step", *metrics, *short_names(settings).values(), *last]
    rows = [
        [
            *(trial[name] for name in ("rank", "trial", "status", "step")),
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
