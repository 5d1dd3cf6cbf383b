"""The layout of IRASim, also used by Cosmos and Video Prediction Policy.

    annotation/<split>/<id>.json
    videos/<split>/<id>/rgb.mp4

An annotation names its videos and holds texts, actions (T - 1, 7), state (T, 7) and
`continuous_gripper_state` (T,), which alone has 1 = closed: it replaces the binary gripper in the
state as 1 - value, so that here as everywhere 1 = open. Actions are the differences of the state
seen from the gripper: R(state[t])^T (x[t+1] - x[t]), and likewise for rotations. Bridge's own
actions are commands in the base frame; the two are not interchangeable, and a note says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aid_robot.data.episode import Episode, FloatArray
from aid_robot.data.frames import VideoFrames
from aid_robot.data.ingest.recording import (
    BRIDGE_FPS,
    Format,
    Recording,
    bridge_rate,
    distinct_texts,
    fit_rows,
    inside,
    natural_key,
    read_json,
)
from aid_robot.errors import DataFormatError


class IRASimRecording(Recording):
    """Annotations in JSON, each beside the videos that it names."""

    format = "irasim"

    def __init__(self, path: Path, fps: float | None = None) -> None:
        super().__init__(path, fps)
        self._root = path / "annotation"
        self._files = sorted(self._root.rglob("*.json"), key=natural_key)
        if not self._files:
            raise DataFormatError(
                f"{self._root} holds no annotations; expected annotation/<split>/<id>.json"
            )

    def __len__(self) -> int:
        return len(self._files)

    def _list_ids(self) -> Sequence[str]:
        return [file.relative_to(self._root).with_suffix("").as_posix() for file in self._files]

    def _read(self, index: int) -> Episode:
        file = self._files[index]
        content = read_json(file)
        videos = _videos(self.path, content, file)
        first = next(iter(videos.values()))
        notes = bridge_rate(first)
        actions, seen = _actions(content, len(first), file)
        notes += seen
        state, seen = _state(content, len(first), file)
        notes += seen
        instructions = distinct_texts(_texts(content, file))
        if not instructions:
            notes.append("no instruction, or only blanks")
        return Episode(
            id=self.ids[index],
            videos=videos,
            actions=actions,
            state=state,
            instruction=instructions[0] if instructions else None,
            instructions=instructions,
            outcome="demo",
            fps=BRIDGE_FPS,
            source=str(file),
            notes=tuple(notes),
        )


def _videos(root: Path, content: dict[str, Any], file: Path) -> dict[str, VideoFrames]:
    entries = content.get("videos")
    if not isinstance(entries, list) or not entries:
        raise DataFormatError(
            f"{file} names no videos; expected 'videos': [{{'video_path': 'videos/...'}}]"
        )
    paths = [entry.get("video_path") if isinstance(entry, dict) else entry for entry in entries]
    return {
        f"image_{camera}": VideoFrames(inside(root, path, str(file)))
        for camera, path in enumerate(paths)
    }


def _texts(content: dict[str, Any], file: Path) -> list[str]:
    texts = content.get("texts") or []
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataFormatError(f"{file} has texts {texts!r}; expected a list of instructions")
    return texts


def _actions(
    content: dict[str, Any], frames: int, file: Path
) -> tuple[FloatArray | None, list[str]]:
    if content.get("action") is None:
        return None, ["no actions"]
    rows = _numbers(content["action"], 2, "action", file)
    fitted, notes = fit_rows(rows, frames, "actions", str(file), still=True)
    return fitted, [*notes, "actions are in the gripper's frame, not the robot base's"]


def _state(content: dict[str, Any], frames: int, file: Path) -> tuple[FloatArray | None, list[str]]:
    if content.get("state") is None:
        return None, ["no state"]
    rows = _numbers(content["state"], 2, "state", file)
    if content.get("continuous_gripper_state") is not None and rows.shape[1] in (6, 7):
        closed = _numbers(content["continuous_gripper_state"], 1, "continuous_gripper_state", file)
        if len(closed) != len(rows):
            raise DataFormatError(
                f"{file} has {len(closed)} of continuous_gripper_state for {len(rows)} of state; "
                "expected as many: export the episode again"
            )
        # Calibration lets a gripper pass its ends by a little; another unit passes them by far.
        if len(closed) and (closed.min() < -0.1 or closed.max() > 1.1):
            raise DataFormatError(
                f"{file} has continuous_gripper_state from {closed.min():g} to {closed.max():g}; "
                "expected 0 (open) to 1 (closed): rescale it"
            )
        rows = np.concatenate([rows[:, :6], 1 - closed[:, None]], axis=1)
    return fit_rows(rows, frames, "states", str(file), still=False)


def _numbers(value: object, dimensions: int, name: str, file: Path) -> FloatArray:
    try:
        numbers = np.asarray(value, dtype=np.float32)
    except (ValueError, TypeError, OverflowError):
        numbers = None
    if numbers is None or numbers.ndim != dimensions:
        shape = "one number" if dimensions == 1 else "one list of equally many numbers"
        raise DataFormatError(f"{file} has a malformed '{name}'; expected {shape} a frame")
    return numbers


def _matches(path: Path) -> bool:
    return (path / "annotation").is_dir()


FORMAT = Format(
    layout="a folder with annotation/<split>/<id>.json and videos/",
    matches=_matches,
    open=IRASimRecording,
)
