"""Charts of rates, from 0 to 1: reliability curves and sweeps over the number of candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageDraw, ImageFont

from aid_robot.planning.calibration import ReliabilityBin

# Okabe and Ito's palette, which the colour-blind can tell apart.
COLORS = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
)
GREY = (120, 120, 120)
_INK, _FAINT, _PAPER = (40, 40, 40), (222, 222, 222), (255, 255, 255)
_WIDTH, _PLOT, _SCALE = 560, 292, 2
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 44, 48
_ROW = 16


@dataclass(frozen=True)
class Curve:
    """A named line; `low` and `high` are drawn as bars where they are given."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    color: tuple[int, int, int] | None = None
    dashed: bool = False


def draw_rates(
    curves: Sequence[Curve], *, title: str, x_label: str, y_label: str, ticks: Sequence[float]
) -> Image.Image:
    """Draw lines over `ticks` on the x axis, and rates from 0 to 1 on the y axis."""
    font, large = (ImageFont.load_default(size * _SCALE) for size in (11, 13))
    key = _lay_key([curve.name for curve in curves], font)
    # The key stands above the lines, wherever these go.
    head = _TOP + _ROW * (1 + max(row for _, row in key))
    height = head + _PLOT + _BOTTOM
    image = Image.new("RGB", (_WIDTH * _SCALE, height * _SCALE), _PAPER)
    draw = ImageDraw.Draw(image)
    low, high = min(ticks), max(ticks)

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - low) / ((high - low) or 1)
        return (
            _SCALE * (_LEFT + across * (_WIDTH - _LEFT - _RIGHT)),
            _SCALE * (head + (1 - y) * _PLOT),
        )

    for step in range(6):
        y = step / 5
        draw.line([at(low, y), at(high, y)], fill=_FAINT, width=_SCALE)
        draw.text((at(low, y)[0] - 6 * _SCALE, at(low, y)[1]), f"{y:.1f}", _INK, font, anchor="rm")
    for x in ticks:
        draw.text((at(x, 0)[0], at(x, 0)[1] + 6 * _SCALE), f"{x:g}", _INK, font, anchor="mt")
    draw.line([at(low, 0), at(high, 0)], fill=_INK, width=_SCALE)
    draw.text((_SCALE * _LEFT, 8 * _SCALE), title, _INK, large)
    draw.text((_SCALE * _LEFT, 24 * _SCALE), y_label, GREY, font)
    middle = _SCALE * (_LEFT + _WIDTH - _RIGHT) / 2
    draw.text((middle, _SCALE * (height - 20)), x_label, _INK, font, anchor="mt")
    for number, curve in enumerate(curves):
        color = curve.color or COLORS[number % len(COLORS)]
        points = [at(x, y) for x, y in zip(curve.x, curve.y, strict=True)]
        _draw_line(draw, points, color, curve.dashed)
        for x, y, bottom, top in zip(curve.x, curve.y, curve.low, curve.high, strict=False):
            draw.line([at(x, bottom), at(x, top)], fill=color, width=_SCALE)
            _draw_dot(draw, at(x, y), color)
        begin, line = key[number][0], _SCALE * (_TOP + 4 + _ROW * key[number][1])
        _draw_line(draw, [(begin, line), (begin + 18 * _SCALE, line)], color, curve.dashed)
        draw.text((begin + 24 * _SCALE, line), curve.name, _INK, font, anchor="lm")
    return image


def draw_reliability(curves: Sequence[tuple[str, Sequence[ReliabilityBin]]]) -> Image.Image:
    """Draw reliability curves beside the diagonal, on which scores are rates."""
    drawn = [
        Curve(
            name,
            [part.score for part in parts],
            [part.rate for part in parts],
            [part.low for part in parts],
            [part.high for part in parts],
        )
        for name, parts in curves
    ]
    return draw_rates(
        [*drawn, Curve("scores that are rates", [0, 1], [0, 1], color=GREY, dashed=True)],
        title="Do scores say how often plans succeed?",
        x_label="score",
        y_label="rate of success, with 95 % intervals",
        ticks=[0, 0.2, 0.4, 0.6, 0.8, 1],
    )


def _lay_key(
    names: Sequence[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[tuple[float, int]]:
    """Give each name its left end [px] and its row, as many in a row as there is room for."""
    found: list[tuple[float, int]] = []
    left, row = float(_SCALE * _LEFT), 0
    for name in names:
        width = font.getlength(name) + 42 * _SCALE
        if found and left + width > _SCALE * _WIDTH:
            left, row = float(_SCALE * _LEFT), row + 1
        found.append((left, row))
        left += width
    return found


def _draw_dot(
    draw: ImageDraw.ImageDraw, point: tuple[float, float], color: tuple[int, int, int]
) -> None:
    x, y, radius = *point, 3 * _SCALE
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=color)


def _draw_line(
    draw: ImageDraw.ImageDraw,
    points: Sequence[tuple[float, float]],
    color: tuple[int, int, int],
    dashed: bool,
) -> None:
    if not dashed:
        draw.line(list(points), fill=color, width=2 * _SCALE, joint="curve")
        return
    for (x0, y0), (x1, y1) in pairwise(points):
        count = max(1, round(((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5 / (7 * _SCALE)))
        for dash in range(0, count, 2):
            ends = [dash / count, min(1, (dash + 1) / count)]
            draw.line(
                [(x0 + (x1 - x0) * t, y0 + (y1 - y0) * t) for t in ends],
                fill=color,
                width=2 * _SCALE,
            )
