"""Bridge numpy is read from its pickles without running them, an episode at a time."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aid_robot.data import Episode, detect_format, open_recording
from aid_robot.errors import DataFormatError, TruncatedFileError
from tests.data.bridge_writer import FRAMES, TASK, actions, numpy_trajectory, states, write_numpy
from tests.data.memory import peak_below
from tests.data.numbered_frames import number_of, numbered_frames


def numbers(episode: Episode, camera: str = "image_0") -> list[int]:
    return [number_of(frame) for frame in episode.videos[camera]]


def noted(episode: Episode, *words: str) -> bool:
    return any(all(word in note for word in words) for note in episode.notes)


def test_episode_holds_what_was_converted(tmp_path: Path) -> None:
    write_numpy(tmp_path, [numpy_trajectory()])
    recording = open_recording(tmp_path)
    assert detect_format(tmp_path) == recording.format == "bridge_numpy"
    episode = recording[0]
    assert np.array_equal(episode.frames[:], numbered_frames(FRAMES))
    assert episode.instruction == "put the carrot on the plate"
    assert (episode.fps, episode.outcome, episode.scene) == (5, "demo", "rss/toykitchen2")
    assert episode.actions is not None
    assert episode.actions[:-1] == pytest.approx(actions())
    assert episode.state == pytest.approx(states())


def test_files_and_trajectories_are_in_order(tmp_path: Path) -> None:
    for split, lengths in (("train", (2, 3, 4)), ("val", (5, 6))):
        frames = [numbered_frames(length) for length in lengths]
        write_numpy(tmp_path, [numpy_trajectory(each) for each in frames], split)
    recording = open_recording(tmp_path)
    assert [len(episode) for episode in recording] == [2, 3, 4, 5, 6]
    assert recording.ids == [
        *(f"{TASK}/train/{number}" for number in range(3)),
        *(f"{TASK}/val/{number}" for number in range(2)),
    ]
    assert len(recording[f"{TASK}/train/1"]) == 3
    assert len(recording[-1]) == 6


def test_file_can_be_opened_by_itself(tmp_path: Path) -> None:
    file = write_numpy(tmp_path, [numpy_trajectory()] * 2)
    renamed = file.rename(file.with_name("ten_trajectories.npy"))
    recording = open_recording(renamed)
    assert recording.format == "bridge_numpy"
    assert recording.ids == ["0", "1"]


def test_frames_are_not_read_before_they_are_asked_for(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (40, 128, 128, 3), np.uint8)
    write_numpy(tmp_path, [numpy_trajectory(frames)] * 2)
    recording = open_recording(tmp_path)
    with peak_below(frames.nbytes / 2):
        episode = recording[0]
    assert np.array_equal(episode.frames[17], frames[17])
    episode.frames[17][:] = 0
    assert np.array_equal(episode.frames[17], frames[17])


def test_arrays_over_time_are_read_as_steps_are(tmp_path: Path) -> None:
    frames, rows = numbered_frames(FRAMES), states()
    content = numpy_trajectory(
        observations={"images0": frames[:-1], "state": rows[:-1], "depth_images0": 3},
        next_observations={"images0": frames[1:], "state": rows[1:]},
        actions=actions(),
    )
    write_numpy(tmp_path, [content])
    episode = open_recording(tmp_path)[0]
    assert numbers(episode) == list(range(FRAMES))
    assert episode.state == pytest.approx(rows)


def test_without_next_observations_there_is_an_action_a_frame(tmp_path: Path) -> None:
    write_numpy(tmp_path, [numpy_trajectory(next_observations=None)])
    episode = open_recording(tmp_path)[0]
    assert numbers(episode) == list(range(FRAMES - 1))
    assert episode.actions == pytest.approx(actions())


def test_cameras_are_judged_one_by_one(tmp_path: Path) -> None:
    content = numpy_trajectory()
    for number, step in enumerate([*content["observations"], content["next_observations"][-1]]):
        step["images1"] = np.zeros((4, 4, 3), np.uint8)
        step["images2"] = np.full((4 + number, 4, 3), 99, np.uint8)
        step["images10"] = np.full((4, 4, 3), 99, np.uint8)
        step["depth_images0"] = np.zeros((4, 4), np.uint16)
        step["../images3"] = step["images10"]
    write_numpy(tmp_path, [content])
    episode = open_recording(tmp_path)[0]
    assert list(episode.videos) == ["image_0", "image_10"]
    assert noted(episode, "image_1 is black")
    assert noted(episode, "image_2", "no images of one size")


@pytest.mark.parametrize("language", [None, [], ["", " "], ["confidence: 1"], ""])
def test_missing_or_blank_instruction_is_none(tmp_path: Path, language: object) -> None:
    write_numpy(tmp_path, [numpy_trajectory(language=language)])
    episode = open_recording(tmp_path)[0]
    assert episode.instruction is None
    assert noted(episode, "no instruction")


def test_trajectory_of_images_only_is_read(tmp_path: Path) -> None:
    steps = [{"images0": frame} for frame in numbered_frames(FRAMES)]
    write_numpy(tmp_path, [{"observations": steps}])
    episode = open_recording(tmp_path)[0]
    assert (len(episode), episode.actions, episode.state) == (FRAMES, None, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": list(actions(2))}, "2 actions for 6 frames"),
        ({"actions": "abc"}, "actions of trajectory 0"),
        ({"next_observations": []}, None),
        ({"next_observations": [{}]}, "5 observations and 1 next_observations"),
        ({"observations": None}, "observations that are neither"),
        ({"observations": [1]}, "observations that are neither"),
        ({"observations": {"images0": [1], "state": [1, 2]}}, "observations that are neither"),
        ({"observations": [], "next_observations": []}, "no camera"),
        ({"observations": [{}] * 100_001}, "100001 observations"),
        ({"language": 3}, "no list of texts"),
        ({"language": [3]}, "no list of texts"),
    ],
)
def test_malformed_trajectory_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str | None
) -> None:
    write_numpy(tmp_path, [numpy_trajectory(**changes)])
    recording = open_recording(tmp_path)
    if message is None:
        assert len(recording[0]) == FRAMES - 1
        return
    with pytest.raises(DataFormatError, match=message):
        recording[0]


def header(shape: str, kind: str = "'|O'") -> bytes:
    file = io.BytesIO()
    text = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}"
    file.write(np.lib.format.magic(1, 0))
    padded = text.encode().ljust(117) + b"\n"
    return file.getvalue() + len(padded).to_bytes(2, "little") + padded


def file_of(root: Path, content: bytes) -> Path:
    file = write_numpy(root, [])
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04", "no header"),
        (header("(1000000000000,)"), "too few for the 1000000000000 objects"),
        (header("(1000000000000,)", "'<f4'"), "array of float32 with shape"),
        (header("(10, 10)"), "array of object with shape"),
        (header("(-5,)"), "array of object with shape"),
        (header("()"), "array of object with shape"),
        (header("(1,)", "[('a', '|O')]"), "expected a pickled list"),
        (header("(9**9**9,)"), "no header"),
        (header("((" * 40), "no header"),
        (header("__import__('os')"), "no header"),
    ],
)
def test_hostile_header_is_refused_and_allocates_nothing(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file_of(tmp_path, content)
    with peak_below(2_000_000), pytest.raises(DataFormatError, match=message):
        open_recording(tmp_path)


def test_header_that_disagrees_with_the_pickle_is_refused(tmp_path: Path) -> None:
    pickled = pickle.dumps(np.array([numpy_trajectory(), None], object)[:1])
    file_of(tmp_path, header("(7,)") + pickled)
    recording = open_recording(tmp_path)
    assert len(recording) == 7
    with pytest.raises(DataFormatError, match="holds 1 objects, but its header names 7"):
        recording[0]


class Calls:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_pickle_that_runs_something_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "run"
    file = write_numpy(tmp_path, [numpy_trajectory(terminals=Calls(marker))])
    recording = open_recording(tmp_path)
    with pytest.raises(DataFormatError, match="mkdir, which is code"):
        recording[0]
    assert not marker.exists()
    np.load(file, allow_pickle=True)
    assert marker.exists()


def test_cut_off_file_is_refused(tmp_path: Path) -> None:
    file = write_numpy(tmp_path, [numpy_trajectory()])
    content = file.read_bytes()
    for length in (100, 5000, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(TruncatedFileError if length > 4000 else DataFormatError):
            open_recording(tmp_path)[0]


data = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.just(numbered_frames(2)[0]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["images0", "state", "image", "x"]), inner)
    ),
    max_leaves=8,
)


@given(changes=st.dictionaries(st.sampled_from(sorted(numpy_trajectory())), data, min_size=1))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_trajectory_is_read_or_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_numpy(tmp_path, [numpy_trajectory() | changes])
    with contextlib.suppress(DataFormatError):
        open_recording(tmp_path)[0].frames[:]
