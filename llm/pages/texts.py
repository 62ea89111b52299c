"""Sections of a corpus' page: what its texts are like, what cleaning changed, what making it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm.pages import blocks
from llm.pages.charts import Chart, bar_axes, bars, column_axes, columns

# Name of a histogram to its title and the unit of its bins, which are exponents of two, tenths or numbers.
_TITLES = {
    "characters_log2": ("Characters of a document", "characters, from"),
    "words_log2": ("Words of a document", "words, from"),
    "mean_word_length": ("Mean length of a word", "characters"),
    "terminal_lines": ("Lines that end with punctuation", "% of a document's lines, from"),
    "duplicate_line_characters": ("Text in lines that stood before", "% of a document's characters, from"),
    "duplicate_5_grams": ("Text in five words that stood before", "% of a document's characters, from"),
}
_SHARES = ("terminal_lines", "duplicate_line_characters", "duplicate_5_grams")


def text_section(numbers: Mapping[str, Any]) -> tuple[str, list[Chart]]:
    """Histograms of the documents that stay, and the changes of cleaning."""
    histograms = numbers["histograms"]
    charts = [_histogram(name, histograms[name]) for name in _TITLES if histograms.get(name)]
    if histograms.get("language"):
        charts.insert(0, _languages(histograms["language"]))
    parts = [blocks.panels(chart.html() for chart in charts)] if charts else []
    if numbers["changes"]:
        rows = [
            [kind.replace("_", " "), *(counts[name] for name in ("documents", "count"))]
            for kind, counts in numbers["changes"].items()
        ]
        parts.append(
            blocks.table(["what was cleaned", "documents", "places"], rows, "Changes inside documents")
        )
    if numbers["corrections"]:
        rows = [[each["before"], each["after"], each["count"]] for each in numbers["corrections"]]
        parts.append(
            blocks.folded("Spelling", blocks.table(["before", "after", "times"], rows, "Some of the words"))
        )
    return (blocks.section("Texts that stay", *parts), charts) if parts else ("", [])


def _histogram(name: str, bins: Mapping[str, int]) -> Chart:
    title, unit = _TITLES[name]
    numbers = range(min(map(int, bins)), max(map(int, bins)) + 1)
    names = [_bin(name, number) for number in numbers]
    counts = [bins.get(str(number), 0) for number in numbers]
    return Chart(
        f"texts-{name}",
        title,
        f"{sum(counts):,} documents.",
        [columns("documents", names, counts, "--blue")],
        column_axes(unit, "documents"),
        [unit, "documents"],
        list(zip(names, counts, strict=True)),
    )


def _bin(name: str, number: int) -> str:
    if name.endswith("_log2"):
        return f"{2**number:,}"
    return str(10 * number if name in _SHARES else number)


def _languages(bins: Mapping[str, int]) -> Chart:
    rows = sorted(bins.items(), key=lambda row: -row[1])[:20]
    names, counts = [row[0] for row in rows], [row[1] for row in rows]
    return Chart(
        "texts-language",
        "Language of the documents",
        f"The most: {names[0]}, {counts[0]:,} of {sum(bins.values()):,} documents.",
        [bars("documents", counts, names, "--blue", [f"{count:,}" for count in counts])],
        bar_axes("documents", "language", len(rows)),
        ["language", "documents"],
        rows,
    )


def cost_section(numbers: Mapping[str, Any]) -> tuple[str, list[Chart]]:
    """What each stage took, and how much text it put through for each CPU second of its tasks."""
    costs, seconds = numbers["costs"], numbers["seconds"]
    if not seconds:
        return "", []
    size = numbers["counts"]["bytes"]["in"]
    rows = []
    for stage in seconds:
        cost = costs.get(stage, {})
        busy = cost.get("cpu_seconds")
        rows.append([stage, cost.get("tasks"), seconds[stage], busy, size / 1e6 / busy if busy else None])
    names, spent = [row[0] for row in rows], [row[2] for row in rows]
    chart = Chart(
        "stages",
        "Seconds by stage",
        f"{blocks.duration(sum(spent))} in the last start.",
        [bars("seconds", spent, names, "--blue", [blocks.duration(value) for value in spent])],
        bar_axes("seconds", "stage", len(rows)),
        ["stage", "seconds"],
        [[row[0], row[2]] for row in rows],
    )
    head = ["stage", "tasks", "seconds", "CPU seconds of the tasks", "MB of raw text a CPU second"]
    return blocks.section("Time", chart.html(), blocks.table(head, rows, "Cost of each stage")), [chart]
