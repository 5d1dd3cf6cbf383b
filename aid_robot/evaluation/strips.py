"""A clip's picture: frames of the truth and of its predictions, row by row, in one JPEG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from aid_robot.observation import resize_frames

COLUMNS = 8
# Larger frames are shrunk until their shorter side has this many pixels.
_LARGEST = 128
# Tiles of whole JPEG blocks don't run into each other.
_BLOCK = 8


def draw_rows(rows: Sequence[npt.NDArray[np.uint8]], num_given: int) -> tuple[list[int], bytes]:
    """Draw clips (N, H, W, 3) below each other, from the last given frame to the last of all.

    Returns:
        The frames that are shown, and the picture as JPEG.
    """
    count, height, width = rows[0].shape[:3]
    first = num_given - 1
    shown = np.unique(np.linspace(first, count - 1, min(COLUMNS, count - first)).round())
    columns = shown.astype(int).tolist()
    scale = min(1.0, _LARGEST / min(height, width))
    size = (_blocks(height * scale), _blocks(width * scale))
    tiles = [resize_frames(clip[columns], size) for clip in rows]
    picture = np.concatenate([np.concatenate(list(row), axis=1) for row in tiles])
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=90, subsampling=0)
    return columns, data.getvalue()


def cut_rows(path: Path, rows: Sequence[int], of: int, columns: int) -> list[list[Image.Image]]:
    """Cut some of a picture's `of` rows into frames."""
    with Image.open(path, formats=("JPEG",)) as image:
        picture = image.convert("RGB")
    height, width = picture.height // of, picture.width // columns
    return [
        [
            picture.crop((x * width, y * height, (x + 1) * width, (y + 1) * height))
            for x in range(columns)
        ]
        for y in rows
    ]


def _blocks(pixels: float) -> int:
    return max(1, round(pixels / _BLOCK)) * _BLOCK
