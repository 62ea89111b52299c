"""A run folder to numbers, and those to the blocks and charts of its page."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

from cluster.places import Place
from llm.pages import blocks
from llm.pages.charts import Chart, View, axes, line, mark_restarts, points
from llm.pages.finetuning import task_sections, task_tiles
from llm.pages.page import axis_switch
from llm.pages.task_numbers import loss_unit, task_numbers
from llm.train.run_folder import RunFolder, read_lines, read_metrics

Row = Mapping[str, Any]

MAX_POINTS = 2000  # a line on a screen has about as many pixels
SAMPLES_SHOWN = 6  # for each prompt; the others are folded


def run_numbers(run: Place) -> dict[str, Any]:
    """Everything that the page of a run shows, as plain values (this is its report.json)."""
    folder = RunFolder(run)
    rows = list({line["step"]: line for line in read_metrics(run)}.values())  # the last line of each step
    restarts = find_restarts(rows)
    kept = thin_rows(rows, {r["step"] for r in restarts})
    smoothed = dict(smooth(rows))
    settings = folder.read_settings()
    return {
        "kind": "run",
        "name": run.resolve().name,
        "key_numbers": key_numbers(rows, restarts),
        "rows": kept,
        "rows_in_metrics": len(rows),
        "smoothed_loss": [smoothed.get(row["step"]) for row in kept],
        "restarts": restarts,
        "samples": list(read_lines(folder.samples)),
        "settings": settings,
        "summary": folder.read_summary() or {},
        "task": task_numbers(run, settings),
    }


def key_numbers(rows: Sequence[Row], restarts: Sequence[Row]) -> dict[str, Any]:
    """The few numbers on top of the page, each from the logged steps alone."""
    losses = _column(rows, "loss")
    validation = _column(rows, "val_loss")
    times = _column(rows, "time")
    step_seconds = sum(_column(rows, "step_seconds"))
    return {
        "steps": rows[-1]["step"] if rows else 0,
        "tokens": _last(_column(rows, "tokens")),
        "samples": _last(_column(rows, "samples")),
        "loss": _last(losses),
        "first_val_loss": validation[0] if validation else None,
        "val_loss": _last(validation),
        "best_val_loss": min(validation, default=None),
        "bits_per_byte": _last(_column(rows, "bits_per_byte")),
        "masked_accuracy": _last(_column(rows, "val_masked_accuracy")),
        "nsp_accuracy": _last(_column(rows, "val_nsp_accuracy")),
        "tokens_per_second": median(_column(rows, "tokens_per_second") or [0]) or None,
        "mfu": median(_column(rows, "mfu") or [0]) or None,
        "goodput": _last(_column(rows, "goodput")),
        "memory_bytes": max(_column(rows, "memory_bytes"), default=None),
        "data_wait_share": sum(_column(rows, "data_wait_seconds")) / step_seconds if step_seconds else None,
        "checkpoint_stall_seconds": sum(stall_seconds(rows).values()),
        "seconds": times[-1] - times[0] if times else None,
        "restarts": _last(_column(rows, "restarts")) if _column(rows, "restarts") else len(restarts),
        "steps_with_no_finite_loss": sum(1 for row in rows if "loss" in row and _number(row["loss"]) is None),
    }


def find_restarts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The first step of each attempt after the first."""
    return [
        {"step": row["step"], "attempt": row.get("attempt")}
        for before, row in itertools.pairwise(rows)
        if row.get("attempt") != before.get("attempt")
    ]


def stall_seconds(rows: Sequence[Row]) -> dict[int, float]:
    """Step to the seconds that checkpoints held it up. A line has their sum since its attempt began."""
    found: dict[int, float] = {}
    attempt, before = None, 0.0
    for row in rows:
        since = _number(row.get("checkpoint_stall_seconds"))
        if since is not None:
            if row.get("attempt") != attempt:
                attempt, before = row.get("attempt"), 0.0
            found[row["step"]], before = since - before, since
    return found


