"""What several tests of ingest runs do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from aid_robot.data import Episode
from aid_robot.data.convert import Report, ingest
from aid_robot.data.video import write_video
from tests.recordings import plain_frames


def ingest_here(*paths: str | Path, **options: Any) -> Report:
    """Ingest all but the last path into the last, without other processes and without a bar."""
    return ingest(paths[:-1], paths[-1], **{"workers": 0, "progress": False, **options})


def write_videos(folder: Path, names: list[str], height: int = 48, width: int = 64) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        write_video(folder / f"{name}.mp4", plain_frames([40, 60, 80], height, width), 5)
    return folder


def cut(path: Path) -> bytes:
    """Cut a file in half, and return what it was."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return whole


def assert_same(stored: Episode, read: Episode) -> None:
    """All but the frames is as in the recording."""
    assert stored.instructions == read.instructions
    assert (stored.outcome, stored.fps, stored.scene) == (read.outcome, read.fps, read.scene)
    assert (stored.source, stored.notes) == (read.source, read.notes)
    assert list(stored.videos) == list(read.videos)
    for old, new in ((stored.actions, read.actions), (stored.state, read.state)):
        assert (old is None) == (new is None)
        assert old is None or np.array_equal(old, new)
