"""What is exported as videos with an index is read back, all cameras of it."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aid_robot.data import ArrayFrames, Episode, open_recording
from aid_robot.data.writers import write_videos
from aid_robot.errors import DataFormatError
from tests.data.numbered_frames import number_of, numbered_frames


def episodes() -> list[Episode]:
    frames = numbered_frames(12)
    return [
        Episode(
            id="train/a, b",
            videos={"front": ArrayFrames(frames[:7]), "../wrist": ArrayFrames(255 - frames[:7])},
            instruction='say "open", then\nlift',
            instructions=('say "open", then\nlift', "lift"),
            outcome="failure",
            fps=12.5,
        ),
        Episode(id="..", videos={"image_0": ArrayFrames(frames[7:])}),
    ]


def test_videos_come_back(tmp_path: Path) -> None:
    folder = write_videos(iter(episodes()), tmp_path / "videos", progress=False)
    recording = open_recording(folder)
    assert recording.format == "video_csv"
    assert recording.ids == ["train/a, b", ".."]
    told, bare = recording
    assert list(told.videos) == ["front", "../wrist"]
    assert [number_of(frame) for frame in told.frames] == list(range(7))
    assert [number_of(255 - frame) for frame in told.videos["../wrist"]] == list(range(7))
    assert told.instruction == 'say "open", then\nlift'
    assert (told.outcome, told.fps, told.notes) == ("failure", 12.5, ())
    assert [number_of(frame) for frame in bare.frames] == list(range(7, 12))
    assert (bare.outcome, bare.fps, bare.instruction) == (None, None, None)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.mp4")}
    assert files == {
        "episode_000000/front.mp4",
        "episode_000000/_wrist.mp4",
        "episode_000001/image_0.mp4",
    }


def test_the_index_is_for_others_too(tmp_path: Path) -> None:
    write_videos(episodes(), tmp_path / "videos", fps=10, progress=False)
    with (tmp_path / "videos/index.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows][2] == "episode_000001/image_0.mp4"
    assert rows[0]["frames"] == "7"
    assert (rows[2]["width"], rows[2]["height"], rows[2]["fps"]) == ("64", "48", "unknown")
    bare = open_recording(tmp_path / "videos/episode_000001/image_0.mp4")[0]
    assert bare.fps == 10


def test_frames_look_the_same(tmp_path: Path) -> None:
    made = episodes()[0]
    frames = open_recording(write_videos([made], tmp_path / "a", progress=False))[0].frames
    # The grain is colour at every pixel, of which 4:2:0 keeps a quarter.
    assert np.abs(frames[:].astype(int) - made.frames[:]).mean() < 8


def test_nothing_is_left_of_what_fails(tmp_path: Path) -> None:
    made = episodes()[0]
    for wrong, message in (([], "no episodes"), ([made, made], "two episodes have the id")):
        with pytest.raises(DataFormatError, match=message):
            write_videos(wrong, tmp_path / "videos", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_cameras_of_one_episode_must_differ_and_be_equally_long(tmp_path: Path) -> None:
    folder = write_videos(episodes(), tmp_path / "videos", progress=False)
    index = folder / "index.csv"
    text = index.read_text(encoding="utf-8")
    index.write_text(text.replace("../wrist", "front"), encoding="utf-8")
    with pytest.raises(DataFormatError, match="one video an episode and camera"):
        open_recording(folder)
    index.write_text(text.replace(",..,", ',"train/a, b",'), encoding="utf-8")
    with pytest.raises(DataFormatError, match="cameras of different lengths"):
        open_recording(folder)[0]


def test_blank_episodes_and_cameras_are_named(tmp_path: Path) -> None:
    made = replace(episodes()[1], id="plain")
    folder = write_videos([made], tmp_path / "videos", progress=False)
    (folder / "index.csv").write_text(
        "file,instruction,episode\nepisode_000000/image_0.mp4,push,\n"
        "episode_000000/image_0.mp4,push,two\nepisode_000000/image_0.mp4,push,two\n"
    )
    recording = open_recording(folder)
    assert recording.ids == ["episode_000000/image_0", "two"]
    assert [list(episode.videos) for episode in recording] == [["image_0"], ["image_0", "image_1"]]