def thin_rows(rows: Sequence[Row], always: set[int], most: int = MAX_POINTS) -> list[Row]:
    """About `most` logged lines, unchanged: of each stretch those with the least and the largest loss.

    Peaks stay to be seen, which an average would hide. Lines with a validation, the first, the last and those
    of a step in `always` are kept too.
    """
    if len(rows) <= most:
        return list(rows)
    width = math.ceil(len(rows) / (most // 2))
    keep = {0, len(rows) - 1}
    for start in range(0, len(rows), width):
        stretch = range(start, min(start + width, len(rows)))
        by_loss = [(loss, i) for i in stretch if (loss := _number(rows[i].get("loss"))) is not None]
        keep |= {min(by_loss)[1], max(by_loss)[1]} if by_loss else {start}
    keep |= {i for i, row in enumerate(rows) if row["step"] in always or row.get("val_loss") is not None}
    return [rows[i] for i in sorted(keep)]


def smooth(rows: Sequence[Row]) -> list[tuple[int, float]]:
    """(step, mean loss of the lines around it), the window a thirtieth of all lines.

    Centred, so that it does not lag behind a falling loss as a running mean does; it shrinks at both ends.
    """
    steps = [(row["step"], loss) for row in rows if (loss := _number(row.get("loss"))) is not None]
    sums = list(itertools.accumulate((loss for _, loss in steps), initial=0.0))
    half = len(steps) // 60
    result = []
    for i, (step, _) in enumerate(steps):
        reach = min(half, i, len(steps) - 1 - i)
        result.append((step, (sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1)))
    return result


def run_body(numbers: Mapping[str, Any]) -> tuple[str, list[Chart]]:
    """The page of a run: its HTML between header and footer, and its charts."""
    curves, charts = training_sections(numbers)
    told, told_charts = task_sections(numbers) if numbers["task"] else ("", [])
    tiles = [*(task_tiles(numbers) if numbers["task"] else []), *run_tiles(numbers)]
    body = blocks.tiles(tiles) + told + curves + sample_section(numbers["samples"])
    return body + settings_section(numbers), [*told_charts, *charts]


def run_tiles(numbers: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Key numbers, those that are known."""
    key = numbers["key_numbers"]
    wait, unit = key["data_wait_share"], loss_unit(numbers["settings"])
    items = [
        ("Parameters", blocks.short(numbers["summary"].get("parameters")), ""),
        ("Steps", blocks.number(key["steps"]), ""),
        ("Tokens trained on", blocks.short(key["tokens"]), ""),
        ("Training loss, last", blocks.number(key["loss"]), unit),
        ("Validation loss, last", blocks.number(key["val_loss"]), unit),
        ("Bits per byte, last", blocks.number(key["bits_per_byte"]), "validation"),
        ("Masked tokens right", blocks.number(key["masked_accuracy"], 3), "validation"),
        ("Next sentence right", blocks.number(key["nsp_accuracy"], 3), "chance: 0.5"),
        ("Throughput, median", blocks.short(key["tokens_per_second"]), "tokens/s"),
        ("Model FLOPs utilisation", _percent(key["mfu"]), "of the peak, median"),
        ("Waiting for data", _percent(wait, 2), "of step time"),
        ("Goodput", _percent(key["goodput"]), "of the time it ran"),
        ("Memory, fullest worker", blocks.size(key["memory_bytes"]), "peak"),
        ("First to last step", blocks.duration(key["seconds"]), ""),
        ("Restarts", blocks.number(key["restarts"]), ""),
    ]
    return [item for item in items if item[1] != "–"]


def training_sections(
    numbers: Mapping[str, Any], title: str = "Training", prefix: str = "", switch: bool = True
) -> tuple[str, list[Chart]]:
    """The curves of a run, under one switch of the horizontal axis (a page needs but one).

    `prefix` keeps the charts of several runs on one page apart.
    """
    if not numbers["rows"]:
        return blocks.section(title, blocks.paragraph("No step has been logged yet.", "warning")), []
    charts = training_charts(numbers, prefix)
    bad = numbers["key_numbers"]["steps_with_no_finite_loss"]
    warning = (
        blocks.paragraph(f"{bad:,} logged step{'s' * (bad > 1)} had a loss that is not finite.", "warning")
        if bad
        else ""
    )
    shown, logged = len(numbers["rows"]), numbers["rows_in_metrics"]
    note = (
        "" if shown == logged else f"Drawn: {shown:,} of {logged:,} logged steps, peaks and validations kept."
    )
    parts = [warning, axis_switch() if switch else "", blocks.paragraph(note, "note") if note else ""]
    return blocks.section(title, *parts, blocks.panels(chart.html() for chart in charts)), charts


def training_charts(numbers: Mapping[str, Any], prefix: str = "") -> list[Chart]:
    """Loss, bits per byte, accuracies, throughput, utilisation, learning rate, gradient norm, seconds of a
    step, goodput, memory: those with values."""
    rows, restarts = numbers["rows"], [r["step"] for r in numbers["restarts"]]
    smoothed = dict(zip((row["step"] for row in rows), numbers["smoothed_loss"], strict=True))
    chart = _ChartMaker(rows, restarts, prefix)
    validated = partial(_validated, numbers)
    candidates = [
        chart.make("loss", "Loss", f"loss ({loss_unit(numbers['settings'])})", [
            ("training", "loss", "--pale", 1),
            ("training, smoothed", smoothed, "--blue", 2.5),
            *validated("validation", "val_loss", "--orange"),
        ], height=400),
        chart.make("bits", "Bits per byte", "bits per UTF-8 byte", [
            *validated("validation", "bits_per_byte", "--orange"),
        ]),
        chart.make("terms", "Parts of the loss", "loss (nats per guess)", [
            ("masked tokens, training", "mlm_loss", "--pale", 1),
            *validated("masked tokens, validation", "val_mlm_loss", "--blue"),
            ("next sentence, training", "nsp_loss", "--pale", 1),
            *validated("next sentence, validation", "val_nsp_loss", "--orange"),
        ]),
        chart.make("accuracies", "Guesses that are right", "share of guesses (validation)", [
            *validated("masked tokens", "val_masked_accuracy", "--blue"),
            *validated("next sentence (chance: 0.5)", "val_nsp_accuracy", "--orange"),
        ]),
        chart.make("throughput", "Throughput", "tokens per second", [
            ("all workers together", "tokens_per_second", "--green", 1.5),
        ]),
        chart.make("mfu", "Model FLOPs utilisation", "share of the peak", [
            ("all workers together", "mfu", "--green", 1.5),
        ]),
        chart.make("rate", "Learning rate", "learning rate (no unit)", [
            ("learning rate", "lr", "--blue", 2),
        ]),
        chart.make("norm", "Gradient norm", "gradient L2 norm (no unit)", [
            ("before clipping", "grad_norm", "--blue", 1.5),
        ]),
        chart.make("seconds", "Where a step's time goes", "seconds in a step", [
            ("whole step", "step_seconds", "--blue", 1.5),
            ("waiting for data", "data_wait_seconds", "--orange", 1.5),
            ("stalled by checkpoints", stall_seconds(rows), "--red", 1.5),
        ]),
        chart.make("goodput", "Goodput", "share of the time it ran", [
            ("steps that count", "goodput", "--blue", 1.5),
        ]),
        chart.make("memory", "Memory", "GiB, peak so far", [
            ("fullest worker", _scaled(rows, "memory_bytes", 1 << 30), "--violet", 1.5),
        ]),
    ]  # fmt: skip
    return [chart for chart in candidates if chart is not None]


Curve = tuple[str, str | Mapping[int, Any], str, float]
"""Its label, metric (or step to value), colour, and width, where 0 means points."""


def _validated(numbers: Mapping[str, Any], text: str, metric: str, color: str) -> Iterator[Curve]:
    """The curve of a validation, in two where those on the way took a part of the samples.

    The one after the last step takes all: a line to it would show a change that may be of the samples alone.
    """
    settings = numbers["settings"]
    wanted = settings.get("pretrain") or settings.get("finetune", {})
    most, end = wanted.get("validation", {}).get("max_samples"), wanted.get("steps")
    if most is None:
        yield text, metric, color, 0
        return
    found = {row["step"]: row.get(metric) for row in numbers["rows"]}
    on_the_way = {step: value for step, value in found.items() if step != end}
    yield f"{text}, first {most:,} samples", on_the_way, color, 0
    at_the_end = {"--orange": "--violet", "--blue": "--green"}[color]
    yield f"{text}, all samples", {end: found.get(end)}, at_the_end, 0


class _ChartMaker:
    """Curves of one run over steps, tokens and time, with its restarts marked."""

    def __init__(self, rows: Sequence[Row], restarts: Sequence[int], prefix: str = "") -> None:
        self.rows, self.restarts, self.prefix = rows, restarts, prefix
        start = next((t for row in rows if (t := _number(row.get("time"))) is not None), 0.0)
        times = {row["step"]: _number(row.get("time")) for row in rows}
        span = max((t - start for t in times.values() if t is not None), default=0.0)
        unit, seconds = next(u for u in _TIME_UNITS if span >= 2 * u[1] or u[1] == 1)
        self.across: dict[str, tuple[str, dict[int, Any]]] = {
            "steps": ("step (optimizer steps)", {row["step"]: row["step"] for row in rows}),
            "tokens": ("tokens trained on", {row["step"]: _tokens(row) for row in rows}),
            "time": (
                f"time since the first logged line ({unit})",
                {step: None if t is None else (t - start) / seconds for step, t in times.items()},
            ),
        }

    def make(
        self,
        name: str,
        title: str,
        unit: str,
        lines: Sequence[Curve],
        height: int = 300,
    ) -> Chart | None:
        """A chart of those `lines` that have values."""
        drawn = []
        for text, metric, color, width in lines:
            values = self._values(metric)
            if values:
                drawn.append((text, values, color, width))
        if not drawn:
            return None
        traces = [
            line(text, list(values), list(values.values()), color, width)
            if width
            else points(text, list(values), list(values.values()), color)
            for text, values, color, width in drawn
        ]
        layout = mark_restarts(axes(self.across["steps"][0], unit, height), self.restarts)
        shown = sorted({step for _, values, _, _ in drawn for step in values})
        table = [[step, *(values.get(step) for _, values, _, _ in drawn)] for step in shown]
        columns = ["step", *(f"{text} ({unit})" for text, _, _, _ in drawn)]
        views = {
            across: View(
                axis, [[at[s] for s in values] for _, values, _, _ in drawn], [at[s] for s in self.restarts]
            )
            for across, (axis, at) in self.across.items()
        }
        return Chart(
            self.prefix + name, title, self._sentence(drawn, unit), traces, layout, columns, table, views
        )

    def _values(self, metric: str | Mapping[int, Any]) -> dict[int, float]:
        get = metric.get if isinstance(metric, Mapping) else None
        found = {row["step"]: _number(get(row["step"]) if get else row.get(str(metric))) for row in self.rows}
        return {step: value for step, value in found.items() if value is not None}

    def _sentence(self, drawn: Sequence[tuple[str, Mapping[int, float], str, float]], unit: str) -> str:
        parts = []
        for text, values, _, _ in drawn:
            ends = list(values.values())
            if "smoothed" not in text:
                ends = ends[:: max(1, len(ends) - 1)]
                parts.append(f"{text} {' → '.join(map(blocks.number, ends))}")
        marks = f" Restarts (dashed) at step {', '.join(map(str, self.restarts))}." if self.restarts else ""
        return f"First → last value, {unit}: {'; '.join(parts)}.{marks}"


_TIME_UNITS = (("days", 86400), ("hours", 3600), ("minutes", 60), ("seconds", 1))


def sample_section(samples: Sequence[Row]) -> str:
    """Texts that the model wrote as it learned, prompt by prompt in the order of steps."""
    if not samples:
        return ""
    parts = [blocks.paragraph("What the model writes after a prompt (bold), as it learns.", "note")]
    for prompt in dict.fromkeys(str(sample.get("prompt", "")) for sample in samples):
        own = [sample for sample in samples if str(sample.get("prompt", "")) == prompt]
        own.sort(key=lambda sample: _number(sample.get("step")) or 0)
        chosen = blocks.thin(own, SAMPLES_SHOWN)
        parts.append(_cards(chosen))
        others = [sample for sample in own if not any(sample is kept for kept in chosen)]
        if others:
            parts.append(blocks.folded(f"{len(others)} more of this prompt", _cards(others)))
    return blocks.section("Samples", *parts)


def _cards(samples: Sequence[Row]) -> str:
    return blocks.sample_cards(samples, [f"Step {blocks.number(sample.get('step'))}" for sample in samples])


def settings_section(numbers: Mapping[str, Any]) -> str:
    """Settings, environment and summary, folded."""
    sections = {name: value for name, value in numbers["settings"].items() if isinstance(value, dict)}
    single = {name: value for name, value in numbers["settings"].items() if not isinstance(value, dict)}
    parts = [
        blocks.folded(name.capitalize(), blocks.values_table(value, name))
        for name, value in [*sections.items(), *([("run", single)] if single else [])]
    ]
    if numbers["summary"]:
        parts.append(blocks.folded("Summary", blocks.values_table(numbers["summary"], "summary.json")))
    return blocks.section("Settings and environment", *parts) if parts else ""


def _column(rows: Sequence[Row], name: str) -> list[float]:
    return [value for row in rows if (value := _number(row.get(name))) is not None]


def _number(value: Any) -> Any:
    """The value if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def _scaled(rows: Sequence[Row], name: str, unit: float) -> dict[int, float]:
    """Step to a number in another unit."""
    return {row["step"]: value / unit for row in rows if (value := _number(row.get(name))) is not None}


def _percent(share: float | None, digits: int = 3) -> str:
    return "–" if share is None else f"{100 * share:.{digits}g} %"


def _tokens(row: Row) -> Any:
    """Tokens trained on so far; the line before the first step has validation alone."""
    return _number(row.get("tokens")) if row["step"] else 0


def _last(values: Sequence[Any]) -> Any:
    return values[-1] if values else None
