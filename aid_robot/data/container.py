"""What a video file holds, found out without decoding it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from aid_robot.errors import DataFormatError, TruncatedFileError

# The names that FFmpeg gives to the containers that store when each frame is shown; for others
# (AVI) it guesses, and guesses wrong where frames are predicted from later ones.
_TIMED_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")

# How mp4, Matroska and AVI files begin.
_CONTAINER_MARKS = (b"ftyp", b"\x1a\x45\xdf\xa3", b"RIFF")


@dataclass(frozen=True)
class Keyframe:
    """A frame that decoding can start from."""

    number: int
    time: int


START = Keyframe(0, 0)


@dataclass(frozen=True)
class VideoIndex:
    """What reading through a video file finds out without decoding it."""

    count: int
    rate: float | None
    # Frame number by presentation time; empty where the file has no times, then frames are counted.
    numbers: Mapping[int, int]
    # Ascending.
    keyframes: Sequence[Keyframe]

    def keyframe_before(self, number: int) -> Keyframe:
        """Find the last keyframe that is not after a frame."""
        place = bisect_right(self.keyframes, number, key=lambda key: key.number)
        return self.keyframes[place - 1] if place else START


def open_video(path: Path) -> Any:
    """Open a container that has video in it."""
    if not path.is_file():
        raise DataFormatError(f"{path} is not a file; expected a video: check the path")
    try:
        # Titles and the like may be in any encoding; nothing here reads them.
        container = av.open(str(path), metadata_errors="replace")
    except av.FFmpegError as error:
        with path.open("rb") as file:
            head = file.read(8)
        if not head or any(mark in head for mark in _CONTAINER_MARKS):
            raise TruncatedFileError(
                f"{path} ends before its header or its index of frames (an mp4's moov box) does: "
                "0 frames can be read; the recording was cut off: record or copy it again"
            ) from error
        raise DataFormatError(
            f"{path} is not a video that can be read ({error}); expected mp4, mkv or the like"
        ) from error
    if not container.streams.video or container.streams.video[0].codec_context is None:
        streams = ", ".join(stream.type for stream in container.streams) or "none"
        container.close()
        raise TruncatedFileError(
            f"{path} holds no video that can be decoded (its streams: {streams}), so 0 frames can "
            "be read; expected a video: check the path, or copy the file again"
        )
    return container


def read_index(path: Path) -> VideoIndex:
    """Find the frames of a video file by reading its packets."""
    read = 0
    end = 0
    times: list[int | None] = []
    keyframe_times: list[int] = []
    problem = ""
    with open_video(path) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate) if stream.average_rate else None
        declared = stream.frames
        timed = container.format.name in _TIMED_CONTAINERS
        try:
            for packet in container.demux(stream):
                # The last packet is empty and only tells the decoder that the file ends.
                if packet.size == 0 or packet.is_corrupt:
                    continue
                read += 1
                if packet.pts is not None:
                    end = max(end, packet.pts + (packet.duration or 0))
                # Not shown: in the file only because shown frames are predicted from it.
                if packet.is_discard:
                    continue
                times.append(packet.pts)
                if packet.is_keyframe and packet.pts is not None:
                    keyframe_times.append(packet.pts)
        except av.FFmpegError as error:
            problem = f" ({error})"
        if not declared and timed and rate and container.duration and len(container.streams) == 1:
            # Matroska declares how long it plays, not how many frames it has.
            missing = container.duration / av.time_base - float(end * stream.time_base)
            # Less one, since not every file says how long its last frame is shown.
            declared = read + max(0, math.floor(missing * rate) - 1)
    if read < declared or problem or not times:
        raise TruncatedFileError(
            f"{path}: {read} frames can be read, but its header declares {declared or 'no number'}"
            f"{problem}; the file is cut off or damaged: copy it again from its source"
        )
    known = sorted(time for time in times if time is not None)
    numbers = {time: number for number, time in enumerate(known)}
    if len(numbers) < len(times) or not timed:
        return VideoIndex(_count_decoded(path), rate, {}, ())
    keyframes = [Keyframe(numbers[time], time) for time in sorted(keyframe_times)]
    return VideoIndex(len(times), rate, numbers, keyframes)


def _count_decoded(path: Path) -> int:
    """Count frames by decoding them, where times don't tell which packet is a frame."""
    with open_video(path) as container:
        try:
            return sum(1 for _ in container.decode(video=0))
        except av.FFmpegError as error:
            raise TruncatedFileError(
                f"{path} can't be decoded to its end ({error}); the file is damaged: copy it again "
                "from its source"
            ) from error
