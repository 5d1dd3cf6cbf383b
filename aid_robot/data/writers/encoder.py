"""A video file that frames are added to, one episode after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from aid_robot.errors import ConfigError, DataFormatError


@dataclass(frozen=True)
class Codec:
    """An encoder of FFmpeg, and how it is asked for good pictures at little size."""

    encoder: str
    # What the codec is called in a file.
    name: str
    crf: int
    options: dict[str, str]


# Every second frame can be decoded without others, as LeRobot writes it: training jumps about.
_KEYFRAME_EVERY = {"g": "2"}
CODECS = {
    "h264": Codec("libx264", "h264", 18, {**_KEYFRAME_EVERY, "forced-idr": "1"}),
    "av1": Codec("libsvtav1", "av1", 20, {**_KEYFRAME_EVERY, "preset": "12"}),
}
_MAX_CRF = {"h264": 51, "av1": 63}


class VideoEncoder:
    """An mp4 file of frames (H, W, 3) uint8 RGB in 4:2:0, which a player shows at `fps`.

    4:2:0 video has even sides only, so an odd one is grown by repeating its last row or column.
    """

    def __init__(
        self, path: Path, size: tuple[int, int], fps: float, codec: Codec, crf: int
    ) -> None:
        self.frames = self.bytes = 0
        # Else SVT-AV1 prints its settings into every progress bar.
        os.environ.setdefault("SVT_LOG", "1")
        # The index of frames in front, so that a player starts before it has the whole file.
        self._container = av.open(str(path), "w", options={"movflags": "faststart"})
        rate = Fraction(fps).limit_denominator(100_000)
        self._stream: Any = self._container.add_stream(codec.encoder, rate=rate)
        self._stream.height, self._stream.width = even(size)
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {**codec.options, "crf": str(crf)}
        # BT.601, and said so: OpenCV and decord take every file for that, players read the tag.
        self._stream.codec_context.colorspace = Colorspace.ITU601
        self._stream.codec_context.color_range = ColorRange.MPEG
        self._reformatter = VideoReformatter()

    def add(self, rgb: npt.NDArray[np.uint8], *, keyframe: bool = False) -> None:
        """Add a frame; one that begins an episode is a keyframe."""
        height, width = rgb.shape[:2]
        padded = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame: Any = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(padded, format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU601,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )
        frame.pts = self.frames
        frame.pict_type = PictureType.I if keyframe else PictureType.NONE
        with ordinary_priority():
            self._mux(self._stream.encode(frame))
        self.frames += 1

    def close(self) -> None:
        """Write what the encoder still holds, and the file's index."""
        try:
            if self.frames:
                self._mux(self._stream.encode(None))
        finally:
            self._container.close()

    def _mux(self, packets: Any) -> None:
        for packet in packets:
            self.bytes += packet.size
            self._container.mux(packet)


@contextmanager
def ordinary_priority() -> Iterator[None]:
    """Undo that an encoder, in its first frame, makes threads of this process real-time ones.

    SVT-AV1 does so to the calling thread and its own where it may, as for root in a container. What
    is started later inherits it, and two such processes that wait for each other hang.
    """
    if not hasattr(os, "sched_getscheduler") or os.sched_getscheduler(0) != os.SCHED_OTHER:
        yield
        return
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != os.SCHED_OTHER:
            for thread in Path("/proc/self/task").iterdir():
                with suppress(ProcessLookupError):
                    os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))


def even(size: tuple[int, int]) -> tuple[int, int]:
    """Round sides up to even numbers."""
    return size[0] + size[0] % 2, size[1] + size[1] % 2


def choose_codec(name: str, crf: int | None) -> tuple[Codec, int]:
    """Look up a codec and its quality: crf from 0 (best), by default one that looks lossless."""
    if name not in CODECS:
        raise ConfigError(f"there is no codec '{name}'; expected one of {', '.join(CODECS)}")
    codec = CODECS[name]
    crf = codec.crf if crf is None else crf
    if not 0 <= crf <= _MAX_CRF[name]:
        raise ConfigError(f"crf is {crf}; expected 0 (best) to {_MAX_CRF[name]} for {name}")
    return codec, crf


def checked_frame(frame: npt.NDArray[Any], size: tuple[int, int], where: str) -> None:
    """Raise DataFormatError for what is no frame of a size."""
    if frame.shape != (*size, 3) or frame.dtype != np.uint8:
        raise DataFormatError(
            f"{where} has shape {frame.shape} and type {frame.dtype}; expected uint8 RGB of shape "
            f"{(*size, 3)}: resize the frames first"
        )
