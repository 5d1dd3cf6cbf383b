"""Clips as pictures: strips of frames, panels side by side, animated GIF.

A thin border tells frames that were given (blue) from frames that were predicted (orange); recorded
truth is grey. The colours are from Okabe and Ito's palette, which colour-blind readers can tell.
"""

from __future__ import annotations

import io
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

GIVEN = (0, 114, 178)
PREDICTED = (230, 159, 0)
RECORDED = (150, 150, 150)
_PAPER = (255, 255, 255)
_INK = (40, 40, 40)
_FAINT = (120, 120, 120)
_MISSING = (236, 236, 236)

# Smaller frames are enlarged until their shorter side has this many pixels.
MIN_SHOWN = 96
# Panels of a video stand in one row up to here, above it in a grid.
_PANELS_IN_A_ROW = 4
# A GIF's palette is made from about so many pixels of the clip.
_PALETTE_PIXELS = 1_000_000

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_RGB = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Panel:
    """One clip among others: its label and its (n, H, W, 3) frames; n may fall short."""

    label: str
    frames: NDArray[np.uint8]
    # So many frames at the start were given to the model.
    given: int
    # Colour of the border after those.
    colour: _RGB

    def tile(self, index: int, style: _Style) -> Image.Image:
        """Draw frame `index` with its border, or an empty tile where there is none."""
        missing = index >= len(self.frames)
        inner = (style.width, style.height)
        colour = GIVEN if index < self.given else self.colour
        tile = Image.new("RGB", style.tile, _MISSING if missing else colour)
        if missing:
            ImageDraw.Draw(tile).text(
                (style.tile[0] / 2, style.tile[1] / 2),
                f"no {self.label}",
                fill=_FAINT,
                font=style.font,
                anchor="mm",
            )
        else:
            frame = Image.fromarray(self.frames[index])
            if frame.size != inner:
                frame = frame.resize(inner, Image.Resampling.LANCZOS)
            tile.paste(frame, (style.border, style.border))
        return tile


@dataclass(frozen=True, eq=False)
class _Style:
    """Sizes in pixels that follow from the size of a frame."""

    width: int
    height: int

    @property
    def border(self) -> int:
        return max(2, round(min(self.width, self.height) / 64))

    @property
    def tile(self) -> tuple[int, int]:
        return self.width + 2 * self.border, self.height + 2 * self.border

    @property
    def gap(self) -> int:
        return max(4, self.border * 2)

    @property
    def text(self) -> int:
        return min(max(round(min(self.width, self.height) / 10), 11), 20)

    @property
    def line(self) -> int:
        return 2 * round(self.text * 0.9)  # even, so that H.264 blurs no border

    @property
    def font(self) -> _Font:
        return ImageFont.load_default(self.text)


def shown_scale(height: int, width: int) -> int:
    """Return the whole factor that makes frames large enough to look at."""
    return max(1, math.ceil(MIN_SHOWN / min(height, width)))


