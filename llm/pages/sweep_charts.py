"""Charts of a sweep: curves of its trials, parallel coordinates, importance of the settings, lineage."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm.pages import blocks
from llm.pages.charts import Chart, axes, bar_axes, bars, label, line, points
from llm.pages.importance import is_number

COLOURS = ("--blue", "--orange", "--violet", "--red", "--grey")
DASHES = ("solid", "dash", "dot", "dashdot")
BEST = "--green"
NAMED = 12
"""Most trials that a chart names beside it; of more each is named under the pointer."""
GROUPS = {
    "running": "--pale", "failed": "--red", "diverged": "--orange", "stopped early": "--grey",
    "finished": "--blue", "best": BEST,
}  # fmt: skip
"""Status of a trial to its colour; what is drawn later lies above."""
LOG_SPAN = 30  # between the least and the largest value of a setting that is drawn by its logarithm
TICKS = 8  # most values that are written beside an axis


def loss_chart(numbers: Mapping[str, Any], prefix: str = "") -> Chart | None:
    """The training loss of every trial."""
    return _curves(
        numbers, "loss", prefix + "losses", "Training loss of every trial", "training loss, smoothed (nats)"
    )


def metric_chart(numbers: Mapping[str, Any], prefix: str = "") -> Chart | None:
    """What the trials are compared by, over their steps."""
    metric = numbers["metric"]
    return _curves(numbers, "metric", prefix + "metric", f"{metric} of every trial", metric)


def _curves(numbers: Mapping[str, Any], what: str, name: str, title: str, unit: str) -> Chart | None:
    best = (numbers["best"] or {}).get("trial")
    found = [(t["trial"], curve) for t in numbers["trials"] if (curve := numbers["curves"][t["trial"]][what])]
    if not found:
        return None
    traces, others = [], 0
    for trial, curve in found:
        steps, values = [p[0] for p in curve], [p[1] for p in curve]
        colour, dash = BEST, "solid"
        if trial != best:
            colour, dash = COLOURS[others % len(COLOURS)], DASHES[others // len(COLOURS) % len(DASHES)]
            others += 1
        text = label(f"{trial}, best" if trial == best else trial)
        trace = points(text, steps, values, colour) if what == "metric" else line(text, steps, values, colour)
        trace["line"] = {"color": colour, "dash": dash, "width": 3 if trial == best else 1.5}
        trace["hovertemplate"] = "step %{x}: %{y:.5g}"
        traces.append(trace)
    layout = {
        **axes("step (optimizer steps)", unit, 360),
        "hovermode": "closest",
        "showlegend": len(found) <= NAMED,
    }
    rows = [[trial, step, value] for trial, curve in found for step, value in curve]
    ends = [(curve[-1][1], trial) for trial, curve in found]
    last = f"Last values from {blocks.number(min(ends)[0])} to {blocks.number(max(ends)[0])}"
    of_best = next((f"; the best trial, {t}: {blocks.number(end)}" for end, t in ends if t == best), "")
    sentence = f"{last}{of_best}. A trial that was stopped early ends before the others."
    return Chart(name, title, sentence, traces, layout, ["trial", "step", unit], rows)


@dataclass(frozen=True)
class Scale:
    """An axis of parallel coordinates: values to heights in [0, 1], and what is written at which height."""

    heights: list[float | None]
    ticks: list[tuple[float, str]]


def scale(values: Sequence[Any], is_log: bool = False) -> Scale:
    """Numbers from least to most, by logarithm where `is_log`; anything else evenly, in sorted order.

    None (a trial without a value) has no height.
    """
    known = [value for value in values if value is not None]
    if known and is_number(known) and len({float(value) for value in known}) > 1:
        turn = math.log if is_log and min(known) > 0 else float
        low, high = turn(min(known)), turn(max(known))
        heights = [None if value is None else (turn(value) - low) / (high - low) for value in values]
        chosen = (
            blocks.thin(sorted(set(known)), TICKS) if len(set(known)) <= TICKS else [min(known), max(known)]
        )
        return Scale(heights, [((turn(v) - low) / (high - low), blocks.number(v)) for v in chosen])
    names = sorted({_word(value) for value in known})
    at = {name: (i + 0.5) / len(names) for i, name in enumerate(names)}
    heights = [None if value is None else at[_word(value)] for value in values]
    return Scale(heights, blocks.thin([(height, name) for name, height in at.items()], TICKS))


def is_log(name: str, space: Mapping[str, Any], values: Sequence[Any]) -> bool:
    """Whether a setting is drawn by its logarithm: it was drawn so, or its values are far apart."""
    form = space.get(name)
    if isinstance(form, Mapping) and any(str(key).startswith("log") for key in form):
        return True
    known = [value for value in values if value is not None]
    return bool(known) and is_number(known) and min(known) > 0 and max(known) >= LOG_SPAN * min(known)


def parallel_chart(numbers: Mapping[str, Any], names: Mapping[str, str], prefix: str = "") -> Chart | None:
    """A line for each trial through its settings to what it reached. `names`: how settings are written."""
    metric, trials = numbers["metric"], numbers["trials"]
    columns = {name: [trial["settings"].get(name) for trial in trials] for name in numbers["settings"]}
    columns = {name: values for name, values in columns.items() if len(set(map(_word, values))) > 1}
    reached = [trial["metrics"].get(metric) for trial in trials]
    if not columns or all(value is None for value in reached):
        return None
    scales = [scale(values, is_log(name, numbers["space"], values)) for name, values in columns.items()]
    scales.append(scale(reached))
    written = [*(names.get(name, name) for name in columns), metric]
    best = (numbers["best"] or {}).get("trial")
    traces = []
    for group, colour in GROUPS.items():
        own = [i for i, trial in enumerate(trials) if group_of(trial, best) == group]
        if not own:
            continue
        x, y, texts = [], [], []
        for i in own:  # one trace for the group: None ends a trial's line
            values = [*(columns[name][i] for name in columns), reached[i]]
            x += [*range(len(scales)), None]
            y += [*(each.heights[i] for each in scales), None]
            texts += [
                *(label(f"{trials[i]['trial']}: {n} {_word(v)}") for n, v in zip(written, values)),
                "",
            ]
        traces.append({
            "type": "scatter", "mode": "lines+markers", "name": f"{group} ({len(own)})", "x": x, "y": y,
            "text": texts, "hovertemplate": "%{text}<extra></extra>",
            "line": {"color": colour, "width": 4 if group == "best" else 1.5},
            "marker": {"color": colour, "size": 6},
        })  # fmt: skip
    ticks = [(i, height, text) for i, each in enumerate(scales) for height, text in each.ticks]
    layout = axes(f"settings, and {metric} last", "from the least to the most of each", 420)
    layout["xaxis"] |= {
        "tickvals": list(range(len(scales))), "ticktext": [label(name) for name in written],
        "range": [-0.15, len(scales) - 0.55], "zeroline": False, "gridcolor": "--grey",
    }  # fmt: skip
    layout["yaxis"] |= {"showticklabels": False, "showgrid": False, "zeroline": False, "range": [-0.06, 1.06]}
    layout["annotations"] = [
        {
            "x": at, "y": height, "text": label(text), "showarrow": False, "xanchor": "left", "xshift": 7,
            "bgcolor": "--page", "font": {"color": "--text", "size": 11}, "opacity": 0.85,
        }
        for at, height, text in ticks
    ]  # fmt: skip
    layout["hovermode"] = "closest"
    rows = [[t["trial"], *(t["settings"].get(n) for n in columns), r] for t, r in zip(trials, reached)]
    sentence = "Each line is a trial: through its settings to what it reached, however many steps it took."
    return Chart(prefix + "parallel", "Settings and what they led to", sentence, traces, layout,
                 ["trial", *written], rows)  # fmt: skip


def group_of(trial: Mapping[str, Any], best: str | None) -> str:
    """Which colour a trial has."""
    status = "best" if trial["trial"] == best else str(trial["status"]).replace("_", " ")
    return status if status in GROUPS else "running"


def importance_chart(numbers: Mapping[str, Any], names: Mapping[str, str], prefix: str = "") -> Chart | None:
    """How much of the metric's variance each setting explains by itself."""
    found = numbers["importance"]
    if not found:
        return None
    written = [names.get(each["setting"], each["setting"]) for each in found]
    beside = [f"{blocks.number(each['share'], 2)}, by chance {_percent(each['chance'])}" for each in found]
    return Chart(
        prefix + "importance",
        "Importance of each setting",
        f"Share of the variance of {numbers['metric']} (by ranks) that each setting explains by itself: of "
        "numbers Spearman's correlation squared, of all else the share between groups (Kruskal and Wallis). "
        "Beside it how often a random order of the trials gives as much.",
        [
            bars("share", [each["share"] for each in found], written, "--blue", beside),
        ],
        {**bar_axes("share of the variance (0 to 1)", "setting", len(found)), "showlegend": False},
        ["setting", "share of the variance", "method", "direction", "as much by chance", "trials", "values"],
        [
            [each[key] for key in ("setting", "share", "method", "direction", "chance", "trials", "values")]
            for each in found
        ],
    )  # fmt: skip


