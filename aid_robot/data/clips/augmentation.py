"""Vary clips, all frames of one alike."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

import cv2
import numpy as np

from aid_robot.data.episode import FloatArray, UInt8Array
from aid_robot.errors import ConfigError
from aid_robot.observation import resize_frames

# Words that a mirrored picture would turn into lies, with what they are joined to: "leftmost",
# "right-hand". Not those that merely contain them: "upright", "bright".
_SIDES = re.compile(r"\b(?:left|right|(?:counter|anti)?-?clockwise)", re.IGNORECASE)
# What a mirror image of the world, y to -y, does to (x, y, z, roll, pitch, yaw, gripper): with
# M = diag(1, -1, 1), M Rz(c) Ry(b) Rx(a) M = Rz(-c) Ry(b) Rx(-a).
_MIRRORED = np.array([1, -1, 1, -1, 1, -1, 1], np.float32)


@dataclass(frozen=True)
class Augmentation:
    """How far clips are varied; each part is off at 0."""

    # The largest share of both sides that is cut away, at a random place.
    crop: float = 1 / 8
    # The share of clips that are mirrored, left to right, of those whose instruction names no
    # side. Off unless asked for: it is true to the robot only for a camera that looks along its
    # plane of symmetry.
    mirror: float = 0.0
    # The largest change of all pixels, in grey levels, and of their distance from mid-grey.
    brightness: float = 12.0
    contrast: float = 0.15
    # The largest change of one colour against the others.
    colour: float = 0.1

    def __post_init__(self) -> None:
        for part in fields(self):
            value, limit = getattr(self, part.name), 255 if part.name == "brightness" else 1
            if not 0 <= value <= limit or (part.name == "crop" and value == 1):
                raise ConfigError(f"{part.name}={value} must be in [0, {limit}]")

    def draw(self, rng: np.random.Generator, instruction: str) -> Look:
        """Draw how one clip looks; as many numbers are drawn whatever is switched off."""
        zoom, top, left, mirror = rng.random(4)
        brightness, contrast, *colours = rng.uniform(-1, 1, 5)
        values = np.arange(256)[:, None] * (1 + self.colour * np.array(colours))
        values = 127.5 + (values - 127.5) * (1 + self.contrast * contrast)
        values += self.brightness * brightness
        recoloured = bool(self.brightness or self.contrast or self.colour)
        return Look(
            zoom=1 - self.crop * zoom,
            top=top,
            left=left,
            mirrored=bool(mirror < self.mirror) and not names_a_side(instruction),
            levels=values.round().clip(0, 255).astype(np.uint8) if recoloured else None,
        )


@dataclass(frozen=True, eq=False)
class Look:
    """One drawn augmentation, to be applied to whatever belongs to the clip."""

    # The share of both sides that is kept, and where it lies: 0 to 1 from one edge to the other.
    zoom: float = 1.0
    top: float = 0.0
    left: float = 0.0
    mirrored: bool = False
    # (256, 3): the new value of each value of red, green and blue.
    levels: UInt8Array | None = None

    def frames(self, frames: UInt8Array, size: tuple[int, int] | None = None) -> UInt8Array:
        """Crop, mirror, resize to (height, width) and recolour frames (n, H, W, 3).

        Without a size they come out as large as they were.
        """
        height, width = frames.shape[1:3]
        kept_height, kept_width = round(height * self.zoom), round(width * self.zoom)
        top = round(self.top * (height - kept_height))
        left = round(self.left * (width - kept_width))
        frames = frames[:, top : top + kept_height, left : left + kept_width]
        size = size or (height, width)
        if frames.shape[1:3] != size:
            frames = resize_frames(frames, size)
        if self.mirrored:
            # Many times faster than a copy of a reversed view.
            frames = np.stack([cv2.flip(frame, 1) for frame in frames])
        if self.levels is not None:
            flat = frames.reshape(-1, size[1], 3)
            frames = cv2.LUT(flat, self.levels[None]).reshape(frames.shape)
        return frames

    def places(self, places: FloatArray) -> FloatArray:
        """Say where places (n, 2) of a picture come to lie: x, y from 0 at the top left to 1.

        Those that are cut away are outside that range.
        """
        corner = np.array([self.left, self.top]) * (1 - self.zoom)
        moved: FloatArray = ((places - corner) / self.zoom).astype(places.dtype)
        if self.mirrored:
            moved[:, 0] = 1 - moved[:, 0]
        return moved

    def actions(self, actions: FloatArray) -> FloatArray:
        """Mirror actions (n, 7), or states: y, roll and yaw change sign."""
        return actions * _MIRRORED if self.mirrored else actions


def names_a_side(text: str) -> bool:
    """Tell whether a text is no longer true of a mirrored picture."""
    return _SIDES.search(text) is not None
