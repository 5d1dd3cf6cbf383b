"""What a user points at: an image, a webcam, or an episode of a recording."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from aid_robot.data.episode import Episode, FrameSequence, UInt8Array
from aid_robot.data.frames import MAX_PIXELS, FrameWindow
from aid_robot.data.ingest import Recording, open_recording
from aid_robot.data.ingest.recording import did_you_mean
from aid_robot.errors import (
    ConfigError,
    DataFormatError,
    FrameCountError,
    ObservationError,
    TruncatedFileError,
)
from aid_robot.planning.goals import Goal

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# Webcams need about a second to find their exposure.
_WARM_UP = 1.0
# A mask's pixels above it count.
_BRIGHT = 127


@dataclass(frozen=True, eq=False)
class View:
    """The K frames that a prediction starts from, and what is known of what followed."""

    # (K, H, W, 3), oldest first.
    frames: UInt8Array
    # The recording from the first of those frames to its end; None where nothing was recorded.
    recorded: FrameSequence | None
    # Where it was taken, for a person.
    where: str


class Input(ABC):
    """Something that frames are taken from."""

    # Text that it carries.
    instruction: str | None = None
    # Frames a second of the recorded world; None where unknown, or where nothing is recorded.
    fps: float | None = None
    # What the user should know, one sentence each.
    notes: tuple[str, ...] = ()

    @abstractmethod
    def view(self, count: int, fps: float, frame: int | None = None) -> View:
        """Take the `count` frames that end at `frame`, in a live view `fps` of them a second."""


def open_input(text: str, *, camera: str | None = None, fps: float | None = None) -> Input:
    """Open an image file, a webcam by its number, or an episode: PATH, PATH#number, PATH#id.

    Of a recording with several episodes PATH alone is the first. `fps` is the rate at which a
    recording was made, where it doesn't say it, or says it wrongly.
    """
    path = Path(text)
    if text.isdecimal() and not path.exists():
        return Webcam(int(text))
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return Still(path)
    return Recorded(text, camera, fps)


def split_episode(text: str) -> tuple[Path, str | None]:
    """Split PATH#EPISODE; a path that exists as it stands has no such part."""
    if not Path(text).exists():
        for place, char in enumerate(text):
            if char == "#" and Path(text[:place]).exists():
                return Path(text[:place]), text[place + 1 :]
    return Path(text), None


def find_episode(recording: Recording, key: str) -> int | str:
    """Tell whether `key` is an id of a recording, or the number of an episode, from 0."""
    if not key.isdecimal() or key in recording.ids:
        return key
    if int(key) >= len(recording):
        raise DataFormatError(
            f"{recording.path} has no episode {key}; expected 0 to {len(recording) - 1}, or an id"
        )
    return int(key)


