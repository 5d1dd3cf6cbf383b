"""Writes small recordings in the layouts of BridgeData, as its robots and its converter do."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.data.numbered_frames import numbered_frames

FRAMES = 6
TASK = "rss/toykitchen2/set_table/00"


def jpeg(frame: npt.NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=95)
    return file.getvalue()


def states(count: int = FRAMES, still: int = 1) -> npt.NDArray[np.float64]:
    """Rows in which x grows by 0.01 a step once `still` rows have passed; open gripper."""
    rows = np.zeros((count, 7))
    rows[:, 0] = 0.3 + 0.01 * np.maximum(0, np.arange(count) - still + 1)
    rows[:, 6] = 1.0
    return rows


def actions(count: int = FRAMES - 1) -> npt.NDArray[np.float64]:
    """Rows of which row t begins with t / 100; the gripper closes after the first."""
    rows = np.zeros((count, 7))
    rows[:, 0] = np.arange(count) / 100
    rows[:1, 6] = 1.0
    return rows


def write_raw(
    root: Path,
    trajectory: str = "traj0",
    *,
    date: str = "2022-01-02_03-04-05",
    cameras: Mapping[int, npt.NDArray[np.uint8]] | None = None,
    obs: object = ...,
    policy: object = ...,
    text: str | bytes | None = "put the carrot on the plate\n",
) -> Path:
    """Write a trajectory and return its folder; what is None isn't written."""
    folder = root / TASK / date / "raw" / "traj_group0" / trajectory
    folder.mkdir(parents=True)
    for camera, frames in (cameras or {0: numbered_frames(FRAMES)}).items():
        images = folder / f"images{camera}"
        images.mkdir()
        for number, frame in enumerate(frames):
            (images / f"im_{number}.jpg").write_bytes(jpeg(frame))
    if obs is ...:
        obs = {"full_state": states(), "time_stamp": [0.0] * FRAMES, "env_done": [False] * FRAMES}
    if policy is ...:
        policy = [{"actions": row, "policy_type": "VRTeleopPolicy"} for row in actions()]
    for name, content in (("obs_dict.pkl", obs), ("policy_out.pkl", policy)):
        if content is not None:
            written = content if isinstance(content, bytes) else pickle.dumps(content, 4)
            (folder / name).write_bytes(written)
    if text is not None:
        encoded = text if isinstance(text, bytes) else text.encode()
        (folder / "lang.txt").write_bytes(encoded)
    return folder


def numpy_trajectory(frames: npt.NDArray[np.uint8] | None = None, **changes: Any) -> dict[str, Any]:
    """Make a trajectory as Bridge's converter does; a change to None leaves the field out."""
    frames = numbered_frames(FRAMES) if frames is None else frames
    steps = [
        {"images0": frame, "state": state, "time_stamp": 0.0}
        for frame, state in zip(frames, states(len(frames)), strict=True)
    ]
    content = {
        "observations": steps[:-1],
        "next_observations": steps[1:],
        "actions": list(actions(len(frames) - 1)),
        "terminals": [0] * (len(frames) - 1),
        "language": ["put the carrot on the plate"],
    } | changes
    return {key: value for key, value in content.items() if value is not None}


def write_numpy(root: Path, trajectories: list[Any], split: str = "train") -> Path:
    """Write trajectories to a file as numpy does."""
    file = root / TASK / split / "out.npy"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as opened:
        np.save(opened, np.array([*trajectories, None], object)[:-1])
    return file
