"""The kinds of frames that recordings are made of: a video file, encoded images, an array."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter
from PIL import Image

from aid_robot.data.container import START, Keyframe, VideoIndex, open_video, read_index
from aid_robot.data.episode import FrameSequence, UInt8Array
from aid_robot.errors import DataFormatError, TruncatedFileError

# Above what any camera records (8K is 33 Mpixel): a header that says more is damaged or hostile.
MAX_PIXELS = 64 * 2**20


class ArrayFrames(FrameSequence):
    """Frames of an array (T, H, W, 3) uint8 RGB."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8:
            raise DataFormatError(
                f"frames have shape {array.shape} and type {array.dtype}; "
                "expected uint8 RGB of shape (T, H, W, 3)"
            )
        self._array: UInt8Array = array

    def __len__(self) -> int:
        return len(self._array)

    @property
    def size(self) -> tuple[int, int]:
        return self._array.shape[1], self._array.shape[2]

    def read(self, index: int) -> UInt8Array:
        frame: UInt8Array = self._array[index].copy()
        return frame


class FrameWindow(FrameSequence):
    """The frames `start` to `stop` (exclusive) of another sequence, without a copy."""

    def __init__(self, frames: FrameSequence, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= len(frames):
            raise DataFormatError(
                f"a window from frame {start} to {stop} was asked for, but {frames!r} "
                f"has only 0 to {len(frames)}"
            )
        self._frames, self._start, self._stop = frames, start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    @property
    def size(self) -> tuple[int, int]:
        return self._frames.size

    def read(self, index: int) -> UInt8Array:
        return self._frames.read(self._start + index)

    def encoded(self, index: int) -> bytes | None:
        return self._frames.encoded(self._start + index)


class EncodedFrames(FrameSequence):
    """Frames that are held as JPEG or PNG bytes, `name` says in errors where they came from."""

    def __init__(self, images: Sequence[bytes | memoryview], name: str) -> None:
        if not images:
            raise DataFormatError(f"{name} holds no frames; expected at least one JPEG or PNG")
        self._images, self._name = images, name
        self._size: tuple[int, int] | None = None

    def __reduce__(self) -> tuple[type[EncodedFrames], tuple[list[bytes], str]]:
        # A memoryview can't be sent to another process.
        return type(self), ([bytes(image) for image in self._images], self._name)

    def __len__(self) -> int:
        return len(self._images)

    @property
    def size(self) -> tuple[int, int]:
        if self._size is None:
            self.read(0)
        assert self._size is not None
        return self._size

    def read(self, index: int) -> UInt8Array:
        name = f"frame {index} of {self._name}"
        frame = decode_image(self._images[index], name)
        if self._size is None:
            self._size = frame.shape[:2]
        _check_size(frame, self._size, name)
        return frame

    def encoded(self, index: int) -> bytes | None:
        image = bytes(self._images[index])
        return image if image.startswith(b"\xff\xd8") else None


def decode_image(encoded: bytes | memoryview, name: str) -> UInt8Array:
    """Decode a JPEG or PNG to (H, W, 3) RGB; `name` is what errors call it."""
    # Pillow, because OpenCV's decoder fills a cut-off JPEG with grey instead of refusing it.
    try:
        with Image.open(BytesIO(encoded), formats=("JPEG", "PNG")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataFormatError(
                    f"{name} says that it is {image.width}x{image.height}; expected at most "
                    f"{MAX_PIXELS} pixels: the image is damaged, record or copy it again"
                )
            if image.mode not in ("RGB", "RGBA", "L", "P"):
                raise DataFormatError(
                    f"{name} has pixels of kind {image.mode}; expected 8-bit colour or grey: "
                    "a depth or CMYK image is no camera frame"
                )
            return np.array(image.convert("RGB"))
    except DataFormatError:
        raise
    # Pillow's PNG reader lets SyntaxError, struct.error and others through for damaged files.
    except Exception as error:
        raise TruncatedFileError(
            f"{name} is no whole JPEG or PNG ({len(encoded)} bytes: {error}): copy the recording "
            "again from its source"
        ) from error


class VideoFrames(FrameSequence):
    """Frames of a video file, in the order in which they are shown.

    Nothing is opened before the first use. Reading on costs one frame; a jump costs the frames
    since the last keyframe before it. May be shared by threads and sent to processes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._index: VideoIndex | None = None
        self._size: tuple[int, int] | None = None
        self._decoder: _Decoder | None = None
        self._pid = os.getpid()

    def __reduce__(self) -> tuple[type[VideoFrames], tuple[Path]]:
        return type(self), (self.path,)

    def __repr__(self) -> str:
        return f"VideoFrames('{self.path}')"

    def __len__(self) -> int:
        return self.index.count

    @property
    def index(self) -> VideoIndex:
        """Where the frames are, found by reading through the file once."""
        if self._index is None:
            self._index = read_index(self.path)
        return self._index

    @property
    def rate(self) -> float | None:
        """Frames a second at which the file plays, which need not be the rate of the recording."""
        return self.index.rate

    @property
    def size(self) -> tuple[int, int]:
        if self._size is None:
            self.read(0)
        assert self._size is not None
        return self._size

    def read(self, index: int) -> UInt8Array:
        with self._lock:
            # After a fork both processes would move the same file position.
            if self._decoder is None or self._pid != os.getpid():
                self._decoder, self._pid = _Decoder(self.path, self.index), os.getpid()
            frame = self._decoder.read(index)
            # A list of many episodes must not hold as many open files.
            if index == len(self) - 1:
                self._decoder.close()
                self._decoder = None
        return self._checked_size(frame, index)

    def __iter__(self) -> Iterator[UInt8Array]:
        # With a decoder of its own: two loops over the same video must not rewind each other.
        decoder = _Decoder(self.path, self.index)
        try:
            for index in range(len(self)):
                yield self._checked_size(decoder.read(index), index)
        finally:
            decoder.close()

    def _checked_size(self, frame: UInt8Array, index: int) -> UInt8Array:
        if self._size is None:
            self._size = frame.shape[:2]
        _check_size(frame, self._size, f"frame {index} of {self.path}")
        return frame


class _Decoder:
    """An open video file, the number of the frame that comes next, and the last few frames."""

    kept_frames = 8

    def __init__(self, path: Path, index: VideoIndex) -> None:
        self._path, self._index = path, index
        self._kept: deque[tuple[int, Any]] = deque(maxlen=self.kept_frames)
        # Shared by all frames: setting one up takes longer than converting a frame.
        self._reformatter = VideoReformatter()
        self._open()

    def close(self) -> None:
        self._kept.clear()
        self._container.close()

    def read(self, index: int) -> UInt8Array:
        for number, frame in self._kept:
            if number == index:
                return self._to_rgb(frame)
        key = self._index.keyframe_before(index)
        jump = index < self._next or key.number > self._next
        if jump:
            self._seek(key)
        frame = self._forward_to(index)
        if frame is None and jump:
            # Some files' keyframes don't lead where their times say; the start always does.
            self._seek(START)
            frame = self._forward_to(index)
        if frame is None:
            raise TruncatedFileError(
                f"{self._path}: frame {index} of {self._index.count} can't be decoded; the file "
                "is damaged: copy it again from its source"
            )
        return self._to_rgb(frame)

    def _open(self) -> None:
        self._container = open_video(self._path)
        self._stream = self._container.streams.video[0]
        # Readers run in parallel themselves, and threads of a decoder don't survive a fork.
        self._stream.codec_context.thread_count = 1
        self._frames = self._container.decode(self._stream)
        self._next = self._sound_from = 0

    def _seek(self, key: Keyframe) -> None:
        """Go to a keyframe, or to the start where the file doesn't let one go there."""
        if key.number > 0:
            try:
                self._container.seek(key.time, stream=self._stream, backward=True)
            except av.FFmpegError:
                key = START
        if key.number > 0:
            self._frames = self._container.decode(self._stream)
            # Frames shown before a keyframe but stored after it lack what they are predicted from.
            self._sound_from = key.number
        else:
            self._container.close()
            self._open()

    def _forward_to(self, index: int) -> Any | None:
        """Decode up to a frame and return it, None where the file goes past it or ends."""
        try:
            for frame in self._frames:
                number = self._next
                if self._index.numbers:
                    number = self._index.numbers.get(frame.pts, -1)
                if number < self._sound_from:
                    continue
                if frame.is_corrupt:
                    raise av.InvalidDataError(0, "the decoder had to guess parts of the image")
                self._next = number + 1
                self._kept.append((number, frame))
                if number >= index:
                    return frame if number == index else None
        except av.FFmpegError as error:
            # What comes after the damage can only be reached by a jump.
            stopped, self._next = self._next, self._index.count
            raise TruncatedFileError(
                f"{self._path}: decoding stopped at frame {stopped} of {self._index.count} "
                f"({error}); the file is damaged: copy it again from its source"
            ) from error
        self._next = self._index.count
        return None

    def _to_rgb(self, frame: Any) -> UInt8Array:
        converted: Any = self._reformatter.reformat(frame, format="rgb24", threads=1)
        rgb: UInt8Array = converted.to_ndarray()
        # Phones write sideways frames and an angle, in degrees counterclockwise.
        quarter_turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(rgb, quarter_turns)) if quarter_turns else rgb


def _check_size(frame: UInt8Array, size: tuple[int, int], name: str) -> None:
    if frame.shape[:2] != size:
        raise DataFormatError(
            f"{name} is {frame.shape[1]}x{frame.shape[0]}, but others are {size[1]}x{size[0]}; "
            "expected one size throughout: export the recording again"
        )