class Still(Input):
    """An image file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frame = read_image(path)

    def view(self, count: int, fps: float, frame: int | None = None) -> View:
        """Give the image, for a model that takes one frame."""
        _refuse_frame(frame, f"the image {self.path}")
        if count != 1:
            raise FrameCountError(
                f"{self.path} is 1 frame, the model needs {count}: give a video or an episode"
            )
        return View(self.frame[None], None, f"image {self.path}")


class Webcam(Input):
    """A camera of this machine."""

    def __init__(self, index: int) -> None:
        self.index = index
        # Else OpenCV prints its own view of what follows.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        self._capture = cv2.VideoCapture(index)
        if not self._capture.isOpened():
            raise ObservationError(
                f"camera {index} can't be opened: check that it is plugged in and that no other "
                "program uses it, or try another number"
            )

    def view(self, count: int, fps: float, frame: int | None = None) -> View:
        """Take frames now."""
        _refuse_frame(frame, f"camera {self.index}")
        frames = capture_frames(self._capture, count, fps)
        self._capture.release()
        return View(frames, None, f"camera {self.index}")


class Recorded(Input):
    """An episode of a recording."""

    def __init__(self, text: str, camera: str | None, fps: float | None) -> None:
        path, key = split_episode(text)
        if not path.exists():
            raise DataFormatError(
                f"there is no '{text}'; expected an image, a video, a recording (PATH or "
                "PATH#EPISODE) or the number of a webcam: check the path"
            )
        recording = open_recording(path, fps=fps)
        self.episode: Episode = recording[0 if key is None else find_episode(recording, key)]
        self._camera = camera or self.episode.camera
        if self._camera not in self.episode.videos:
            cameras = list(self.episode.videos)
            raise ObservationError(
                f"episode '{self.episode.id}' has no camera '{camera}'"
                f"{did_you_mean(self._camera, cameras)}; expected one of {', '.join(cameras)}"
            )
        self.instruction, self.fps = self.episode.instruction, self.episode.fps
        self.notes = (*recording.notes, *self.episode.notes)
        if key is None and len(recording) > 1:
            chosen = (
                f"{path} has {len(recording)} episodes and this is the first: choose another by "
                f"'{path}#1' or '{path}#{recording.ids[1]}'"
            )
            self.notes = (chosen, *self.notes)

    def view(self, count: int, fps: float, frame: int | None = None) -> View:
        """Take frames out of the episode; the first that the model can start from by default."""
        frames = self.episode.videos[self._camera]
        last = count - 1 if frame is None else frame
        where = f"episode '{self.episode.id}', camera {self._camera}"
        if not count - 1 <= last < len(frames):
            raise FrameCountError(
                f"frame {last} of {where} was asked for; it has {len(frames)} frames and the "
                f"model needs {count}: choose one from {count - 1} to {len(frames) - 1}"
            )
        first = last - count + 1
        shown = f"frame {last}" if count == 1 else f"frames {first} to {last}"
        return View(
            frames=frames[first : last + 1],
            recorded=FrameWindow(frames, first, len(frames)),
            where=f"{where}, {shown} of {len(frames)} ({self.episode.source})",
        )


def read_image(path: Path) -> UInt8Array:
    """Read an image file as (H, W, 3) RGB, upright."""
    if not path.is_file():
        raise DataFormatError(f"there is no image '{path}': check the path")
    try:
        with Image.open(path, formats=("JPEG", "PNG", "WEBP")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataFormatError(
                    f"{path} is {image.width}x{image.height}; expected at most {MAX_PIXELS} "
                    "pixels: make it smaller"
                )
            if image.mode not in ("RGB", "RGBA", "L", "P"):
                raise DataFormatError(
                    f"{path} has pixels of kind {image.mode}; expected 8-bit colour or grey: "
                    "convert it"
                )
            # Phones write sideways images and how to turn them.
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except DataFormatError:
        raise
    # Pillow lets struct.error, SyntaxError and others through for damaged files.
    except Exception as error:
        raise TruncatedFileError(
            f"{path} is no whole JPEG, PNG or WebP ({error}): copy it again from its source"
        ) from error


def read_goal(text: str | None, image: Path | None, mask: Path | None) -> Goal | None:
    """Read a goal from a text, a picture and where that counts (bright); None without any."""
    if mask is not None and image is None:
        raise ConfigError(f"the mask {mask} belongs to a goal's picture: give --goal-image, too")
    if text is None and image is None:
        return None
    return Goal(
        text=text,
        image=None if image is None else read_image(image),
        mask=None if mask is None else read_image(mask).mean(axis=-1) > _BRIGHT,
    )


def capture_frames(
    capture: cv2.VideoCapture, count: int, fps: float, warm_up: float = _WARM_UP
) -> UInt8Array:
    """Take (count, H, W, 3) RGB frames at a rate from an open camera, after `warm_up` seconds."""
    start = time.monotonic() + warm_up
    frames: list[UInt8Array] = []
    while len(frames) < count:
        # Every frame is grabbed, so that none waits in the driver and comes late.
        grabbed = capture.grab()
        if time.monotonic() < start + len(frames) / fps and grabbed:
            continue
        read, bgr = capture.retrieve() if grabbed else (False, None)
        if not read or bgr is None:
            raise ObservationError(
                f"the camera gave {len(frames)} of {count} frames and then none: check its cable, "
                "and that no other program uses it"
            )
        frames.append(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8))
    return np.stack(frames)


def _refuse_frame(frame: int | None, name: str) -> None:
    if frame is not None:
        raise ConfigError(f"frame {frame} was asked for, but {name} has only one: leave it out")
