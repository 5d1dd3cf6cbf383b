"""Replay buffers are read as the zarr package writes them."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from aid_robot.data import Episode, detect_format, open_recording
from aid_robot.errors import DataFormatError, TruncatedFileError
from tests.data.memory import peak_below
from tests.data.numbered_frames import number_of
from tests.data.replay_writer import ENDS, FRAMES, LENGTHS, TOTAL, edit, rows, write, zipped


def numbers(episode: Episode, camera: str = "img") -> list[int]:
    return [number_of(frame) for frame in episode.videos[camera]]


def noted(episode: Episode, *words: str) -> bool:
    return any(all(word in note for word in words) for note in episode.notes)


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_episodes_are_cut_where_they_end(tmp_path: Path, chunk: int) -> None:
    folder = write(tmp_path, chunk=chunk)
    recording = open_recording(folder)
    assert detect_format(folder) == recording.format == "replay_buffer"
    assert recording.ids == ["episode_0", "episode_1", "episode_2"]
    assert [numbers(episode) for episode in recording] == [
        [0, 1, 2, 3, 4],
        [5, 6, 7],
        [8, 9, 10, 11],
    ]
    episode = recording[1]
    assert np.array_equal(episode.frames[:], FRAMES[5:8])
    assert np.array_equal(episode.arrays["action"], rows(2)[5:8])
    assert (episode.instruction, episode.fps, episode.actions) == (None, None, None)
    assert noted(episode, "2 columns, not 7")
    assert noted(episode, "frames a second")


@pytest.mark.parametrize("inner", ["", "x.zarr/"])
def test_zip_file_is_read_as_its_folder_is(tmp_path: Path, inner: str) -> None:
    file = zipped(write(tmp_path), inner)
    recording = open_recording(file)
    assert recording.format == "replay_buffer"
    assert numbers(recording[2]) == [8, 9, 10, 11]
    sent = pickle.loads(pickle.dumps(recording[2]))
    assert numbers(sent) == [8, 9, 10, 11]


def test_folder_of_a_robot_holds_it_beside_videos(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    write(tmp_path).rename(tmp_path / "replay_buffer.zarr")
    assert len(open_recording(tmp_path)) == len(LENGTHS)


def test_umi_keys_are_kept(tmp_path: Path) -> None:
    arrays = {
        "camera1_rgb": FRAMES[::-1],
        "camera0_rgb": FRAMES,
        "robot0_eef_pos": rows(3),
        "robot0_gripper_width": rows(1),
        "robot0_demo_start_pose": rows(6).astype(np.float64),
    }
    episode = open_recording(write(tmp_path, arrays))[0]
    assert list(episode.videos) == ["camera0_rgb", "camera1_rgb"]
    assert numbers(episode, "camera1_rgb") == [11, 10, 9, 8, 7]
    assert set(episode.arrays) == {key for key in arrays if "rgb" not in key}
    assert episode.arrays["robot0_demo_start_pose"].dtype == np.float64
    assert noted(episode, "no actions")
    assert noted(episode, "no state")


def test_seven_columns_are_the_episodes_own(tmp_path: Path) -> None:
    episode = open_recording(
        write(tmp_path, {"img": FRAMES, "action": rows(7), "state": rows(7).astype(np.float64)})
    )[1]
    assert episode.actions is not None
    assert episode.state is not None
    assert episode.actions[:, 0].tolist() == episode.state[:, 0].tolist() == [5, 6, 7]
    assert not episode.arrays
    assert noted(episode, "action has 7 columns", "does not say")


@pytest.mark.parametrize("last", [-1.0, np.nan, 0.08 * 20])
def test_seven_columns_without_a_gripper_stay_an_array(tmp_path: Path, last: float) -> None:
    action = rows(7)
    action[:, 6] = last
    episode = open_recording(write(tmp_path, {"img": FRAMES, "action": action}))[0]
    assert episode.actions is None
    assert episode.arrays["action"].shape == (5, 7)
    assert noted(episode, "no gripper")


@pytest.mark.parametrize(("kind", "brightest"), [("f4", 1), ("f4", 255), ("f2", 1), ("i8", 255)])
@pytest.mark.parametrize("planes", [False, True])
def test_images_of_other_types_become_8_bit(
    tmp_path: Path, kind: str, brightest: int, planes: bool
) -> None:
    images = (FRAMES * (brightest / 255)).astype(kind)
    images = np.moveaxis(images, 3, 1) if planes else images
    episode = open_recording(write(tmp_path, {"img": images}))[0]
    # A half float has 11 bits, which just tell 256 values apart.
    assert np.abs(episode.frames[:].astype(int) - FRAMES[:5]).max() <= (kind == "i8")
    assert noted(episode, "img", f"from 0 to {brightest}")


def test_dark_frames_do_not_change_the_range(tmp_path: Path) -> None:
    images = FRAMES.astype(np.float32) / 255
    images[[0, 4]] = 0
    assert open_recording(write(tmp_path, {"img": images}))[0].frames[3].max() > 200


def test_image_out_of_the_range_of_the_others_is_refused(tmp_path: Path) -> None:
    images = FRAMES.astype(np.float32) / 255
    images[1] *= 255
    with pytest.raises(DataFormatError, match="row 1 of"):
        open_recording(write(tmp_path, {"img": images}))[0].frames[1]


def test_what_is_no_image_is_left_out(tmp_path: Path) -> None:
    signed = FRAMES.astype(np.float32) / 127.5 - 1
    arrays = {
        "img": FRAMES,
        "signed": signed,
        "dark": np.zeros_like(FRAMES),
        "depth": FRAMES[..., 0],
        "points": rows(6).reshape(TOTAL, 2, 3),
        "patches": np.zeros((TOTAL, 4, 4, 3), np.float32),
    }
    episode = open_recording(write(tmp_path, arrays))[0]
    assert list(episode.videos) == ["img"]
    assert noted(episode, "signed", "values from -0.8")
    assert noted(episode, "dark is black")
    assert np.array_equal(episode.arrays["depth"], FRAMES[:5, ..., 0])
    assert set(episode.arrays) == {"depth", "points", "patches"}


def test_arrays_may_be_longer_than_the_episodes(tmp_path: Path) -> None:
    assert len(open_recording(write(tmp_path, ends=ENDS[:2]))) == 2


@pytest.mark.parametrize("ends", [[5, 5, 12], [5, 3, 12], [0, 12], [-1, 12], [5, 13]])
def test_ends_that_do_not_fit_are_refused(tmp_path: Path, ends: list[int]) -> None:
    with pytest.raises(DataFormatError, match=r"ascend|end at row 13"):
        open_recording(write(tmp_path, ends=np.array(ends)))


def test_missing_frame_is_refused_and_missing_rows_are_noted(tmp_path: Path) -> None:
    folder = write(tmp_path, {"img": FRAMES, "wrist": FRAMES, "action": rows(2)})
    (folder / "data/img/6.0.0.0").unlink()
    (folder / "data/action/9.0").unlink()
    for number in range(5):
        (folder / f"data/wrist/{number}.0.0.0").unlink()
    recording = open_recording(folder)
    assert list(recording[0].videos) == ["img"]
    assert noted(recording[0], "wrist has no frames")
    with pytest.raises(TruncatedFileError, match=r"1 chunks of camera img, data/img/6\.0\.0\.0"):
        recording[1]
    assert recording[2].arrays["action"][:, 0].tolist() == [8, 0, 10, 11]
    assert noted(recording[2], "action lacks 1")


def test_names_that_lead_elsewhere_are_left_out(tmp_path: Path) -> None:
    file = zipped(write(tmp_path))
    with zipfile.ZipFile(file, "a") as archive:
        header = archive.read("data/img/.zarray")
        for name in ("data/../../evil", "data/..", "data/a b", "data/\\x"):
            archive.writestr(f"{name}/.zarray", header)
    recording = open_recording(file)
    assert list(recording[0].videos) == ["img"]
    assert any("'..'" in note for note in recording.notes)


def test_zip_bomb_is_refused(tmp_path: Path) -> None:
    file = zipped(write(tmp_path))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data/bomb/.zarray", bytes(2**26))
    with peak_below(2**22), pytest.raises(DataFormatError, match="67108864 bytes"):
        open_recording(file)


def test_damaged_zip_is_refused(tmp_path: Path) -> None:
    file = zipped(write(tmp_path))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TruncatedFileError, match="no whole zip file"):
        open_recording(file)
    damaged = bytearray(whole)
    place = whole.index(b"meta/episode_ends/0")
    damaged[place + 20 : place + 24] = bytes(4)
    file.write_bytes(damaged)
    with pytest.raises(TruncatedFileError, match="meta/episode_ends/0"):
        open_recording(file)


def test_texts_are_left_out(tmp_path: Path) -> None:
    filters = [{"id": "vlen-utf8"}]
    folder = edit(write(tmp_path), "data/action", dtype="|O", filters=filters, fill_value="")
    recording = open_recording(folder)
    assert set(recording[0].arrays) == {"state"}
    assert any("action was left out" in note for note in recording.notes)


def test_store_without_images_says_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match=r"no images, only.*'action': .12, 2."):
        open_recording(write(tmp_path, {"action": rows(2)}))
