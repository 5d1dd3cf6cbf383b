"""Raw BridgeData is read with its traps seen: late images, missing cameras, texts that are none."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aid_robot.data import Episode, detect_format, open_recording
from aid_robot.errors import DataFormatError, TruncatedFileError
from tests.data.bridge_writer import FRAMES, TASK, actions, jpeg, states, write_raw
from tests.data.numbered_frames import number_of, numbered_frames


def read(root: Path) -> Episode:
    return open_recording(root)[0]


def numbers(episode: Episode, camera: str = "image_0") -> list[int]:
    return [number_of(frame) for frame in episode.videos[camera]]


def noted(episode: Episode, *words: str) -> bool:
    return any(all(word in note for word in words) for note in episode.notes)


def test_episode_holds_what_was_recorded(tmp_path: Path) -> None:
    folder = write_raw(tmp_path)
    recording = open_recording(tmp_path)
    assert detect_format(tmp_path) == recording.format == "bridge_raw"
    episode = recording[0]
    assert numbers(episode) == list(range(FRAMES))
    assert episode.instruction == "put the carrot on the plate"
    assert (episode.fps, episode.outcome, episode.source) == (5, "demo", str(folder))
    assert episode.scene == "rss/toykitchen2"
    assert episode.state is not None
    assert episode.state == pytest.approx(states())
    assert episode.actions is not None
    assert episode.actions[:-1] == pytest.approx(actions())
    assert episode.actions[-1].tolist() == [0] * 7
    assert not noted(episode, "latency")
    assert not noted(episode, "gripper")


def test_frames_are_the_files_and_are_read_late(tmp_path: Path) -> None:
    folder = write_raw(tmp_path)
    episode = read(tmp_path)
    other = numbered_frames(FRAMES)[::-1][3]
    (folder / "images0" / "im_3.jpg").write_bytes(jpeg(other))
    assert episode.frames.encoded(3) == jpeg(other)
    assert number_of(episode.frames[3]) == number_of(other)
    sent = pickle.loads(pickle.dumps(episode))
    assert [number_of(frame) for frame in sent.frames[:3]] == [0, 1, 2]


@pytest.mark.parametrize("depth", range(9))
def test_any_folder_of_the_tree_can_be_opened(tmp_path: Path, depth: int) -> None:
    folder = write_raw(tmp_path)
    opened = [folder, *folder.parents][depth]
    assert detect_format(opened) == "bridge_raw"
    recording = open_recording(opened)
    assert recording.ids[0].endswith("traj0")
    assert recording[recording.ids[0]].scene == "rss/toykitchen2"


def test_order_is_of_numbers(tmp_path: Path) -> None:
    """im_10 comes after im_9, and traj10 after traj2."""
    frames = numbered_frames(12)
    obs, policy = {"full_state": states(12)}, [{"actions": row} for row in actions(11)]
    for name in ("traj10", "traj2"):
        write_raw(tmp_path, name, cameras={0: frames}, obs=obs, policy=policy)
    recording = open_recording(tmp_path)
    assert [episode.id[-6:] for episode in recording] == ["/traj2", "traj10"]
    assert numbers(recording[1]) == list(range(12))


@pytest.mark.parametrize("where", ["folder", "metadata"])
def test_late_images_lose_the_first_frame_and_the_last_action(tmp_path: Path, where: str) -> None:
    early = "2021-07-22_23-59-59"
    folder = write_raw(tmp_path, date=early if where == "folder" else "undated")
    if where == "metadata":
        metadata = {"date_time": early, "robot": "widowx"}
        (folder.parents[2] / "collection_metadata.json").write_text(json.dumps(metadata))
    episode = read(tmp_path)
    assert numbers(episode) == list(range(1, FRAMES))
    assert episode.actions is not None
    assert episode.state is not None
    assert episode.actions[:-1] == pytest.approx(actions()[:-1])
    assert episode.state == pytest.approx(states()[1:])
    assert noted(episode, "latency shift", "2021-07-22")


@pytest.mark.parametrize("date", ["2021-07-23_00-00-00", "undated", "2021-13-45_00-00-00"])
def test_images_of_a_later_or_unknown_day_are_not_shifted(tmp_path: Path, date: str) -> None:
    write_raw(tmp_path, date=date)
    episode = read(tmp_path)
    assert len(episode) == FRAMES
    assert noted(episode, "unknown day") == (date != "2021-07-23_00-00-00")


def test_several_cameras_are_read_and_depth_is_not(tmp_path: Path) -> None:
    frames = numbered_frames(FRAMES)
    folder = write_raw(tmp_path, cameras={2: frames[::-1], 0: frames, 10: frames})
    shutil.copytree(folder / "images0", folder / "depth_images0")
    episode = read(tmp_path)
    assert list(episode.videos) == ["image_0", "image_2", "image_10"]
    assert numbers(episode, "image_2") == list(range(FRAMES))[::-1]
    assert noted(episode, "image_1 is missing")


def test_black_and_short_cameras_are_left_out(tmp_path: Path) -> None:
    frames = numbered_frames(FRAMES)
    noise = np.random.default_rng(0).integers(0, 9, frames.shape, np.uint8)
    lit_late = np.zeros_like(frames)
    lit_late[-1] = frames[-1]
    cameras = {0: noise, 1: frames[:4], 2: frames, 3: np.zeros_like(frames), 4: lit_late}
    episode = read(write_raw(tmp_path, cameras=cameras).parents[3])
    assert list(episode.videos) == ["image_2", "image_4"]
    assert noted(episode, "image_0 is black")
    assert noted(episode, "image_3 is black")
    assert noted(episode, "image_1", "4 frames, not 6")


def test_camera_that_lacks_a_frame_is_left_out(tmp_path: Path) -> None:
    frames = numbered_frames(FRAMES)
    folder = write_raw(tmp_path, cameras={0: frames, 1: frames})
    (folder / "images0" / "im_2.jpg").unlink()
    (folder / "images0" / "notes.txt").write_text("broken")
    episode = read(tmp_path)
    assert list(episode.videos) == ["image_1"]
    assert noted(episode, "lacks im_2")


def test_static_lead_in_is_kept_and_noted(tmp_path: Path) -> None:
    write_raw(tmp_path, obs={"full_state": states(still=4)})
    episode = read(tmp_path)
    assert len(episode) == FRAMES
    assert noted(episode, "static lead-in of 3 frames")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lift it \nconfidence: 1\n\nlift it\npick it up\n", ("lift it", "pick it up")),
        ("Confidence: 3", ()),
        (" \n\t\n", ()),
        ("", ()),
        (None, ()),
        ("schließ die Tür", ("schließ die Tür",)),
    ],
)
def test_texts_are_instructions_or_nothing(
    tmp_path: Path, text: str | None, expected: tuple[str, ...]
) -> None:
    write_raw(tmp_path, text=text)
    episode = read(tmp_path)
    assert episode.instructions == expected
    assert episode.instruction == (expected[0] if expected else None)
    assert noted(episode, "no instruction") == (not expected)


def test_text_that_is_not_utf8_is_kept_and_noted(tmp_path: Path) -> None:
    write_raw(tmp_path, text="the robot’s cup".encode("cp1252"))
    episode = read(tmp_path)
    assert episode.instruction == "the robot�s cup"
    assert noted(episode, "not UTF-8")


def test_demonstration_without_actions_is_read(tmp_path: Path) -> None:
    write_raw(tmp_path, policy=None)
    episode = read(tmp_path)
    assert episode.actions is None
    assert episode.state is not None
    assert noted(episode, "no actions")


def test_images_alone_are_read(tmp_path: Path) -> None:
    write_raw(tmp_path, policy=None, obs=None)
    episode = read(tmp_path)
    assert (len(episode), episode.actions, episode.state) == (FRAMES, None, None)
    assert noted(episode, "no state")


def test_plain_rows_of_actions_are_read(tmp_path: Path) -> None:
    write_raw(tmp_path, policy=list(actions()))
    episode = read(tmp_path)
    assert episode.actions is not None
    assert episode.actions[:-1] == pytest.approx(actions())


def test_robot_that_drives_itself_gives_no_demonstration(tmp_path: Path) -> None:
    policy = [{"actions": row, "policy_type": "RandomGraspPolicy"} for row in actions()]
    write_raw(tmp_path, policy=policy)
    episode = read(tmp_path)
    assert episode.outcome is None
    assert noted(episode, "RandomGraspPolicy")


def test_gripper_in_other_units_is_noted(tmp_path: Path) -> None:
    rows = states()
    rows[:, 6] = 37.0
    write_raw(tmp_path, obs={"full_state": rows})
    assert noted(read(tmp_path), "gripper", "37")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": list(actions(FRAMES - 3))}, "3 actions for 6 frames"),
        ({"obs": {"full_state": states(FRAMES + 3)}}, "9 states for 6 frames"),
        ({"policy": {"actions": 1}}, "holds dict"),
        ({"policy": [[0.0] * 7] * 100_001}, "holds 100001 steps"),
        ({"policy": []}, "actions of .*no rows"),
        ({"policy": [{"actions": None}] * 5}, "actions of .*NoneType"),
        ({"policy": [{"actions": np.zeros((2, 2))}] * 5}, "actions of"),
        ({"policy": [[0.0] * 7, [0.0] * 6]}, "actions of .*2 rows of 7"),
        ({"policy": [["up"] * 7] * 5}, "actions of"),
        ({"policy": [[10**400] * 7] * 5}, "actions of"),
        ({"obs": {"full_state": np.full((FRAMES, 7), np.nan)}}, "not finite"),
        ({"obs": {"full_state": np.zeros(FRAMES)}}, "full_state of"),
        ({"obs": {"full_state": "abc"}}, "full_state of"),
        ({"obs": b""}, "obs_dict.pkl is empty"),
        ({"obs": pickle.dumps({"full_state": states()})[:-50]}, "no whole pickle"),
    ],
)
def test_malformed_robot_data_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_raw(tmp_path, **changes)
    with pytest.raises(DataFormatError, match=message):
        read(tmp_path)


class Calls:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", ["obs", "policy"])
def test_pickle_that_runs_something_is_refused(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "run"
    write_raw(tmp_path, **{name: [Calls(marker)]})
    with pytest.raises(DataFormatError, match=r"mkdir, which is code"):
        read(tmp_path)
    assert not marker.exists()


def test_row_repeated_very_often_is_refused(tmp_path: Path) -> None:
    row = np.zeros(4096)
    write_raw(tmp_path, policy=[row] * 100_000)
    with pytest.raises(DataFormatError, match="100000 rows of 4096"):
        read(tmp_path)


def test_trajectory_without_frames_is_refused(tmp_path: Path) -> None:
    folder = write_raw(tmp_path)
    shutil.rmtree(folder / "images0")
    with pytest.raises(DataFormatError, match="no camera with frames"):
        read(tmp_path)
    (folder / "images0").mkdir()
    with pytest.raises(DataFormatError, match="image_0 has no whole sequence"):
        read(tmp_path)


def test_damaged_image_is_refused_when_it_is_read(tmp_path: Path) -> None:
    folder = write_raw(tmp_path)
    file = folder / "images0" / "im_1.jpg"
    file.write_bytes(file.read_bytes()[:200])
    episode = read(tmp_path)
    with pytest.raises(TruncatedFileError, match="frame 1"):
        episode.frames[1]
    file.unlink()
    with pytest.raises(TruncatedFileError, match=r"im_1\.jpg"):
        episode.frames[1]


def test_pipes_and_links_in_circles_are_passed_by(tmp_path: Path) -> None:
    folder = write_raw(tmp_path)
    (folder / "lang.txt").unlink()
    os.mkfifo(folder / "lang.txt")
    os.mkfifo(folder / "images0" / f"im_{FRAMES}.jpg")
    (tmp_path / TASK / "again").symlink_to(tmp_path)
    recording = open_recording(tmp_path)
    assert len(recording) == 1
    assert len(recording[0]) == FRAMES


def test_folder_of_other_things_is_no_recording(tmp_path: Path) -> None:
    (tmp_path / "raw" / "traj0").mkdir(parents=True)
    with pytest.raises(DataFormatError, match="traj_group"):
        open_recording(tmp_path)
    with pytest.raises(DataFormatError, match="traj_group"):
        open_recording(tmp_path, "bridge_raw")


data = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=3) | st.just(states()),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(
        ["full_state", "actions", "policy_type"]), inner),
    max_leaves=10,
)  # fmt: skip


@given(obs=data, policy=data)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_data_in_the_pickles_are_read_or_refused(
    tmp_path: Path, obs: object, policy: object
) -> None:
    folder = next(tmp_path.glob("**/traj0"), None) or write_raw(tmp_path)
    (folder / "obs_dict.pkl").write_bytes(pickle.dumps(obs))
    (folder / "policy_out.pkl").write_bytes(pickle.dumps(policy))
    with contextlib.suppress(DataFormatError):
        read(tmp_path)
