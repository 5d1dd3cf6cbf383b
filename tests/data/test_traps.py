"""Black cameras are told from dark ones, and a robot at rest from one that moves."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from aid_robot.data import ArrayFrames, Episode
from aid_robot.data.ingest.traps import BLACK, is_black, static_lead_in, trim_static

T = 10


def grain(seed: int = 0, strength: int = 6) -> npt.NDArray[np.uint8]:
    """A scene seen by a camera with noise, (T, H, W, 3)."""
    rng = np.random.default_rng(seed)
    scene = np.linspace(40, 200, 64, dtype=np.uint8)[None, None, :, None]
    noise = rng.integers(-strength, strength + 1, (T, 48, 64, 3))
    return (scene + noise).clip(0, 255).astype(np.uint8)


def moving_from(first: int) -> npt.NDArray[np.uint8]:
    """The scene with something small that moves from frame `first` on."""
    frames = grain()
    for number in range(T):
        left = 10 + 6 * max(0, number - first + 1)
        frames[number, 20:28, left : left + 4] = 255
    return frames


def state_from(first: int, column: int = 0, step: float = 0.01) -> npt.NDArray[np.float32]:
    rows = np.zeros((T, 7), np.float32)
    rows[:, column] = step * np.maximum(0, np.arange(T) - first + 1)
    return rows


def test_camera_with_noise_alone_is_black() -> None:
    noise = np.random.default_rng(0).integers(0, BLACK + 1, (T, 48, 64, 3), np.uint8)
    assert is_black(ArrayFrames(noise))
    noise[-1, 0, 0, 0] = BLACK + 1
    assert not is_black(ArrayFrames(noise))


def test_dim_scene_is_not_black() -> None:
    assert not is_black(ArrayFrames(grain() // 6))


@pytest.mark.parametrize(("first", "expected"), [(1, 0), (2, 1), (6, 5), (T, 0)])
def test_lead_in_ends_where_motion_starts(first: int, expected: int) -> None:
    """The last frame at rest stays, and so does an episode in which nothing moves."""
    frames = ArrayFrames(moving_from(first))
    assert static_lead_in(frames) == expected
    assert static_lead_in(frames, state_from(first)) == expected


@pytest.mark.parametrize(("column", "step"), [(2, 0.005), (4, 0.05), (6, -0.2)])
def test_lift_turn_and_grip_are_motion(column: int, step: float) -> None:
    assert static_lead_in(ArrayFrames(grain()), state_from(4, column, step)) == 3


def test_sensor_noise_and_turned_over_angles_are_no_motion() -> None:
    rows = state_from(4)
    rows[:, :3] += np.random.default_rng(0).normal(0, 0.0003, (T, 3)).astype(np.float32)
    rows[:, 3] = np.where(np.arange(T) % 2, np.pi - 0.001, -np.pi + 0.001)
    assert static_lead_in(ArrayFrames(grain()), rows) == 3


def test_trimmed_episode_starts_at_the_last_frame_at_rest() -> None:
    frames, rows = moving_from(5), state_from(5)
    episode = Episode(
        id="a",
        videos={"image_0": ArrayFrames(frames), "image_1": ArrayFrames(frames[:, ::-1])},
        actions=rows + 1,
        state=rows,
        arrays={"joints": np.arange(T)},
        notes=("static lead-in of 4 frames, in which nothing moves yet: kept", "another"),
    )
    trimmed = trim_static(episode)
    assert np.array_equal(trimmed.frames[:], frames[4:])
    assert np.array_equal(trimmed.videos["image_1"][:], frames[4:, ::-1])
    assert trimmed.actions is not None
    assert trimmed.state is not None
    assert np.array_equal(trimmed.actions, rows[4:] + 1)
    assert np.array_equal(trimmed.state, rows[4:])
    assert trimmed.arrays["joints"].tolist() == list(range(4, T))
    assert trimmed.notes[0] == "another"
    assert trimmed.notes[1].startswith("static lead-in of 4 frames")
    assert len(trimmed.notes) == 2
    assert trim_static(trimmed) is trimmed