def enlarge(frames: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Enlarge (N, H, W, 3) frames by a whole factor."""
    if scale == 1:
        return frames
    size = (frames.shape[2] * scale, frames.shape[1] * scale)
    return np.stack(
        [np.asarray(Image.fromarray(f).resize(size, Image.Resampling.LANCZOS)) for f in frames]
    )


def draw_strip(
    panels: Sequence[Panel], *, title: str, fps: float, num_frames: int, columns: int, scale: int
) -> Image.Image:
    """Draw one row a panel, at most `columns` frames each; the first and last are among them."""
    style = _style(panels, scale)
    shown = np.unique(np.linspace(0, num_frames - 1, min(columns, num_frames)).round().astype(int))
    gutter = style.gap * 2 + math.ceil(max(style.font.getlength(p.label) for p in panels))
    step_x, step_y = style.tile[0] + style.gap, style.tile[1] + style.gap
    top = style.gap + 2 * style.line
    canvas = Image.new("RGB", (gutter + len(shown) * step_x, top + len(panels) * step_y), _PAPER)
    draw = ImageDraw.Draw(canvas)
    _heading(draw, style, title, gutter, canvas.width - style.gap, _legend(panels))
    for column, index in enumerate(shown):
        x = gutter + column * step_x
        _caption(draw, style, x, top, f"#{index}   {index / fps:.1f} s")
        for row, panel in enumerate(panels):
            canvas.paste(panel.tile(int(index), style), (x, top + row * step_y))
    for row, panel in enumerate(panels):
        middle = top + row * step_y + style.tile[1] / 2
        at = (gutter - style.gap, middle)
        draw.text(at, panel.label, fill=_INK, font=style.font, anchor="rm")
    return canvas


def draw_panels(
    panels: Sequence[Panel], *, title: str, fps: float, num_frames: int, scale: int
) -> NDArray[np.uint8]:
    """Draw panels side by side over time; returns (N, height, width, 3), sides even for H.264."""
    style = _style(panels, scale)
    many = len(panels) > _PANELS_IN_A_ROW
    columns = math.ceil(math.sqrt(len(panels))) if many else len(panels)
    rows = math.ceil(len(panels) / columns)
    step_x, step_y = style.tile[0] + style.gap, style.tile[1] + style.gap + style.line
    size = (style.gap + columns * step_x, style.gap + style.line + rows * step_y)
    canvas = Image.new("RGB", (size[0] + size[0] % 2, size[1] + size[1] % 2), _PAPER)
    places = [
        (style.gap + i % columns * step_x, style.gap + 2 * style.line + i // columns * step_y)
        for i in range(len(panels))
    ]
    draw = ImageDraw.Draw(canvas)
    clock = f"{(num_frames - 1) / fps:.1f} s"
    right = canvas.width - style.gap
    _heading(draw, style, title, style.gap, right - style.font.getlength(clock) - style.gap, [])
    for panel, (x, y) in zip(panels, places, strict=True):
        _caption(draw, style, x, y, panel.label)
    frames = []
    for index in range(num_frames):
        frame = canvas.copy()
        pen = ImageDraw.Draw(frame)
        at = (right, style.gap + style.line / 2)
        pen.text(at, f"{index / fps:.1f} s", fill=_FAINT, font=style.font, anchor="rm")
        for panel, place in zip(panels, places, strict=True):
            frame.paste(panel.tile(index, style), place)
        frames.append(np.asarray(frame))
    return np.stack(frames)


def encode_gif(frames: NDArray[np.uint8], fps: float) -> bytes:
    """Encode (N, H, W, 3) frames as a GIF that loops; its times are kept to GIF's 10 ms."""
    # Rounding the times, not the durations, keeps the whole clip in step.
    times = np.rint(np.arange(len(frames) + 1) * 100 / fps).astype(int) * 10
    # One palette for all frames: with one each, still parts of the scene flicker.
    step = math.ceil(math.sqrt(frames.size / 3 / _PALETTE_PIXELS))
    sampled = np.ascontiguousarray(frames[:, ::step, ::step]).reshape(len(frames), -1, 3)
    own = [_PAPER, GIVEN, PREDICTED, RECORDED]
    palette = Image.fromarray(sampled).quantize(256 - len(own), Image.Quantize.MEDIANCUT)
    colours = [*(palette.getpalette() or []), *chain.from_iterable(own)]
    images = []
    for frame in frames:
        indexed = Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        indices = np.array(indexed)
        # The nearest colour is only nearly right, and paper and borders must not be tinted.
        for index, colour in enumerate(own, start=len(colours) // 3 - len(own)):
            indices[(frame == colour).all(axis=-1)] = index
        images.append(Image.fromarray(indices))
        images[-1].putpalette(colours)
    data = io.BytesIO()
    images[0].save(
        data,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=np.diff(times).tolist(),
        loop=0,
        disposal=1,
    )
    return data.getvalue()


def _style(panels: Sequence[Panel], scale: int) -> _Style:
    height, width = panels[0].frames.shape[1:3]
    return _Style(width * scale, height * scale)


def _legend(panels: Sequence[Panel]) -> list[tuple[str, _RGB]]:
    names = {GIVEN: "given", PREDICTED: "predicted", RECORDED: "recorded"}
    colours = {GIVEN, *(panel.colour for panel in panels)}
    return [(name, colour) for colour, name in names.items() if colour in colours]


def _heading(
    draw: ImageDraw.ImageDraw,
    style: _Style,
    title: str,
    left: float,
    right: float,
    legend: Sequence[tuple[str, _RGB]],
) -> None:
    y = style.gap + style.line / 2
    for name, colour in reversed(legend):
        draw.text((right, y), name, fill=_FAINT, font=style.font, anchor="rm")
        right -= style.font.getlength(name) + style.text
        half = style.text * 0.35
        draw.rectangle((right, y - half, right + 2 * half, y + half), fill=colour)
        right -= style.text
    text = _shorten(title, right - left, style.font)
    draw.text((left, y), text, fill=_INK, font=style.font, anchor="lm")


def _caption(draw: ImageDraw.ImageDraw, style: _Style, x: float, bottom: float, text: str) -> None:
    """Write above a tile."""
    draw.text((x, bottom - style.line / 2), text, fill=_FAINT, font=style.font, anchor="lm")


def _shorten(text: str, width: float, font: _Font) -> str:
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    fits = bisect_right(range(len(text)), width, key=lambda n: font.getlength(text[:n] + "..."))
    return text[: max(fits - 1, 0)].rstrip() + "..."
