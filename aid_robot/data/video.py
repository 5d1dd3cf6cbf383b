"""Write frames to a video file."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from aid_robot.data.episode import UInt8Array
from aid_robot.errors import DataFormatError, FrameRateError

_CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}


def write_video(
    path: str | Path, frames: Iterable[npt.NDArray[np.uint8]], fps: float, *, crf: int = 18
) -> Path:
    """Write frames (H, W, 3) uint8 RGB as H.264 that every player shows; return the path.

    `crf` is x264's quality, from 0 (best) over 18 (looks lossless) to 51 (worst).
    4:2:0 video has even sides only, so an odd one is grown by repeating its last row or column.
    The file is there whole or not at all.
    """
    path = Path(path)
    container_format = _CONTAINERS.get(path.suffix.lower())
    if container_format is None:
        raise DataFormatError(
            f"'{path}' ends in '{path.suffix}'; a video is written as one of "
            f"{', '.join(_CONTAINERS)}: change the file's name"
        )
    if not (math.isfinite(fps) and fps > 0):
        raise FrameRateError(f"fps is {fps}; expected a positive number of frames a second")
    checked = _checked(frames)
    first = next(checked, None)
    if first is None:
        raise DataFormatError(f"no frames were given to write to '{path}'; expected at least one")
    with (
        _whole_file(path) as unfinished,
        av.open(str(unfinished), "w", format=container_format) as container,
    ):
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(100_000))
        stream.height, stream.width = (side + side % 2 for side in first.shape[:2])
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf)}
        # BT.601, and said so: OpenCV and decord take every file for that, players read the tag.
        stream.codec_context.colorspace = Colorspace.ITU601
        stream.codec_context.color_range = ColorRange.MPEG
        reformatter = VideoReformatter()
        for number, rgb in enumerate(chain([first], checked)):
            if rgb.shape != first.shape:
                raise DataFormatError(
                    f"frame {number} has shape {rgb.shape}, frame 0 has {first.shape}; "
                    "expected one size throughout: resize the frames first"
                )
            frame = _to_yuv(rgb, reformatter)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _checked(frames: Iterable[npt.NDArray[Any]]) -> Iterator[UInt8Array]:
    for number, frame in enumerate(frames):
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
            raise DataFormatError(
                f"frame {number} has shape {frame.shape} and type {frame.dtype}; "
                "expected uint8 RGB of shape (H, W, 3)"
            )
        yield frame


def _to_yuv(rgb: UInt8Array, reformatter: VideoReformatter) -> Any:
    height, width = rgb.shape[:2]
    even = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return reformatter.reformat(
        av.VideoFrame.from_ndarray(even, format="rgb24"),
        format="yuv420p",
        dst_colorspace=Colorspace.ITU601,
        dst_color_range=ColorRange.MPEG,
        threads=1,
    )


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """Give a name to write to, which becomes `path` only once all is written."""
    if not path.parent.is_dir():
        raise DataFormatError(
            f"'{path}' can't be written: there is no folder '{path.parent}'; make it first"
        )
    unfinished = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
