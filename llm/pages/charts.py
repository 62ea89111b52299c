"""Numbers to plotly specifications. A chart has titles and units on both axes, and a table behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from llm.pages.blocks import folded, table


@dataclass(frozen=True)
class View:
    """Another horizontal axis for a chart: x values of each trace, and of each restart mark."""

    title: str
    x: list[list[Any]]
    marks: list[Any]


@dataclass(frozen=True)
class Chart:
    """A picture: what it shows in one sentence (read aloud, too), the plotly parts, its table."""

    name: str
    title: str
    sentence: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    views: Mapping[str, View] = field(default_factory=dict)

    def spec(self) -> dict[str, Any]:
        """What the page's script needs to draw it."""
        views = {name: vars(view) for name, view in self.views.items()}
        return {"traces": self.traces, "layout": self.layout, "views": views}

    def html(self) -> str:
        """The place that it is drawn in, with its title, its sentence and its table."""
        return (
            f'<div class="panel"><h3>{escape(self.title)}</h3>\n'
            f'<p class="note">{escape(self.sentence)}</p>\n'
            f'<div class="chart" id="{escape(self.name)}" role="img" aria-label="{escape(self.sentence)}" '
            f'style="height:{self.layout.get("height", 380)}px"></div>\n'
            + folded("Numbers behind this chart", table(self.columns, self.rows, self.title))
            + "</div>\n"
        )


def label(text: str) -> str:
    """A text from data as plotly may show it (plotly reads a few HTML tags in any text)."""
    return escape(text, quote=False)


def axes(x: str, y: str, height: int = 380, log_y: bool = False) -> dict[str, Any]:
    """A layout whose axes both have a title, with the unit in it."""
    return {
        "height": height,
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}, **({"type": "log"} if log_y else {})},
        "hovermode": "x unified",
    }


def line(
    name: str, x: Sequence[Any], y: Sequence[Any], color: str, width: float = 2, **more: Any
) -> dict[str, Any]:
    """A line; `color` is a CSS variable of page.css, such as --blue."""
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": list(x), "y": list(y),
        "line": {"color": color, "width": width}, "hovertemplate": "%{y:.5g}", **more,
    }  # fmt: skip


def points(
    name: str, x: Sequence[Any], y: Sequence[Any], color: str, symbol: str = "circle"
) -> dict[str, Any]:
    """Points, for what is measured now and then."""
    return {
        "type": "scatter", "mode": "lines+markers", "name": name, "x": list(x), "y": list(y),
        "line": {"color": color, "width": 1, "dash": "dot"},
        "marker": {"color": color, "size": 9, "symbol": symbol}, "hovertemplate": "%{y:.5g}",
    }  # fmt: skip


def bars(
    name: str, x: Sequence[Any], y: Sequence[str], color: str | Sequence[str], text: Sequence[str] = ()
) -> dict[str, Any]:
    """Horizontal bars, so that long names stay readable on a phone."""
    return {
        "type": "bar", "orientation": "h", "name": name, "x": list(x), "y": [label(word) for word in y],
        "marker": {"color": color if isinstance(color, str) else list(color)},
        "text": [label(word) for word in text], "textposition": "auto", "textangle": 0, "cliponaxis": False,
        "insidetextfont": {"color": "--page"},
        "hovertemplate": "%{y}: %{x:,.6~g}<extra>" + label(name) + "</extra>",
    }  # fmt: skip


def bar_axes(x: str, y: str, count: int, stacked: bool = False) -> dict[str, Any]:
    """A layout for horizontal bars, the first on top."""
    return {
        "height": 110 + 36 * max(count, 1),
        "xaxis": {"title": {"text": x}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": y}, "autorange": "reversed", "type": "category"},
        "barmode": "stack" if stacked else "group",
        "bargap": 0.3,
        "legend": {"traceorder": "normal"},
    }


def columns(name: str, x: Sequence[str], y: Sequence[Any], color: str) -> dict[str, Any]:
    """Upright bars, for the bins of a histogram."""
    return {
        "type": "bar", "name": name, "x": [label(word) for word in x], "y": list(y),
        "marker": {"color": color}, "hovertemplate": "%{y:,} " + label(name) + "<extra></extra>",
    }  # fmt: skip


def column_axes(x: str, y: str) -> dict[str, Any]:
    """A layout for upright bars."""
    layout = axes(x, y, 300)
    return {**layout, "xaxis": {**layout["xaxis"], "type": "category"}, "bargap": 0.08}


def mark_restarts(layout: dict[str, Any], at: Sequence[Any]) -> dict[str, Any]:
    """A layout with a dashed upright line, named, at each restart."""
    shapes = [
        {
            "type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1,
            "line": {"color": "--violet", "width": 1.5, "dash": "dash"},
        }
        for x in at
    ]  # fmt: skip
    text = "restart" if len(at) <= 4 else "↻"
    font = {"color": "--violet", "size": 11}
    place = {"xref": "x", "yref": "paper", "y": 1, "xanchor": "left", "yanchor": "top", "showarrow": False}
    notes = [{"x": x, "text": text, "font": font, **place} for x in at]
    return {**layout, "shapes": shapes, "annotations": notes}
