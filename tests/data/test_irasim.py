"""The IRASim layout is read with one convention for the gripper, and a row of action a frame."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aid_robot.data import detect_format, open_recording, write_video
from aid_robot.errors import DataFormatError, FrameRateError
from tests.data.numbered_frames import number_of, numbered_frames

FRAMES = 6
# The gripper closes on the way and stays so.
CLOSED = [0.0, 0.1, 0.6, 0.9, 0.9, 0.9]


def annotation(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "texts": ["put the carrot on the plate"],
        "videos": [{"video_path": f"videos/train/{name}/rgb.mp4"}],
        "action": [[0.01 * step, 0, 0, 0, 0, 0.5, int(step < 2)] for step in range(FRAMES - 1)],
        "state": [[0.3, 0.1, 0.2, 0, 0, 0, int(step < 3)] for step in range(FRAMES)],
        "continuous_gripper_state": CLOSED,
        "episode_id": name,
    } | changes


def write(root: Path, name: str, **changes: Any) -> Path:
    """Write one episode; a change to None leaves the field out."""
    content = {k: v for k, v in annotation(name, **changes).items() if v is not None}
    file = root / "annotation" / "train" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    folder = root / "videos" / "train" / name
    folder.mkdir(parents=True, exist_ok=True)
    write_video(folder / "rgb.mp4", numbered_frames(FRAMES), 3)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("10", "2"):
        write(tmp_path, name)
    return tmp_path


def test_episodes_are_in_the_order_of_their_numbers(root: Path) -> None:
    recording = open_recording(root)
    assert detect_format(root) == recording.format == "irasim"
    assert [episode.id for episode in recording] == ["train/2", "train/10"]
    assert recording["train/10"].source.endswith("10.json")


def test_episode_holds_what_was_recorded(root: Path) -> None:
    episode = open_recording(root)[0]
    assert [number_of(frame) for frame in episode.frames] == list(range(FRAMES))
    assert episode.instruction == "put the carrot on the plate"
    assert episode.fps == 5
    assert any("plays at 3" in note for note in episode.notes)


def test_gripper_is_1_where_open(root: Path) -> None:
    episode = open_recording(root)[0]
    assert episode.actions is not None
    assert episode.state is not None
    assert episode.actions[:, 6].tolist() == [1, 1, 0, 0, 0, 0]
    assert episode.state[:, 6] == pytest.approx(1 - np.array(CLOSED), abs=1e-6)
    assert episode.state[:, :3].tolist() == np.float32([[0.3, 0.1, 0.2]] * FRAMES).tolist()


def test_last_frame_gets_an_action_that_does_not_move(root: Path) -> None:
    episode = open_recording(root)[0]
    assert episode.actions is not None
    assert episode.actions.shape == (FRAMES, 7)
    assert episode.actions[-2].tolist() == pytest.approx([0.04, 0, 0, 0, 0, 0.5, 0])
    assert episode.actions[-1].tolist() == [0, 0, 0, 0, 0, 0, 0]
    assert any("5 actions for 6 frames" in note for note in episode.notes)


@pytest.mark.parametrize("count", [FRAMES, FRAMES + 1])
def test_action_a_frame_is_kept_and_one_more_dropped(tmp_path: Path, count: int) -> None:
    rows = [[float(step)] * 7 for step in range(count)]
    episode = open_recording(write(tmp_path, "a", action=rows))[0]
    assert episode.actions is not None
    assert episode.actions[:, 0].tolist() == list(range(FRAMES))
    assert any("actions for" in note for note in episode.notes) == (count != FRAMES)


def test_state_without_a_gripper_gets_the_continuous_one(tmp_path: Path) -> None:
    episode = open_recording(write(tmp_path, "a", state=[[0.3] * 6] * FRAMES))[0]
    assert episode.state is not None
    assert episode.state[:, 6] == pytest.approx(1 - np.array(CLOSED), abs=1e-6)


@pytest.mark.parametrize("texts", [[], ["", "  "], None])
def test_missing_or_blank_instruction_is_none(tmp_path: Path, texts: object) -> None:
    episode = open_recording(write(tmp_path, "a", texts=texts))[0]
    assert episode.instruction is None
    assert any("instruction" in note for note in episode.notes)


def test_all_wordings_and_cameras_are_kept(tmp_path: Path) -> None:
    path = "videos/train/a/rgb.mp4"
    write(tmp_path, "a", texts=["lift it ", "", "lift it", "pick it up"], videos=[path, path])
    episode = open_recording(tmp_path)[0]
    assert episode.instruction == "lift it"
    assert episode.instructions == ("lift it", "pick it up")
    assert list(episode.videos) == ["image_0", "image_1"]


def test_episode_without_robot_data_is_read_with_notes(tmp_path: Path) -> None:
    episode = open_recording(write(tmp_path, "a", action=None, state=[[0.0] * 9] * FRAMES))[0]
    assert episode.actions is None
    assert episode.state is None
    assert "no actions" in episode.notes
    assert any("9 columns" in note for note in episode.notes)


@pytest.mark.parametrize(
    "path", ["../secret.mp4", "videos/../../x.mp4", "/etc/x.mp4", "C:\\x.mp4", "..\\x.mp4", "", 3]
)
def test_video_outside_the_recording_is_refused(tmp_path: Path, path: object) -> None:
    write(tmp_path, "a", videos=[{"video_path": path}])
    with pytest.raises(DataFormatError, match=r"a\.json names the file"):
        open_recording(tmp_path)[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": [[0] * 7] * (FRAMES - 2)}, "4 actions for 6 frames"),
        ({"action": [[0] * 7, [0] * 6]}, "malformed 'action'"),
        ({"action": [["up"] * 7] * FRAMES}, "malformed 'action'"),
        ({"action": [[10**400] * 7] * FRAMES}, "malformed 'action'"),
        ({"action": [[float("nan")] * 7] * FRAMES}, "not finite"),
        ({"state": 3}, "malformed 'state'"),
        ({"continuous_gripper_state": [0.0]}, "continuous_gripper_state"),
        ({"continuous_gripper_state": [80.0] * FRAMES}, "0 .open. to 1 .closed."),
        ({"videos": None}, "names no videos"),
        ({"videos": [{"video_path": "videos/absent.mp4"}]}, "not a file"),
        ({"texts": [3]}, "texts"),
    ],
)
def test_malformed_annotation_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write(tmp_path, "a", **changes)
    with pytest.raises(DataFormatError, match=message):
        open_recording(tmp_path)[0]


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"a":', b"\xff", b"[" * 100_000])
def test_annotation_that_is_no_json_object_is_refused(root: Path, content: bytes) -> None:
    (root / "annotation" / "train" / "2.json").write_bytes(content)
    with pytest.raises(DataFormatError, match=r"2\.json"):
        open_recording(root)[0]


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(changes=st.dictionaries(st.sampled_from(sorted(annotation("2"))), json_values, min_size=1))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_annotation_is_read_or_refused(root: Path, changes: dict[str, Any]) -> None:
    (root / "annotation" / "train" / "2.json").write_text(json.dumps(annotation("2") | changes))
    with contextlib.suppress(DataFormatError):
        open_recording(root)["train/2"]


def test_unknown_id_suggests_a_near_one(root: Path) -> None:
    with pytest.raises(DataFormatError, match="did you mean 'train/10'"):
        open_recording(root)["10"]
    with pytest.raises(IndexError):
        open_recording(root)[2]


def test_unknown_format_suggests_a_near_one(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="did you mean 'irasim'"):
        open_recording(root, "irasin")
    with pytest.raises(DataFormatError, match="annotation"):
        open_recording(tmp_path / "annotation" / "train")
    with pytest.raises(DataFormatError, match="check the path"):
        open_recording(tmp_path / "absent")
    with pytest.raises(FrameRateError, match="-5"):
        open_recording(root, fps=-5)
