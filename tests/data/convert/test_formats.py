"""Every format that can be read can be ingested."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from aid_robot.data import FORMATS, open_recording
from aid_robot.data.convert import ingest
from aid_robot.data.store import EpisodeStore
from aid_robot.data.video import write_video
from aid_robot.data.writers import write_lerobot
from tests.data import replay_writer
from tests.data.bridge_writer import numpy_trajectory, write_numpy, write_raw
from tests.data.numbered_frames import numbered_frames
from tests.data.tfrecord_writer import example, write_dataset
from tests.recordings import write_irasim


def rlds(folder: Path) -> Path:
    frames = numbered_frames(5)
    fields = {
        "steps/observation/image_0": [
            cv2.imencode(".jpg", frame[..., ::-1])[1].tobytes() for frame in frames
        ],
        "steps/observation/state": [0.25] * 7 * len(frames),
        "steps/language_instruction": [b"open the drawer"] * len(frames),
    }
    return write_dataset(folder, {"train": [[example(fields)] * 2]})


def store(folder: Path) -> Path:
    ingest([write_irasim(folder / "lab")], folder / "s.zarr", workers=0, progress=False)
    return folder / "s.zarr"


def raw(folder: Path) -> Path:
    write_raw(folder)
    return folder


def video(folder: Path) -> Path:
    folder.mkdir()
    write_video(folder / "v.mp4", numbered_frames(6), 5)
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "store": store,
    "rlds": rlds,
    "irasim": write_irasim,
    "lerobot": lambda folder: write_lerobot(
        open_recording(write_irasim(folder / "lab")), folder / "set", progress=False
    ),
    "replay_buffer": replay_writer.write,
    "bridge_numpy": lambda folder: write_numpy(folder, [numpy_trajectory()]),
    "bridge_raw": raw,
    "video_csv": video,
}


@pytest.mark.parametrize("format", list(FORMATS))
def test_format_arrives_as_it_is_read(tmp_path: Path, format: str) -> None:
    path = WRITERS[format](tmp_path / "recording")
    report = ingest([path], tmp_path / "out.zarr", codec="png", workers=0, progress=False)
    (source,) = report.tallies
    assert (source.format, report.quarantined) == (format, [])
    read = open_recording(path)
    opened = EpisodeStore.open(tmp_path / "out.zarr")
    assert list(opened.ids) == [f"{source.name}/{id}" for id in read.ids]
    for stored, original in zip(opened, read, strict=True):
        assert (stored.instructions, stored.notes) == (original.instructions, original.notes)
        for camera, frames in original.videos.items():
            assert np.array_equal(stored.videos[camera], np.asarray(frames))
        for name, rows in original.arrays.items():
            assert np.array_equal(stored.arrays[name], rows)
    assert ingest([path], tmp_path / "out.zarr", workers=0, progress=False).total.episodes == 0
