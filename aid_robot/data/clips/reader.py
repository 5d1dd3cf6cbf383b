"""Read the clip at a place."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from aid_robot.data.clips.augmentation import Look
from aid_robot.data.clips.clip import Clip
from aid_robot.data.clips.config import ClipConfig
from aid_robot.data.clips.source import Source
from aid_robot.data.clips.windows import Window
from aid_robot.data.episode import FloatArray
from aid_robot.errors import DataFormatError

Scalar = TypeVar("Scalar", np.uint8, np.float32)


class ClipReader:
    """Reads windows of episodes as a config says, decoding the frames that they need."""

    def __init__(self, source: Source, config: ClipConfig) -> None:
        self._source, self._config = source, config

    def read(self, window: Window, instruction: str, look: Look) -> Clip:
        """Cut out a clip; `look` is how it is augmented."""
        config, source = self._config, self._source
        count = config.num_given if config.latents else window.valid
        frames = look.frames(
            source.frames(window.episode, window.camera, window.start, count, config.stride),
            config.size,
        )
        latents = actions = None
        if config.latents:
            latents = _repeat_last(self.latents(window), config.num_frames)
        else:
            frames = _repeat_last(frames, config.num_frames)
        if config.actions:
            steps = config.num_frames * config.stride
            rows = source.actions(window.episode, window.start, window.start + steps)
            actions = look.actions(_stand_still(rows, steps))
        return Clip(
            frames=frames,
            valid=window.valid,
            instruction=instruction,
            episode=source.record(window.episode).id,
            camera=window.camera,
            start=window.start,
            actions=actions,
            latents=latents,
        )

    def latents(self, window: Window) -> FloatArray:
        """Read the latents of the window's real frames."""
        config = self._config
        stop = window.start + (window.valid - 1) * config.stride + 1
        key = latents_key(window.camera)
        rows = self._source.cached(window.episode, key, window.start, stop, config.latents)
        if rows is None:
            raise DataFormatError(
                f"episode '{self._source.record(window.episode).id}' has no '{key}' of the model "
                f"'{config.latents}', but the clips shall have them: compute them for all "
                "episodes, or read frames"
            )
        return rows[:: config.stride].astype(np.float32, copy=False)


def latents_key(camera: str) -> str:
    """Name the array (T, C, h, w) in which a camera's latents are cached."""
    return f"latents_{camera}"


def _repeat_last(rows: npt.NDArray[Scalar], count: int) -> npt.NDArray[Scalar]:
    """Repeat the last row where an episode ends within a window."""
    missing = count - len(rows)
    return np.concatenate([rows, rows[-1:].repeat(missing, axis=0)]) if missing else rows


def _stand_still(actions: FloatArray, count: int) -> FloatArray:
    """Add actions that move nothing and keep the gripper as it is."""
    padded = _repeat_last(actions, count)
    if len(actions) < count:
        padded[len(actions) :, :6] = 0
    return padded
