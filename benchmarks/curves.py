"""Curves to a picture (SVG): some lines, or pairs of curves above and how far apart they are below."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

WIDTH, LEFT, RIGHT = 760, 64, 24
UPPER, LOWER = (86, 340), (396, 486)  # top and bottom of each panel
HEIGHT = 546
COLORS = ("#0a5fbf", "#c2570c", "#2e7d32", "#7b3fa0")
GRID, INK = "#d8dde3", "#1f2933"


class Curve(NamedTuple):
    """Ours and theirs: a value by step."""

    name: str
    ours: Mapping[int, float]
    theirs: Mapping[int, float]


class Scale(NamedTuple):
    """Values to places on the page."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def draw(title: str, curves: Sequence[Curve], unit: str = "nats/token", within: float = 0.005) -> str:
    """The picture. `within`: the difference that is allowed, as a share; a band in the lower panel."""
    values = [v for curve in curves for side in (curve.ours, curve.theirs) for v in side.values()]
    steps = Scale(0, max(step for curve in curves for step in curve.ours), LEFT, WIDTH - RIGHT)
    losses = Scale(*_rounded(min(values), max(values)), UPPER[1], UPPER[0])
    apart = [[(s, 100 * (c.ours[s] / c.theirs[s] - 1)) for s in sorted(c.ours)] for c in curves]
    most = max([100 * within, *(abs(value) for line in apart for _, value in line)]) * 1.3
    shares = Scale(-most, most, LOWER[1], LOWER[0])
    parts = [
        _text(LEFT, 26, title, size=15, weight="bold"),
        *_legend(curves),
        *_grid(steps, losses, UPPER, lambda v: f"{v:g}"),
        _text(LEFT, UPPER[0] - 10, f"validation loss, {unit}"),
    ]
    for curve, color in zip(curves, COLORS, strict=False):
        parts.append(_line([(steps.at(s), losses.at(v)) for s, v in sorted(curve.ours.items())], color))
        parts += [_circle(steps.at(s), losses.at(v), color) for s, v in sorted(curve.theirs.items())]
    bound = 100 * within
    band = shares.at(-bound) - shares.at(bound)
    parts += [
        f'<rect x="{LEFT}" y="{shares.at(bound)}" width="{WIDTH - LEFT - RIGHT}" height="{band:.1f}" '
        'fill="#0a5fbf" fill-opacity="0.08"/>',
        *_grid(steps, shares, LOWER, lambda v: f"{v:+g} %" if v else "0", [-bound, 0, bound]),
        _text(LEFT, LOWER[0] - 8, f"ours over theirs; the band is {bound:g} % to each side"),
    ]
    for line, color in zip(apart, COLORS, strict=False):
        parts.append(_line([(steps.at(s), shares.at(v)) for s, v in line], color))
    parts += [
        _text(steps.at(step), LOWER[1] + 18, f"{step:g}", anchor="middle") for step in ticks(0, steps.high)
    ]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, LOWER[1] + 40, "steps", anchor="middle"))
    return _svg(title, HEIGHT, parts)


def plot(title: str, x: str, y: str, lines: Mapping[str, Mapping[float, float]], log_x: bool = False) -> str:
    """Lines by name, each a value by place, with points where they were measured; y begins at 0."""
    place = math.log10 if log_x else float
    xs = sorted({at for line in lines.values() for at in line})
    across = Scale(place(xs[0]), place(xs[-1]), LEFT, WIDTH - RIGHT)
    most = max(value for line in lines.values() for value in line.values())
    up = Scale(0, ticks(0, 1.15 * most, 24)[-1], UPPER[1], UPPER[0])
    parts = [_text(LEFT, 26, title, size=15, weight="bold"), _text(LEFT, UPPER[0] - 10, y)]
    for value in ticks(0, up.high):
        parts.append(f'<path d="M{LEFT} {up.at(value)}H{WIDTH - RIGHT}" stroke="{GRID}"/>')
        parts.append(_text(LEFT - 8, up.at(value) + 4, f"{value:g}", anchor="end"))
    for at in xs:
        parts.append(
            _text(
                across.at(place(at)),
                UPPER[1] + 18,
                f"{at:,.0f}" if at >= 1000 else f"{at:g}",
                anchor="middle",
            )
        )
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, UPPER[1] + 40, x, anchor="middle"))
    beside = LEFT
    for (name, line), color in zip(lines.items(), COLORS, strict=False):
        points = [(across.at(place(at)), up.at(value)) for at, value in sorted(line.items())]
        parts += [_line(points, color), *(_circle(*point, color) for point in points)]
        parts += [_line([(beside, 46), (beside + 22, 46)], color), _text(beside + 27, 50, name)]
        beside += 40 + 7 * len(name)
    return _svg(title, UPPER[1] + 60, parts)


def _svg(title: str, height: int, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="sans-serif" font-size="12" fill="{INK}" role="img">\n'
        f"<title>{escape(title)}</title>\n"
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Round numbers in [low, high], at most so many."""
    rough = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _rounded(low: float, high: float) -> tuple[float, float]:
    """A range of round numbers around both."""
    room = max(high - low, 1e-6)
    found = ticks(low - room, high + room, 24)
    return max(t for t in found if t <= low), min(t for t in found if t >= high)


def _legend(curves: Sequence[Curve]) -> Iterator[str]:
    x = LEFT
    for curve, color in zip(curves, COLORS, strict=False):
        yield _line([(x, 42), (x + 22, 42)], color)
        yield _text(x + 27, 46, curve.name)
        x += 90
    yield _circle(x + 10, 42, INK)
    yield _text(x + 20, 46, "theirs; lines are ours")


def _grid(
    steps: Scale,
    values: Scale,
    panel: tuple[int, int],
    label: Callable[[float], str],
    at: Sequence[float] | None = None,
) -> Iterator[str]:
    for value in ticks(values.low, values.high) if at is None else at:
        y = values.at(value)
        yield f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="{GRID}"/>'
        yield _text(LEFT - 8, y + 4, label(value), anchor="end")
    for step in ticks(0, steps.high):
        yield f'<path d="M{steps.at(step)} {panel[0]}V{panel[1]}" stroke="{GRID}"/>'


def _line(points: Sequence[tuple[float, float]], color: str) -> str:
    path = "L".join(f"{x:g} {y:g}" for x, y in points)
    return f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="1.6"/>'


def _circle(x: float, y: float, color: str) -> str:
    return f'<circle cx="{x}" cy="{y}" r="3.5" fill="#ffffff" stroke="{color}" stroke-width="1.4"/>'


def _text(
    x: float, y: float, words: str, anchor: str = "start", size: int = 12, weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}">{escape(words)}</text>'
    )
