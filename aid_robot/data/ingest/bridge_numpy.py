"""Bridge numpy: what Bridge's converter makes of raw data, `<task>/<number>/{train,val}/out.npy`.

A file is numpy's pickled list of dicts, one a trajectory:

    observations        T dicts {images0: (H, W, 3) uint8, images1, ..., state: (7,), time_stamp},
    next_observations   or one dict of such arrays with T rows; the same, one step later
    actions (T, 7)    terminals    language: list of texts, in some files

An episode has T + 1 frames, the last from `next_observations`. The converter has already squashed
the images, and left out the first frame where images lag. Files are opened one at a time, by an
unpickler that only builds data, and stay on disk: a frame is read when it is asked for.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from aid_robot.data.episode import Episode, FrameSequence, UInt8Array
from aid_robot.data.ingest.bridge_layout import (
    MAX_STEPS,
    gripper_notes,
    number_rows,
    scene_of,
    split_instructions,
    walk,
)
from aid_robot.data.ingest.npy import count_objects, read_objects
from aid_robot.data.ingest.recording import BRIDGE_FPS, Format, Recording, fit_rows, natural_key
from aid_robot.data.ingest.traps import is_black, lead_in_notes, static_lead_in
from aid_robot.errors import DataFormatError

NAME = "out.npy"
_CAMERA = re.compile(r"images?_?(\d{1,2})")


class BridgeNumpyRecording(Recording):
    """Trajectories in files of pickled dicts; ids are `<folder>/<place in its file>`."""

    format = "bridge_numpy"

    def __init__(self, path: Path, fps: float | None = None) -> None:
        super().__init__(path, fps)
        files = [path] if path.is_file() else sorted(walk(path, _is_output), key=natural_key)
        if not files:
            raise DataFormatError(f"{path} holds no Bridge numpy data; expected files {NAME}")
        self._files = files
        self._ends = list(accumulate(count_objects(file) for file in files))
        self._opened: tuple[int, Sequence[Any]] | None = None

    def __len__(self) -> int:
        return self._ends[-1]

    def _list_ids(self) -> Sequence[str]:
        root = self.path.parent if self.path.is_file() else self.path
        ids = []
        for place, file in enumerate(self._files):
            folder = file.parent.relative_to(root)
            ids += [(folder / str(number)).as_posix() for number in range(self._count(place))]
        return ids

    def _read(self, index: int) -> Episode:
        place = bisect_right(self._ends, index)
        file = self._files[place]
        number = index - (self._ends[place] - self._count(place))
        # One file only: each is a task with all its trajectories.
        if self._opened is None or self._opened[0] != place:
            self._opened = (place, read_objects(file))
        return _episode(self._opened[1][number], self.ids[index], file, number)

    def _count(self, place: int) -> int:
        return self._ends[place] - (self._ends[place - 1] if place else 0)


@dataclass
class _Images(FrameSequence):
    """Frames that are arrays, which lie in a mapped file."""

    images: Sequence[UInt8Array]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        return self.images[0].shape[0], self.images[0].shape[1]

    def read(self, index: int) -> UInt8Array:
        frame: UInt8Array = self.images[index].copy()
        return frame


def _episode(content: Any, name: str, file: Path, number: int) -> Episode:
    where = f"trajectory {number} of {file}"
    if not isinstance(content, dict):
        raise DataFormatError(
            f"{where} is a {type(content).__name__}; expected a dict with observations and actions"
        )
    observations = _steps(content, "observations", where)
    after = _steps(content, "next_observations", where) if "next_observations" in content else []
    if after and len(after) != len(observations):
        raise DataFormatError(
            f"{where} has {len(observations)} observations and {len(after)} next_observations; "
            "expected as many: convert the recording again"
        )
    videos, notes = _cameras([*observations, *after[-1:]], where)
    frames = next(iter(videos.values()))
    actions = state = None
    if content.get("actions") is None:
        notes.append("no actions")
    else:
        rows = number_rows(content["actions"], f"actions of {where}")
        actions, seen = fit_rows(rows, len(frames), "actions", where, still=True)
        notes += seen + gripper_notes(actions, "action")
    states = [step.get("state") for step in [*observations, *after[-1:]]]
    if any(row is None for row in states):
        notes.append("no state")
    else:
        rows = number_rows(states, f"states of {where}")
        state, seen = fit_rows(rows, len(frames), "states", where, still=False)
        notes += seen + gripper_notes(state, "state")
    notes += lead_in_notes(static_lead_in(frames, state))
    instructions = _instructions(content.get("language"), where)
    if not instructions:
        notes.append("no instruction, or only blanks")
    return Episode(
        id=name,
        videos=videos,
        actions=actions,
        state=state,
        instruction=instructions[0] if instructions else None,
        instructions=instructions,
        outcome="demo",
        fps=BRIDGE_FPS,
        source=where,
        notes=tuple(notes),
        scene=scene_of(file.absolute().parts[:-2]),
    )


def _steps(content: dict[Any, Any], key: str, where: str) -> list[dict[Any, Any]]:
    """Give a dict a step, of a list of dicts or of a dict of arrays over time."""
    steps = content.get(key)
    if isinstance(steps, np.ndarray) and steps.dtype.hasobject and steps.ndim == 1:
        steps = list(steps)
    if isinstance(steps, list) and len(steps) > MAX_STEPS:
        raise DataFormatError(
            f"{where} has {len(steps)} {key}; expected at most {MAX_STEPS}: split the trajectory"
        )
    if isinstance(steps, dict):
        columns = {
            name: rows
            for name, rows in steps.items()
            if (name == "state" or _CAMERA.fullmatch(str(name)))
            and (isinstance(rows, list) or (isinstance(rows, np.ndarray) and rows.ndim))
        }
        lengths = {len(rows) for rows in columns.values()}
        if len(lengths) == 1 and max(lengths) <= MAX_STEPS:
            steps = [
                dict(zip(columns, rows, strict=True))
                for rows in zip(*columns.values(), strict=True)
            ]
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise DataFormatError(
            f"{where} has {key} that are neither a list of dicts nor a dict of equally long "
            "arrays: convert the recording again"
        )
    return steps


def _cameras(steps: list[dict[Any, Any]], where: str) -> tuple[dict[str, FrameSequence], list[str]]:
    """Find the cameras that saw something, and say which did not."""
    keys = [str(key) for key in (steps[0] if steps else {})]
    cameras = {int(named[1]): key for key in keys if (named := _CAMERA.fullmatch(key))}
    videos: dict[str, FrameSequence] = {}
    notes = []
    for number, key in sorted(cameras.items()):
        camera = f"image_{number}"
        images = [image for step in steps if _is_image(image := step.get(key))]
        if len(images) < len(steps) or len({image.shape for image in images}) > 1:
            notes.append(f"camera {camera} has frames that are no images of one size: left out")
        elif is_black(frames := _Images(images)):
            notes.append(f"camera {camera} is black and was left out")
        else:
            videos[camera] = frames
    if not videos:
        raise DataFormatError(
            f"{where} has no camera with frames ({'; '.join(notes) or 'no images0'}); expected "
            "images0 of shape (H, W, 3) and type uint8 in every observation"
        )
    return videos, notes


def _is_image(image: object) -> TypeGuard[UInt8Array]:
    return (
        isinstance(image, np.ndarray)
        and image.dtype == np.uint8
        and image.ndim == 3
        and image.shape[2] == 3
        and image.size > 0
    )


def _instructions(said: object, where: str) -> tuple[str, ...]:
    lines = [said] if isinstance(said, str) else [] if said is None else said
    if not isinstance(lines, (list, tuple)) or not all(isinstance(line, str) for line in lines):
        raise DataFormatError(
            f"{where} has a language that is no list of texts; convert the recording again"
        )
    return split_instructions(list(lines))


def _is_output(path: Path) -> bool:
    return path.name == NAME


def _matches(path: Path) -> bool:
    if path.is_file():
        return path.suffix == ".npy"
    return next(walk(path, _is_output), None) is not None


FORMAT = Format(
    layout=f"a folder with Bridge numpy files, .../train/{NAME}, or one of them",
    matches=_matches,
    open=BridgeNumpyRecording,
)
