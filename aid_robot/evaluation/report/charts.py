"""Charts as SVG text, drawn with the page's own fonts and colours."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

# Okabe and Ito's palette, which colour-blind readers can tell, the strongest first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#6b6b6b")
_WIDTH, _HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 12, 34


@dataclass(frozen=True)
class Line:
    """A curve with a band; x, values and ends of the same length, NaN for gaps."""

    label: str
    colour: str
    x: Sequence[float]
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    dashed: bool = False


def draw_lines(lines: Sequence[Line], *, title: str, x_label: str) -> str:
    """Draw curves into one frame of axes."""
    numbers = [
        v for line in lines for part in (line.values, line.low, line.high) for v in part
        if math.isfinite(v)
    ]  # fmt: skip
    places = [x for line in lines for x in line.x]
    if not numbers:
        return ""
    ticks = _ticks(min(numbers), max(numbers))
    low, high = ticks[0], ticks[-1]
    first, last = min(places), max(places)
    span = (last - first) or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - first) / span * (_WIDTH - _LEFT - _RIGHT)
        down = _TOP + (high - y) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)
        return round(across, 1), round(down, 1)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(title)}">']
    digits = next(d for d in range(12) if all(round(t, d) == t for t in ticks))
    for tick in ticks:
        x, y = at(first, tick)
        right = _WIDTH - _RIGHT
        parts.append(f'<path class="grid" d="M{x} {y}H{right}"/>')
        parts.append(f'<text class="tick" x="{x - 6}" y="{y + 3.5}" text-anchor="end">'
                     f"{tick:.{digits}f}</text>")  # fmt: skip
    for tick in _whole_ticks(first, last):
        x, y = at(tick, low)
        parts.append(
            f'<text class="tick" x="{x}" y="{y + 15}" text-anchor="middle">{tick:g}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="tick" x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">'
        f"{html.escape(x_label)}</text>"
    )
    for line in lines:
        known = [i for i, v in enumerate(line.values) if math.isfinite(v)]
        band = [i for i in known if math.isfinite(line.low[i]) and math.isfinite(line.high[i])]
        if len(band) > 1:
            edge = [at(line.x[i], line.high[i]) for i in band]
            edge += [at(line.x[i], line.low[i]) for i in reversed(band)]
            points = " ".join(f"{x},{y}" for x, y in edge)
            parts.append(f'<polygon points="{points}" fill="{line.colour}" opacity="0.13"/>')
    for line in lines:
        known = [i for i, v in enumerate(line.values) if math.isfinite(v)]
        points = " ".join("{},{}".format(*at(line.x[i], line.values[i])) for i in known)
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{line.colour}" stroke-width="2"'
            f' stroke-linejoin="round"{dash}/>'
        )
    return "".join([*parts, "</svg>"])


def draw_share(value: float, low: float, high: float, chance: float, colour: str) -> str:
    """Draw a share from 0 to 1 with its interval, and where chance is."""
    width, height, pad = 260, 30, 8

    def x(share: float) -> float:
        return round(pad + share * (width - 2 * pad), 1)

    parts = [
        f'<svg viewBox="0 0 {width} {height}" class="share" role="img" '
        f'aria-label="{value:.2f}, by chance {chance:.2f}">',
        f'<path class="grid" d="M{x(0)} 15H{x(1)}"/>',
        f'<path class="chance" d="M{x(chance)} 4V26"/>',
    ]
    if math.isfinite(low) and math.isfinite(high):
        parts.append(
            f'<path d="M{x(low)} 15H{x(high)}" stroke="{colour}" stroke-width="6" '
            'stroke-linecap="round" opacity="0.3"/>'
        )
    parts.append(f'<circle cx="{x(value)}" cy="15" r="5.5" fill="{colour}"/>')
    return "".join([*parts, "</svg>"])


def _ticks(low: float, high: float) -> list[float]:
    """Choose 3 to 6 round numbers that enclose a range."""
    span = high - low
    if span < 1e-9:  # equal but for rounding, as of means of a constant
        span = abs(high) if abs(high) > 1e-9 else 1.0
    step = 10.0 ** math.floor(math.log10(span / 3))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if span / (step * factor) <= 4)
    start, stop = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(start, max(stop, start + 1) + 1)]


def _whole_ticks(first: float, last: float) -> list[float]:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if (last - first) / step <= 8)
    return [float(n) for n in range(math.ceil(first), math.floor(last) + 1) if n % step == 0]