def lineage_chart(numbers: Mapping[str, Any], prefix: str = "") -> Chart | None:
    """Which trial went on from the weights of which, where a population was trained."""
    changes = numbers["lineage"]
    if not changes:
        return None
    trials = sorted(
        {trial["trial"] for trial in numbers["trials"]} | {c[k] for c in changes for k in ("trial", "from")}
    )
    height = {trial: i for i, trial in enumerate(trials)}
    best = (numbers["best"] or {}).get("trial")
    last = {trial["trial"]: trial["step"] or 0 for trial in numbers["trials"]}
    traces = [
        {
            **line(label(trial), [0, last.get(trial, 0)], [height[trial]] * 2,
                   BEST if trial == best else "--pale", 3 if trial == best else 1.5),
            "hovertemplate": f"{label(trial)}<extra></extra>", "showlegend": False,
        }
        for trial in trials
    ]  # fmt: skip
    told = [f"{c['trial']} from {c['from']} at its step {c['from_step']}: {_changed(c)}" for c in changes]
    traces.append({
        "type": "scatter", "mode": "markers", "name": "goes on from another",
        "x": [c["step"] for c in changes], "y": [height[c["trial"]] for c in changes],
        "text": [label(text) for text in told],
        "marker": {"color": "--violet", "size": 9}, "hovertemplate": "step %{x}: %{text}<extra></extra>",
    })  # fmt: skip
    layout = axes("step (optimizer steps)", "trial", 110 + 32 * len(trials))
    layout["hovermode"] = "closest"
    layout["yaxis"] |= {
        "tickvals": list(height.values()), "ticktext": [label(trial) for trial in height],
        "autorange": "reversed", "zeroline": False,
    }  # fmt: skip
    layout["annotations"] = [
        {
            "x": change["step"], "y": height[change["trial"]],
            "ax": change["from_step"], "ay": height[change["from"]],
            "xref": "x", "yref": "y", "axref": "x", "ayref": "y", "showarrow": True, "text": "",
            "arrowhead": 2, "arrowwidth": 1.5, "arrowcolor": "--violet", "standoff": 5,
        }
        for change in changes
    ]  # fmt: skip
    rows = [[c["step"], c["trial"], c["from"], c["from_step"], _changed(c)] for c in changes]
    sentence = f"{len(changes)} times a trial went on from the weights of a better one, with other settings."
    return Chart(prefix + "lineage", "Who goes on from whom", sentence, traces, layout,
                 ["step", "trial", "goes on from", "at its step", "with"], rows)  # fmt: skip


def _changed(change: Mapping[str, Any]) -> str:
    """The settings that a trial went on with."""
    old, new = change["old"], change["new"]
    changed = [f"{name} {_word(value)}" for name, value in new.items() if old.get(name) != value]
    return ", ".join(changed) or "its settings as they were"


def _word(value: Any) -> str:
    """A value of a setting as it is written."""
    if isinstance(value, bool) or value is None or not isinstance(value, int | float | str):
        return json.dumps(value)
    return blocks.number(value)


def _percent(share: float) -> str:
    return "under 1 %" if share < 0.01 else f"{100 * share:.0f} %"
