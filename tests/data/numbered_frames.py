"""Frames that say which they are, and videos of them."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from aid_robot.data.writers.encoder import ordinary_priority

UInt8Array = npt.NDArray[np.uint8]
HEIGHT, WIDTH = 48, 64


def numbered_frames(count: int) -> UInt8Array:
    """Draw each frame's number as eight blocks, red where the bit is set, on blue grain."""
    grain = np.random.default_rng(0).integers(0, 40, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    frames = np.repeat((grain + np.array([20, 20, 120], np.uint8))[None], count, axis=0)
    for number in range(count):
        for bit in range(8):
            if number >> bit & 1:
                frames[number, 8:24, 8 * bit : 8 * bit + 8] = (220, 30, 40)
    return frames


def number_of(frame: UInt8Array) -> int:
    """Read the number off a frame."""
    blocks = frame[12:20].reshape(8, 8, 8, 3)[:, :, 2:6, 0].mean(axis=(0, 2))
    return sum(1 << bit for bit, red in enumerate(blocks) if red > 150)


def encode(
    path: Path, frames: UInt8Array, *, codec: str = "libx264", rate: int = 15, **options: str
) -> Path:
    """Encode frames with the given options of the encoder, names with _ for -."""
    container_options = {"movflags": options.pop("movflags")} if "movflags" in options else {}
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.options = {name.replace("_", "-"): value for name, value in options.items()}
        for number, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts = number
            with ordinary_priority():
                packets = stream.encode(frame)
            container.mux(packets)
        container.mux(stream.encode(None))
    return path
