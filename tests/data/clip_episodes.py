"""Small episodes whose frames say which they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aid_robot.data.episode import Episode, UInt8Array
from aid_robot.data.frames import ArrayFrames
from aid_robot.data.store import EpisodeStore

SIZE = 16


def number_of(frame: UInt8Array) -> int:
    """Read the frame's number in its episode."""
    return int(frame[0, 0, 0])


def make_episode(
    name: str = "e", length: int = 20, cameras: Sequence[str] = ("image_0",), **fields: Any
) -> Episode:
    """Make frames that are their own number in red, their camera's in green, darker to the right.

    Action t is t in every column but the gripper, which is 1.
    """
    videos = {}
    for place, camera in enumerate(cameras):
        frames = np.zeros((length, SIZE, SIZE, 3), np.uint8)
        frames[..., 0] = np.arange(length)[:, None, None]
        frames[..., 1] = place
        frames[..., 2] = np.linspace(250, 0, SIZE).astype(np.uint8)
        videos[camera] = ArrayFrames(frames)
    actions = np.repeat(np.arange(length, dtype=np.float32)[:, None], 7, axis=1)
    actions[:, 6] = 1
    fields = {"instructions": ("open the drawer",), "fps": 5.0, "actions": actions, **fields}
    return Episode(id=name, videos=videos, **fields)


def make_store(folder: Path, episodes: Sequence[Episode]) -> EpisodeStore:
    """Keep episodes losslessly, and open them for reading."""
    with EpisodeStore.create(folder / "store.zarr", codec="png") as store:
        store.extend(episodes)
    return EpisodeStore.open(folder / "store.zarr")
