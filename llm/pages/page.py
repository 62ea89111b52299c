"""Blocks and charts to one self-contained HTML file that asks no network for anything."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from llm.pages.charts import Chart

HERE = Path(__file__).parent

# The browser itself refuses whatever is not in the page: the promise "no network" does not rest on our care.
# plotly saves a chart as a picture through data: and blob:.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)

ACROSS = {"steps": "steps", "tokens": "tokens", "time": "time"}

ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Cpath d='M8 2 15 8 8 14 1 8Z' fill='%230a5fbf'/%3E%3C/svg%3E"
)


def page(title: str, lead: str, body: str, charts: Sequence[Chart]) -> str:
    """A whole page. `body` is HTML made by blocks; it holds the place of every chart in `charts`."""
    specs = {chart.name: chart.spec() for chart in charts}
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)} · Manta</title>
<link rel="icon" href="{ICON}">
<style>
{_read("page.css")}</style>
</head>
<body>
<header><h1>{escape(title)}</h1>
<p class="lead">{escape(lead)}</p></header>
<main>
{body}</main>
<footer>Made by Manta. The same numbers, for programs: report.json beside this page.
<noscript>The charts need JavaScript; each has its numbers in a table below it.</noscript></footer>
<script type="application/json" id="charts">{script_json(specs)}</script>
<script>{get_plotlyjs()}</script>
<script>
{_read("page.js")}</script>
</body>
</html>
"""


def axis_switch() -> str:
    """The switch of the horizontal axis; page.js redraws every chart that has views."""
    choices = "".join(
        f'<label><input type="radio" name="across" value="{name}"{" checked" if name == "steps" else ""}>'
        f"{text}</label>"
        for name, text in ACROSS.items()
    )
    return f'<fieldset class="switch"><legend>Draw against</legend>{choices}</fieldset>\n'


def script_json(value: Any) -> str:
    """JSON that is safe inside a script element: no text in it can close the element or open a comment."""
    text = json.dumps(finite(value), separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def finite(value: Any) -> Any:
    """The value with NaN and infinities as None: JSON has neither, and a chart shows a gap."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
