"""LeRobot data sets of all versions are read frame by frame as they were written."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aid_robot.data import Episode, Recording, open_recording
from aid_robot.errors import DataFormatError
from tests.data.lerobot_writer import (
    Tiny,
    change_feature,
    change_info,
    png,
    read_episodes,
    write_episodes,
    write_v2,
    write_v3,
)
from tests.data.numbered_frames import number_of, numbered_frames

TINY = Tiny()
IMAGES = Tiny(images=True)


def assert_whole(recording: Recording, tiny: Tiny = TINY) -> None:
    """Every frame of every camera and every row is at its place."""
    assert recording.format == "lerobot"
    assert len(recording) == len(tiny.lengths)
    for number, start, stop in tiny.starts():
        episode = recording[number]
        assert episode.id == recording.ids[number] == f"episode_{number:06d}"
        assert list(episode.videos) == ["image_0", "wrist"]
        assert [number_of(frame) for frame in episode.frames] == list(range(start, stop))
        wrist = episode.videos["wrist"][:]
        assert [number_of(255 - frame) for frame in wrist] == list(range(start, stop))
        index = np.arange(start, stop)
        assert episode.state is not None
        assert episode.state == pytest.approx(np.repeat(index[:, None] / 10, 7, 1))
        assert (episode.arrays["touch"] == index[:, None, None]).all()
        assert episode.arrays["touch"].shape == (len(index), 2, 3)
        assert episode.fps == 5


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: write_v2(folder, version="v2.0"),
        write_v2,
        lambda folder: write_v2(folder, IMAGES),
        write_v3,
        lambda folder: write_v3(folder, one_group=True),
        lambda folder: write_v3(folder, files=((0, 2), (1,))),
        lambda folder: write_v3(folder, IMAGES),
        lambda folder: write_v3(folder, IMAGES, one_group=True),
        # Without keyframes at an episode's start, and with frames predicted from later ones.
        lambda folder: write_v3(folder, options={"bf": "3", "g": "250"}),
        lambda folder: write_v3(folder, options={"codec": "libsvtav1", "g": "2", "crf": "20"}),
    ],
    ids=["2.0", "2.1", "2.1 images", "3", "one row group", "files", "images", "images in one group",
         "far keyframes", "av1"],
)  # fmt: skip
def test_every_frame_and_row_is_read(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    assert_whole(open_recording(write(tmp_path / "set")))


def test_boundaries_are_exact_in_any_order(tmp_path: Path) -> None:
    """Files are shared and their decoders too: jumping between episodes must not mix frames."""
    recording = open_recording(write_v3(tmp_path))
    episodes = list(recording)
    order = [(2, -1), (0, 0), (1, -1), (2, 0), (0, -1), (1, 0), (1, 5), (2, 4)]
    firsts = [start for _, start, _ in TINY.starts()]
    for number, frame in order:
        place = frame % TINY.lengths[number]
        assert number_of(episodes[number].frames[frame]) == firsts[number] + place


def test_tasks_are_read_in_the_order_of_the_frames(tmp_path: Path) -> None:
    for recording in (
        open_recording(write_v2(tmp_path / "2")),
        open_recording(write_v3(tmp_path / "3")),
    ):
        first, changing, blank = recording
        assert first.instruction == "open the drawer"
        assert changing.instructions == ("put the carrot on the plate", "open the drawer")
        assert "the task changes at frame 6" in changing.notes
        assert blank.instruction is None
        assert "no instruction, or only blanks" in blank.notes


def test_what_is_known_of_the_set_is_kept(tmp_path: Path) -> None:
    first, _, last = open_recording(write_v3(tmp_path))
    assert first.info == {"robot_type": "widowx", "split": "train"}
    assert last.info["split"] == "val"
    assert "data/chunk-000/file-000.parquet episode 0" in first.source
    assert open_recording(tmp_path, fps=10)[0].fps == 10


def convention(episode: Episode) -> list[str]:
    return [note for note in episode.notes if "actions" in note]


def test_bridge_actions_are_known_by_robot_and_names(tmp_path: Path) -> None:
    episode = open_recording(write_v3(tmp_path))[0]
    assert episode.actions is not None
    assert episode.actions[3] == pytest.approx(np.full(7, 0.03))
    assert convention(episode) == []
    assert "action" not in episode.arrays


@pytest.mark.parametrize("names", [None, [f"motor_{i}" for i in range(7)], {"motors": "0123456"}])
def test_seven_nameless_actions_are_taken_with_a_note(tmp_path: Path, names: object) -> None:
    episode = open_recording(write_v3(tmp_path, replace(TINY, names=names)))[0]
    assert episode.actions is not None
    assert convention(episode) == ["whether actions follow Bridge's conventions is not known"]


def test_other_robots_actions_are_kept_as_arrays(tmp_path: Path) -> None:
    joints = [f"joint_{i}.pos" for i in range(6)] + ["gripper.pos"]
    for tiny in (replace(TINY, names=joints), replace(TINY, width=6, names=None)):
        folder = write_v3(tmp_path / str(tiny.width), tiny)
        episode = open_recording(folder)[1]
        assert episode.actions is None
        assert episode.arrays["action"].shape == (12, tiny.width)
        assert "kept as the array 'action'" in convention(episode)[0]


def test_columns_are_found_by_name_and_padding_is_dropped(tmp_path: Path) -> None:
    names = ["gripper", "pad", "x", "y", "z", "roll", "pitch", "yaw"]
    folder = write_v3(tmp_path, replace(TINY, width=8, names=names))
    file = folder / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    column = table.column_names.index("action")
    rows = [[7.0, -1, 1, 2, 3, 4, 5, 6]] * len(table)
    pq.write_table(
        table.set_column(column, "action", pa.array(rows, pa.list_(pa.float32(), 8))), file
    )
    actions = open_recording(folder)[0].actions
    assert actions is not None
    assert actions[0].tolist() == [1, 2, 3, 4, 5, 6, 7]


def add_column(folder: Path, name: str, values: pa.Array, **feature: object) -> None:
    file = folder / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(file).append_column(name, values), file)
    change_feature(folder, name, shape=[1], names=None, **feature)


def test_success_texts_and_depth(tmp_path: Path) -> None:
    folder = write_v3(tmp_path, IMAGES)
    add_column(folder, "next.success", pa.array([False] * 18 + [True] + [False] * 5), dtype="bool")
    texts = ["open it"] * 7 + ["lift it"] * 12 + [""] * 5
    add_column(folder, "language_instruction", pa.array(texts), dtype="string")
    add_column(folder, "operator", pa.array(["me"] * 24), dtype="string")
    images = pq.read_table(folder / "data/chunk-000/file-000.parquet")["observation.images.wrist"]
    add_column(folder, "observation.images.depth", images, dtype="image")
    first, second, third = open_recording(folder)
    assert (first.outcome, second.outcome, third.outcome) == (None, "success", None)
    assert first.instructions == ("open the drawer", "open it")
    assert "the texts of operator were left out" in first.notes
    assert "observation.images.depth holds depth and was left out" in first.notes
    assert list(first.videos) == ["image_0", "wrist"]
    assert first.arrays["next.success"].dtype == np.bool_


def test_cameras_of_one_short_name_keep_their_long_ones(tmp_path: Path) -> None:
    folder = write_v3(tmp_path, IMAGES)
    images = pq.read_table(folder / "data/chunk-000/file-000.parquet")["observation.images.wrist"]
    add_column(folder, "observation.wrist", images, dtype="image")
    assert list(open_recording(folder)[0].videos) == [
        "image_0",
        "observation.images.wrist",
        "observation.wrist",
    ]


def test_images_may_lie_in_files(tmp_path: Path) -> None:
    folder = write_v2(tmp_path / "set", IMAGES)
    file = folder / "data/chunk-000/episode_000000.parquet"
    table = pq.read_table(file)
    column = table.column_names.index("observation.images.image_0")
    images = table["observation.images.image_0"].to_pylist()
    for number, image in enumerate(images):
        (folder / f"{number}.png").write_bytes(image["bytes"])
        image |= {"bytes": None, "path": f"{number}.png"}
    kind = table.schema.field(column).type
    pq.write_table(
        table.set_column(column, table.column_names[column], pa.array(images, kind)), file
    )
    frames = open_recording(folder)[0].frames
    assert [number_of(frame) for frame in frames] == list(range(7))
    (folder / "3.png").unlink()
    with pytest.raises(DataFormatError, match=r"frame 3 of .* is in 3\.png, which is not there"):
        open_recording(folder)[0]


@pytest.mark.parametrize("group", [2, 24])
def test_large_images_are_read(tmp_path: Path, group: int) -> None:
    """Parquet writers look for repeated values in the first MiB only, and then change the way."""
    folder = write_v3(tmp_path, IMAGES)
    file = folder / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    column = table.column_names.index("observation.images.image_0")
    noise = np.random.default_rng(0).integers(0, 256, (24, 200, 300, 3), dtype=np.uint8)
    images = [{"bytes": png(frame), "path": None} for frame in noise]
    values = pa.array(images, table.schema.field(column).type)
    table = table.set_column(column, table.column_names[column], values)
    pq.write_table(table, file, row_group_size=group)
    assert file.stat().st_size > 2**22
    for number, start, stop in TINY.starts():
        assert np.array_equal(open_recording(folder)[number].frames, noise[start:stop])


def test_rounding_of_times_is_borne_and_more_is_not(tmp_path: Path) -> None:
    folder = write_v3(tmp_path)
    rows = read_episodes(folder)
    key = "videos/observation.images.image_0/"
    for row in rows:
        row[key + "from_timestamp"] += 1e-3
        row[key + "to_timestamp"] += 3e-3
    write_episodes(folder, rows)
    assert_whole(open_recording(folder))
    rows[1][key + "from_timestamp"] += 0.1
    write_episodes(folder, rows)
    with pytest.raises(DataFormatError, match="which at 5 frames a second is not 12 frames"):
        open_recording(folder)[1]
    assert len(open_recording(folder)[0]) == 7


def test_recordings_and_episodes_reach_other_processes(tmp_path: Path) -> None:
    for tiny in (TINY, IMAGES):
        recording = open_recording(write_v3(tmp_path / str(tiny.images), tiny))
        assert_whole(pickle.loads(pickle.dumps(recording)))
        episode = pickle.loads(pickle.dumps(recording[1]))
        assert [number_of(frame) for frame in episode.frames] == list(range(7, 19))


def test_part_of_a_set_is_read_as_far_as_it_is_there(tmp_path: Path) -> None:
    folder = write_v3(tmp_path, files=((0, 1), (2,)))
    (folder / "data/chunk-000/file-001.parquet").unlink()
    recording = open_recording(folder)
    assert len(recording[1]) == 12
    with pytest.raises(DataFormatError, match=r"there is no .*file-001\.parquet"):
        recording[2]
    change_info(folder, total_episodes=30)
    assert open_recording(folder).notes == (
        "27 of the episodes that meta/info.json counts are not described",
    )


def test_frames_of_the_fixture_differ() -> None:
    """A reader that is off by one frame would be seen."""
    assert [number_of(frame) for frame in numbered_frames(24)] == list(range(24))
