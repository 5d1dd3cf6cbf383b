"""Foresights that a test can predict: a coloured square that moves, or doesn't."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aid_robot.clip import Foresight

SIDE, FRAMES = 32, 6


def picture(
    x: float, y: float = 16, color: tuple[int, int, int] = (220, 40, 30)
) -> NDArray[np.uint8]:
    """Draw a square with its centre at x, y on a grey board."""
    frame = np.full((SIDE, SIDE, 3), 110, np.uint8)
    left, top = round(x), round(y)
    frame[max(0, top - 4) : top + 4, max(0, left - 4) : left + 4] = color
    return frame


def moving(
    to: float, start: float = 6, samples: int = 1, frames: int = FRAMES, jitter: float = 0
) -> Foresight:
    """Imagine that the square goes from start to `to`, samples ending `jitter` pixels apart."""
    clips = [
        np.stack([picture(x) for x in np.linspace(start, to + jitter * sample, frames)])
        for sample in range(samples)
    ]
    return Foresight(np.stack(clips), 5.0, f"go to {to}", 1)
