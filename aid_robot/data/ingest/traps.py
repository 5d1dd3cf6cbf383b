"""What to look for in any recording: cameras that saw nothing, robots that don't move yet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from aid_robot.data.episode import Episode, FloatArray, FrameSequence, UInt8Array
from aid_robot.data.frames import FrameWindow

# A covered camera's noise stays below, out of 255; the darkest scene with a robot in it doesn't.
BLACK = 16

# What a robot that holds still does not reach, in the units of a state.
_STILL = np.array([0.002] * 3 + [0.02] * 3 + [0.05], np.float32)
# A pixel has changed if it differs by this much; a frame, if this share of its pixels has.
_CHANGED_PIXEL, _CHANGED_FRAME = 32, 0.002


def is_black(frames: FrameSequence) -> bool:
    """Whether a camera saw nothing, judged by its first, middle and last frame."""
    looked_at = (0, len(frames) // 2, len(frames) - 1)
    return all(int(frames[index].max()) <= BLACK for index in looked_at)


def static_lead_in(frames: FrameSequence, state: FloatArray | None = None) -> int:
    """Count the frames that can be cut off the start before anything moves.

    The last frame before the motion is not counted, since the motion starts from it; nor is
    anything where nothing moves at all. Judged by the robot's state (T, 7), without one by pixels:
    then frames are decoded up to the motion.
    """
    if state is not None:
        moved = np.abs(state - state[0])
        # An angle just below a half turn is next to one just above minus a half turn.
        moved[:, 3:6] = np.minimum(moved[:, 3:6], 2 * np.pi - moved[:, 3:6])
        moving = (moved > _STILL).any(axis=1)
        return max(0, int(moving.argmax()) - 1)
    first = _coarse(frames[0])
    for index in range(1, len(frames)):
        difference = np.abs(_coarse(frames[index]) - first).max(axis=2)
        if (difference > _CHANGED_PIXEL).mean() > _CHANGED_FRAME:
            return index - 1
    return 0


def lead_in_notes(count: int) -> list[str]:
    """Say that an episode starts static, in the words that all readers use."""
    frames = "1 frame" if count == 1 else f"{count} frames"
    return [f"static lead-in of {frames}, in which nothing moves yet: kept"] if count else []


def trim_static(episode: Episode) -> Episode:
    """Cut the static lead-in off an episode, all but the frame from which the motion starts."""
    start = static_lead_in(episode.frames, episode.state)
    if not start:
        return episode
    notes = [note for note in episode.notes if not note.startswith("static lead-in")]
    return replace(
        episode,
        videos={
            camera: FrameWindow(frames, start, len(frames))
            for camera, frames in episode.videos.items()
        },
        actions=None if episode.actions is None else episode.actions[start:],
        state=None if episode.state is None else episode.state[start:],
        arrays={name: rows[start:] for name, rows in episode.arrays.items()},
        notes=(*notes, f"static lead-in of {start} frames, in which nothing moves yet: cut off"),
    )


def _coarse(frame: UInt8Array) -> npt.NDArray[np.int16]:
    """Average blocks of 4x4 pixels, which evens out the noise of a camera and of JPEG."""
    height, width = (size // 4 * 4 for size in frame.shape[:2])
    blocks = frame[:height, :width].reshape(height // 4, 4, width // 4, 4, 3)
    coarse: npt.NDArray[np.int16] = blocks.mean(axis=(1, 3)).astype(np.int16)
    return coarse
