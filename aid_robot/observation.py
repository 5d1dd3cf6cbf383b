"""Observations in: whatever a control loop holds becomes K frames, (K, H, W, 3) uint8 RGB.

    observation = to_frames(client.get_observation())
    observation = to_frames(history, num_frames=2, camera="image_0")

The layouts that are recognised stand in `aid_robot.observation_layouts`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from aid_robot.errors import FrameCountError, ObservationError
from aid_robot.observation_layouts import choose_camera, recognise
from aid_robot.observation_pixels import as_array, as_history, to_uint8


@dataclass(frozen=True, eq=False)
class Observation:
    """What a model sees of the world: K frames, oldest first, and what came with them."""

    # (K, H, W, 3) RGB, contiguous, a copy of what was handed over.
    frames: NDArray[np.uint8]
    # Text that the layout carried; None if it has none or a blank one.
    instruction: str | None
    # The layout that was recognised, for example "bridge_env".
    layout: str
    # The camera that was taken; None for a bare frame.
    camera: str | None
    # (D,) proprioception of the last step; None if the layout has none.
    state: NDArray[np.float32] | None


def to_frames(obs: object, *, num_frames: int = 1, camera: str | None = None) -> Observation:
    """Take the newest `num_frames` frames of one camera out of an observation of any known layout.

    A longer history gives its last frames; a shorter one is refused, never filled up. Frames that
    a pad mask marks as padding do not count. A list or deque is a history, oldest first, of frames
    or of whole observations. Images are RGB, uint8 or float in [0, 1]; blue-red order (OpenCV's
    BGR) and dark float images in [0, 255] cannot be told from the numbers.

    `camera` is a key of the observation, with or without its prefix; by default the first of
    `observation_layouts.CAMERA_PREFERENCE`, never a wrist camera.

    Raises ObservationError, FrameCountError, or InstructionError for an instruction that is no
    text.
    """
    if num_frames < 1:
        raise FrameCountError(f"num_frames is {num_frames}, expected at least 1")
    if isinstance(obs, list | tuple | deque) and _holds_frames(obs):
        return _from_steps(obs, num_frames, camera)

    found = recognise(obs)
    view = choose_camera(found, camera)
    history = as_history(
        as_array(view.pixels, view.where),
        view.where,
        channels_first=view.channels_first,
        parallel=view.parallel,
    )
    padded = 0
    if view.real is not None:
        if len(view.real) != len(history):
            raise ObservationError(
                f"{view.where} has {len(history)} frames and its pad mask {len(view.real)} "
                "entries, expected one entry a frame"
            )
        history = history[view.real]
        padded = len(view.real) - len(history)
    _check_count(len(history), num_frames, padded)
    frames = to_uint8(history[-num_frames:], view.where)
    return Observation(frames, found.instruction, found.layout, view.name, found.state)


def resize_frames(frames: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Squash frames (..., H, W, 3) to `size` = (height, width); the aspect is not kept.

    Each axis that shrinks is averaged over area, each that grows is interpolated cubically.
    """
    height, width = size
    if height < 1 or width < 1:
        raise ObservationError(f"size is {size}, expected (height, width) of at least 1")
    if frames.dtype != np.uint8 or frames.ndim < 3 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ObservationError(
            f"frames have dtype {frames.dtype} and shape {frames.shape}, expected uint8 and "
            "(..., H, W, 3): pass them through to_frames first"
        )
    flat = frames.reshape(-1, *frames.shape[-3:])
    out = np.empty((len(flat), height, width, 3), np.uint8)
    # OpenCV averages over area only where no axis grows, so the axes that shrink come first.
    smaller = (min(width, flat.shape[2]), min(height, flat.shape[1]))
    for target, frame in zip(out, flat, strict=True):
        shrunk = cv2.resize(frame, smaller, interpolation=cv2.INTER_AREA)
        target[:] = cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_CUBIC)
    return out.reshape(*frames.shape[:-3], height, width, 3)


def _holds_frames(steps: Sequence[object]) -> bool:
    """Tell a list of frames or observations from an image written as nested lists."""
    return bool(steps) and not isinstance(steps[0], list | tuple | int | float)


def _from_steps(steps: Sequence[object], num_frames: int, camera: str | None) -> Observation:
    _check_count(len(steps), num_frames)
    newest = list(steps)[-num_frames:]
    observations = []
    for index, step in enumerate(newest, start=len(steps) - num_frames):
        try:
            observation = to_frames(step, camera=camera)
        except (ObservationError, FrameCountError) as error:
            raise type(error)(f"step {index} of the history: {error}") from error
        observations.append(observation)
    shapes = [observation.frames.shape[1:] for observation in observations]
    if len(set(shapes)) > 1:
        raise ObservationError(
            f"the last {num_frames} steps of the history have frames of {shapes}: bring them to "
            "one size, for example with resize_frames"
        )
    cameras = {observation.camera for observation in observations}
    if len(cameras) > 1:
        raise ObservationError(
            f"the steps of the history come from different cameras {sorted(map(str, cameras))}: "
            "choose one with camera="
        )
    last = observations[-1]
    layout = "history" if last.layout == "frame" else last.layout
    frames = np.concatenate([observation.frames for observation in observations])
    return replace(last, frames=frames, layout=layout)


def _check_count(given: int, needed: int, padded: int = 0) -> None:
    if given >= needed:
        return
    padding = f" besides {padded} of padding" if padded else ""
    raise FrameCountError(
        f"the observation has {given} frame{'s' * (given != 1)}{padding}, the model needs {needed}:"
        f" pass the last {needed} frames as a history (K, H, W, 3), oldest first"
    )
