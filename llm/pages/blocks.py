"""Pieces of a page: tiles, tables, cards. Every text that comes from data is escaped here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

MAX_TABLE_ROWS = 200
CUT = " …"


def number(value: Any, digits: int = 4) -> str:
    """A number as a person reads it: thousands apart, `digits` significant digits, nothing for None."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "not finite"
    if isinstance(value, int) or (abs(value) >= 10 ** (digits - 1)):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def short(value: float | None) -> str:
    """A large number in thousands, millions or billions: 12.3 M."""
    if value is None:
        return "–"
    for limit, unit in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= limit:
            scaled = value / (1e3 if unit == " k" else limit)
            return f"{scaled:.3g}{unit}"
    return number(value)


def size(amount: float | None) -> str:
    """Bytes as a person says them: 812 MiB, 61.4 GiB."""
    if amount is None:
        return "–"
    for limit, unit in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if amount >= limit:
            return f"{amount / limit:,.{1 if amount < 100 * limit else 0}f} {unit}"
    return f"{amount / 1024:,.0f} KiB"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: 48 s, 3 min 20 s, 5 h 12 min."""
    if seconds is None:
        return "–"
    if seconds < 59.5:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{''.join(parts)}</section>\n"


def panels(charts: Iterable[str]) -> str:
    """Charts in a grid: the first as wide as the page, the others two in a row where there is room."""
    return f'<div class="panels">{"".join(charts)}</div>\n'


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; `kind` is '', 'note', 'lead' or 'warning'."""
    return f"<p{f' class={kind}' if kind else ''}>{escape(text)}</p>\n"


def tiles(items: Iterable[tuple[str, str, str]]) -> str:
    """Key numbers on top of a page: (label, value, unit)."""
    cells = "".join(
        f'<div class="tile"><dt>{escape(label)}</dt><dd>{escape(value)}'
        f"{f' <small>{escape(unit)}</small>' if unit else ''}</dd></div>"
        for label, value, unit in items
    )
    return f'<dl class="tiles">{cells}</dl>\n'


def table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str, mark_first: bool = False
) -> str:
    """A table; a long one is thinned evenly to MAX_TABLE_ROWS, first and last row kept, and says so.

    `mark_first`: its first row stands out.
    """
    shown = thin(rows, MAX_TABLE_ROWS)
    if len(shown) < len(rows):
        caption = f"{caption} ({len(shown)} of {len(rows):,} rows, evenly chosen)"
    numeric = [_is_numeric(row[i] for row in shown) for i in range(len(columns))]
    kinds = [' class="number"' if flag else "" for flag in numeric]
    head = "".join(f'<th scope="col"{kind}>{escape(c)}</th>' for c, kind in zip(columns, kinds, strict=True))
    body = "".join(
        f"<tr{' class=marked' if mark_first and not i else ''}>"
        + "".join(f"<td{kind}>{escape(number(v))}</td>" for v, kind in zip(row, kinds, strict=True))
        + "</tr>\n"
        for i, row in enumerate(shown)
    )
    return (
        f'<div class="scroll"><table>{f"<caption>{escape(caption)}</caption>" if caption else ""}'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>\n"
    )


def thin(rows: Sequence[Any], most: int) -> list[Any]:
    """At most `most` rows, evenly chosen, first and last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[i * (len(rows) - 1) // (most - 1)] for i in range(most)]


def folded(title: str, inside: str) -> str:
    """Something that opens at a click."""
    return f"<details><summary>{escape(title)}</summary>{inside}</details>\n"


def values_table(values: Mapping[str, Any], caption: str) -> str:
    """Nested settings as rows of dotted name and value."""
    return table(["name", "value"], [[name, _text(value)] for name, value in flatten(values)], caption)


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += flatten(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value))
    return rows


def sample_cards(samples: Sequence[Mapping[str, Any]], titles: Sequence[str]) -> str:
    """Generated texts side by side; the prompt at the start of a text stands out, one that ends inside a
    line, since it was asked for so many tokens, shows that it is cut."""
    cards = "".join(
        f'<article class="card"><h4>{escape(title)}</h4>'
        f'<pre tabindex="0">{_prompt_and_text(str(s.get("prompt", "")), str(s.get("text", "")))}</pre>'
        "</article>\n"
        for s, title in zip(samples, titles, strict=True)
    )
    return f'<div class="cards">{cards}</div>\n'


def _prompt_and_text(prompt: str, text: str) -> str:
    rest = text[len(prompt) :] if text.startswith(prompt) else text
    cut = "" if rest.endswith("\n") else f'<span class="cut">{CUT}</span>'
    return f'<span class="prompt">{escape(prompt)}</span>{escape(rest)}{cut}'


def _is_numeric(values: Iterable[Any]) -> bool:
    kinds = [isinstance(v, int | float) for v in values if v is not None]
    return bool(kinds) and all(kinds)


def _text(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return str(value).lower() if value is not None else "null"
    return value if isinstance(value, int | float | str) else str(value)
