"""Recorded Bridge data are read as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aid_robot.data import Episode, open_recording
from aid_robot.data.ingest.traps import static_lead_in, trim_static

pytestmark = pytest.mark.bridge


def assert_frames_move(episode: Episode) -> None:
    """The scene stays, the robot moves: nothing is black, repeated throughout, or shuffled."""
    frames = episode.frames[:].astype(np.float32)
    assert frames.mean() > 20
    steps = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
    assert 0 < steps.max() < 40
    assert np.abs(frames[-1] - frames[0]).mean() > steps.mean()


def rotations(angles: np.ndarray) -> np.ndarray:
    """Turn roll, pitch and yaw (T, 3) into matrices (T, 3, 3)."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(angles).T, np.sin(angles).T
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def test_irasim(bridge_dir: Path) -> None:
    recording = open_recording(bridge_dir / "irasim")
    assert (recording.format, len(recording)) == ("irasim", 6)
    for episode in recording:
        assert episode.frames.shape == (len(episode), 480, 640, 3)
        assert 27 < len(episode) < 50
        assert episode.instruction
        assert episode.fps == 5
        assert_frames_move(episode)
        assert episode.actions is not None
        assert episode.state is not None
        assert set(episode.actions[:, 6]) == {0, 1}
        assert episode.state[:, 6].min() >= 0
        assert episode.state[0, 6] > 0.9
        # Commanded open, the gripper is more open than commanded closed.
        opened = episode.actions[:, 6] == 1
        assert episode.state[opened, 6].mean() > episode.state[~opened, 6].mean() + 0.1
        # Actions are the motion to the next state, seen from the gripper.
        moved = np.diff(episode.state[:, :3], axis=0)
        seen = np.einsum("tji,tj->ti", rotations(episode.state[:-1, 3:6]), moved)
        assert seen == pytest.approx(episode.actions[:-1, :3], abs=1e-5)
        assert any("gripper's frame" in note for note in episode.notes)


def test_demos(bridge_dir: Path) -> None:
    recording = open_recording(bridge_dir / "demos")
    assert (recording.format, len(recording)) == ("video_csv", 14)
    for episode in recording:
        assert episode.frames.size == (240, 320)
        assert (episode.outcome, episode.fps) == ("demo", 5)
        assert episode.instruction
        assert not any("the index says" in note for note in episode.notes)
    assert_frames_move(recording[0])


def test_rollouts(bridge_dir: Path) -> None:
    recording = open_recording(bridge_dir / "rollouts")
    outcomes = [episode.outcome for episode in recording]
    assert len(outcomes) == 22
    assert set(outcomes) == {"success", "failure"}
    assert all(episode.fps is None and episode.instruction is None for episode in recording)


def test_rlds(bridge_dir: Path) -> None:
    recording = open_recording(bridge_dir / "rlds" / "bridge_dataset" / "1.0.0")
    assert (recording.format, len(recording)) == ("rlds", 25)
    assert any("val" in note for note in recording.notes)
    for episode in recording:
        assert list(episode.videos) == ["image_0", "image_1", "image_2"]
        assert "camera image_3 is black and was left out" in episode.notes
        assert all(frames.shape == (10, 64, 64, 3) for frames in episode.videos.values())
        assert episode.instruction
        assert episode.actions is not None
        assert episode.state is not None
        assert 0 <= episode.actions[:, 6].min() <= episode.actions[:, 6].max() <= 1
        assert episode.actions[0, 6] > 0.9
        assert 0 <= episode.state[:, 6].min() <= episode.state[:, 6].max() < 1.1
        # Actions command motion in the base frame, which the state then follows.
        moved = np.diff(episode.state[:, :3], axis=0)
        assert np.corrcoef(moved.ravel(), episode.actions[:-1, :3].ravel())[0, 1] > 0.5
        assert_frames_move(episode)


def test_raw(bridge_dir: Path) -> None:
    recording = open_recording(bridge_dir / "raw")
    assert (recording.format, len(recording)) == ("bridge_raw", 2)
    for episode, frames in zip(recording, (136, 129), strict=True):
        assert episode.frames.shape == (frames, 240, 320, 3)
        assert list(episode.videos) == ["image_0"]
        assert episode.instruction == "open the drawer and put the purple thing in it"
        assert (episode.scene, episode.outcome, episode.fps) == ("palo/toykitchen", "demo", 5)
        assert not any("latency" in note or "day" in note for note in episode.notes)
        assert_frames_move(episode)
        # The frames are the files, in the order of their numbers.
        for number in (0, 9, 10, 99, 100, frames - 1):
            file = Path(episode.source) / "images0" / f"im_{number}.jpg"
            assert episode.frames.encoded(number) == file.read_bytes()
        assert episode.actions is not None
        assert episode.state is not None
        assert 0 <= episode.actions[:, 6].min() <= episode.actions[:, 6].max() <= 1
        # Commanded open, the gripper is more open than commanded closed.
        opened = episode.actions[:, 6] > 0.5
        assert episode.state[opened, 6].mean() > episode.state[~opened, 6].mean() + 0.1
        # Actions command motion in the base frame, which the state then follows.
        moved = np.diff(episode.state[:, :3], axis=0)
        assert np.corrcoef(moved.ravel(), episode.actions[:-1, :3].ravel())[0, 1] > 0.5
        # Nothing moves in the lead-in; what is left after it starts with one frame at rest.
        trimmed = trim_static(episode)
        assert len(trimmed) == len(episode) - 1
        assert any("static lead-in of 1 frame" in note for note in episode.notes)
        assert static_lead_in(trimmed.frames, trimmed.state) == 0
