"""A decision as a picture: a row of imagined frames a plan, with its score, best first."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from aid_robot.clip_drawing import GIVEN, PREDICTED, shown_scale
from aid_robot.errors import ConfigError
from aid_robot.observation import resize_frames
from aid_robot.planning.decision import Decision

# From Okabe and Ito's palette, as the borders of frames: the chosen plan's.
CHOSEN = (0, 158, 115)
_PAPER, _INK, _FAINT, _TRACK = (255, 255, 255), (40, 40, 40), (120, 120, 120), (228, 228, 228)

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class _Style:
    """Sizes in pixels that follow from the height of a tile."""

    tile: tuple[int, int]  # width, height

    @property
    def gap(self) -> int:
        return max(3, self.tile[1] // 24)

    @property
    def border(self) -> int:
        return max(2, self.tile[1] // 48)

    @property
    def text(self) -> int:
        return min(max(self.tile[1] // 7, 10), 18)

    @property
    def line(self) -> int:
        return round(self.text * 1.35)

    @property
    def label(self) -> int:
        return 13 * self.text

    @property
    def font(self) -> _Font:
        return ImageFont.load_default(self.text)

    @property
    def step(self) -> tuple[int, int]:
        """From one tile to the next."""
        frame = 2 * self.border + self.gap
        return self.tile[0] + frame, self.tile[1] + frame

    def head(self, with_image: bool) -> int:
        """Height of what stands above the rows."""
        text = 2 * self.line + 2 * self.gap
        return max(text, self.tile[1] + 2 * self.gap) if with_image else text


def draw_decision(
    decision: Decision,
    *,
    columns: int = 6,
    rows: int | None = None,
    tile: tuple[int, int] | None = None,
) -> Image.Image:
    """Draw the plans best first: rank, score, instruction, and frames of the middle sample.

    Args:
        decision: Its chosen plan is marked in green; the goal's image stands above, if it has one.
        columns: Frames of each plan, the given one and the last among them.
        rows: Plans that there is room for, so that pictures of several decisions have one size;
            None takes as many as there are.
        tile: Width and height of a frame; None makes small ones large enough to look at.
    """
    if columns < 2:
        raise ConfigError(f"columns is {columns}, expected at least 2 (first and last frame)")
    if tile is None:
        height, width = decision.foresights[0].frames.shape[2:4]
        factor = shown_scale(height, width)
        tile = (width * factor, height * factor)
    style, with_image = _Style(tile), decision.goal.image is not None
    count = len(decision.plans) if rows is None else rows
    size = panel_size(tile, columns=columns, rows=count, with_image=with_image)
    canvas = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(canvas)
    head = style.head(with_image)
    _draw_head(canvas, draw, decision, style, head)
    for rank, number in enumerate(decision.ranking[:rows]):
        top = head + rank * style.step[1]
        _draw_label(draw, decision, number, rank, style, top)
        _draw_frames(canvas, decision, number, columns, style, top)
    return canvas


def panel_size(
    tile: tuple[int, int], *, columns: int, rows: int, with_image: bool
) -> tuple[int, int]:
    """Return width and height of a picture by `draw_decision`."""
    style = _Style(tile)
    width = style.gap + style.label + columns * style.step[0]
    return width, style.head(with_image) + rows * style.step[1]


def draw_waiting(size: tuple[int, int], text: str) -> Image.Image:
    """Draw a picture (width, height) for when there is no decision."""
    canvas = Image.new("RGB", size, _PAPER)
    font = ImageFont.load_default(14)
    ImageDraw.Draw(canvas).text((size[0] / 2, size[1] / 2), text, _FAINT, font, anchor="mm")
    return canvas


def beside(scene: NDArray[np.uint8], panel: Image.Image) -> NDArray[np.uint8]:
    """Put a frame (H, W, 3) to the left of a picture, as high as that; sides even for H.264."""
    height = panel.height + panel.height % 2
    width = round(scene.shape[1] * height / scene.shape[0])
    total = width + panel.width
    joined = np.full((height, total + total % 2, 3), 255, np.uint8)
    joined[:, :width] = resize_frames(scene, (height, width))
    joined[: panel.height, width:total] = np.asarray(panel)
    return joined


def _draw_head(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, decision: Decision, style: _Style, height: int
) -> None:
    left = style.gap
    image = decision.goal.image
    if image is not None:
        shown = Image.fromarray(resize_frames(image, (style.tile[1], style.tile[0])))
        canvas.paste(shown, (left, style.gap))
        left += style.tile[0] + 2 * style.gap
    width = canvas.width - left - style.gap
    middle = height / 2
    title = f"goal: {decision.goal.text or ('the image' if image is not None else 'none')}"
    for line, (text, colour) in enumerate(((title, _INK), (decision.reason, _FAINT))):
        at = (left, middle + (line - 0.5) * style.line)
        draw.text(at, _shorten(text, width, style.font), colour, style.font, anchor="lm")


def _draw_label(
    draw: ImageDraw.ImageDraw, decision: Decision, number: int, rank: int, style: _Style, top: int
) -> None:
    """Write rank and score above a bar, and the instruction below."""
    chosen = number == decision.index
    width = style.label - 3 * style.gap
    score, spread = float(decision.scores[number]), float(decision.spreads[number])
    shown = f"{rank + 1}.  {score:.2f}"
    if decision.sample_scores.shape[1] > 1:
        shown += f" ± {spread:.2f}"
    left, at = style.gap, top + style.border
    draw.text((left, at), shown, CHOSEN if chosen else _INK, style.font)
    at += style.line
    bar = max(3, style.text // 3)
    draw.rectangle((left, at, left + width, at + bar), _TRACK)
    draw.rectangle((left, at, left + round(width * score), at + bar), CHOSEN if chosen else _FAINT)
    at += bar + style.gap
    room = max(1, (top + style.tile[1] - at) // style.line)
    for line in _wrap(str(decision.plans[number]), width, room, style.font):
        draw.text((left, at), line, _INK, style.font)
        at += style.line


def _draw_frames(
    canvas: Image.Image, decision: Decision, number: int, columns: int, style: _Style, top: int
) -> None:
    clip = decision.foresights[number]
    # The sample in the middle: neither the best nor the worst that may come.
    order = np.argsort(decision.sample_scores[number], kind="stable")
    frames = clip.frames[order[(len(order) - 1) // 2]]
    given = clip.num_conditioning_frames
    indices = np.linspace(given - 1, len(frames) - 1, columns).round().astype(int)
    for column, index in enumerate(indices):
        colour = CHOSEN if number == decision.index else PREDICTED
        tile = Image.new(
            "RGB",
            (style.tile[0] + 2 * style.border, style.tile[1] + 2 * style.border),
            GIVEN if index < given else colour,
        )
        frame = Image.fromarray(frames[index]).resize(style.tile, Image.Resampling.LANCZOS)
        tile.paste(frame, (style.border, style.border))
        canvas.paste(tile, (style.gap + style.label + column * (tile.width + style.gap), top))


def _wrap(text: str, width: float, lines: int, font: _Font) -> list[str]:
    """Break a text into at most so many lines; the last is cut where it doesn't fit."""
    words, rows = text.split(), [""]
    for place, word in enumerate(words):
        longer = f"{rows[-1]} {word}".strip()
        if rows[-1] and font.getlength(longer) > width:
            if len(rows) == lines:
                rows[-1] = " ".join([rows[-1], *words[place:]])
                break
            rows.append(word)
        else:
            rows[-1] = longer
    return [_shorten(row, width, font) for row in rows]


def _shorten(text: str, width: float, font: _Font) -> str:
    if font.getlength(text) <= width:
        return text
    fits = max(1, math.floor(len(text) * width / font.getlength(text)))
    while fits > 1 and font.getlength(text[:fits] + "...") > width:
        fits -= 1
    return text[:fits].rstrip() + "..."
