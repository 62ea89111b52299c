"""A sweep's folder to numbers: its trials by rank, their curves, what its settings explain."""

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
from llm.pages.importance import importances
from llm.pages.training import smooth
from llm.train.run_folder import read_lines, read_metrics

FORMAT = "manta-sweep-1"
OF_A_TRIAL = ("trial", "status", "step", "seconds", "start_seconds", "parent", "checkpoint", "why")
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
    drawn = {each["trial"]: curves(sweep / "trials" / each["trial"], metric, len(trials)) for each in trials}
    return {
        "kind": "sweep",
        "name": sweep.resolve().name,
        "metric": metric,
        "mode": mode,
        "space": record["space"],
        "settings": [name for name in column_names(table) if is_setting(name, record["space"])],
        "key_numbers": key_numbers(trials, drawn, summary),
        "best": best,
        "trials": trials,
        "curves": drawn,
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
        **{name: row.get(name) or None for name in ("parent", "checkpoint", "why")},
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


def key_numbers(
    trials: Sequence[Mapping[str, Any]],
    drawn: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]],
    summary: Mapping[str, Any],
) -> dict[str, Any]:
    """The few numbers on top of the page."""
    statuses = Counter(str(trial["status"]) for trial in trials)
    starts = [trial["start_seconds"] for trial in trials if trial["start_seconds"] is not None]
    seconds = [trial["seconds"] for trial in trials if trial["seconds"] is not None]
    return {
        "trials": summary.get("trials", len(trials)),
        "finished": bool(summary.get("finished")),
        "stopped_early": summary.get("stopped_early", statuses.get("stopped_early", 0)),
        "statuses": dict(sorted(statuses.items())),
        "seconds": sum(seconds) if seconds else None,
        "start_seconds": median(starts) if starts else None,
        "steps": sum(curve["loss"][-1][0] for curve in drawn.values() if curve["loss"]),
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
