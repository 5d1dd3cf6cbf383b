"""Raw BridgeData, as the robots record it.

    <collection>/<environment>/<task>/<number>/<date>/raw/traj_group<g>/traj<t>/
        images<c>/im_<n>.jpg    obs_dict.pkl    policy_out.pkl    lang.txt

Any of these folders can be opened. `obs_dict["full_state"]` has a row a frame, `policy_out` one
less: `policy_out[t]["actions"]` leads from frame t to t + 1. Both have the gripper with 1 = open.
In data recorded before 2021-07-23 images lag by a step, so the first frame and state and the last
action are left out, as Bridge's own converters do. Depth cameras (`depth_images<c>`) are not read.
Static lead-in frames are kept, with a note: the robot is at rest in them, which is a fact about it;
`traps.trim_static` cuts them off for a model that needn't know.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import overload

from aid_robot.data.episode import Episode, FloatArray, FrameSequence, Outcome
from aid_robot.data.frames import EncodedFrames
from aid_robot.data.ingest.bridge_layout import (
    LATENCY_FIXED,
    MAX_STEPS,
    date_in,
    gripper_notes,
    number_rows,
    scene_of,
    split_instructions,
    walk,
)
from aid_robot.data.ingest.recording import (
    BRIDGE_FPS,
    Format,
    Recording,
    fit_rows,
    natural_key,
    read_json,
)
from aid_robot.data.ingest.traps import is_black, lead_in_notes, static_lead_in
from aid_robot.data.pickles import read_pickle
from aid_robot.errors import DataFormatError, TruncatedFileError

_METADATA = "collection_metadata.json"
_TRAJECTORY = re.compile(r"traj\d+")
_CAMERA = re.compile(r"images(\d{1,2})")
_IMAGE = re.compile(r"im_(\d{1,9})\.(?:jpg|jpeg|png)")
# Above any camera's JPEG or PNG, and what annotators write.
_MAX_IMAGE_BYTES, _MAX_TEXT_BYTES = 2**26, 2**16


class BridgeRawRecording(Recording):
    """Folders of images, each with its pickles and texts."""

    format = "bridge_raw"

    def __init__(self, path: Path, fps: float | None = None) -> None:
        super().__init__(path, fps)
        found = [path] if _is_trajectory(path) else list(walk(path, _is_trajectory))
        self._folders = sorted(found, key=natural_key)
        if not self._folders:
            raise DataFormatError(
                f"{path} holds no raw BridgeData; expected folders raw/traj_group<g>/traj<t>"
            )

    def __len__(self) -> int:
        return len(self._folders)

    def _list_ids(self) -> Sequence[str]:
        # A trajectory that is opened by itself keeps its name.
        root = self.path.parent if _is_trajectory(self.path) else self.path
        return [folder.relative_to(root).as_posix() for folder in self._folders]

    def _read(self, index: int) -> Episode:
        folder = self._folders[index]
        day, notes = _recorded_on(folder)
        lag = int(day is not None and day < LATENCY_FIXED)
        robot = _robot(folder)
        videos, seen = _cameras(folder, robot.frames, lag)
        notes += [*robot.notes, *seen]
        frames = next(iter(videos.values()))
        actions = state = None
        if robot.actions is not None:
            rows = robot.actions[: len(robot.actions) - lag]
            actions, seen = fit_rows(rows, len(frames), "actions", str(folder), still=True)
            notes += seen + gripper_notes(actions, "action")
        if robot.states is not None:
            rows = robot.states[lag:]
            state, seen = fit_rows(rows, len(frames), "states", str(folder), still=False)
            notes += seen + gripper_notes(state, "state")
        notes += lead_in_notes(static_lead_in(frames, state))
        instructions, seen = _instructions(folder / "lang.txt")
        return Episode(
            id=self.ids[index],
            videos=videos,
            actions=actions,
            state=state,
            instruction=instructions[0] if instructions else None,
            instructions=instructions,
            outcome=robot.outcome,
            fps=BRIDGE_FPS,
            source=str(folder),
            notes=(*notes, *seen),
            scene=scene_of(folder.absolute().parts[:-4]),
        )


@dataclass(frozen=True)
class _Robot:
    """What the robot sensed and was told."""

    states: FloatArray | None  # (T, 7)
    actions: FloatArray | None  # (T - 1, 7)
    # "demo" where a person told it.
    outcome: Outcome | None
    notes: tuple[str, ...]

    @property
    def frames(self) -> int | None:
        """How many frames there should be."""
        if self.states is not None:
            return len(self.states)
        return None if self.actions is None else len(self.actions) + 1


class _Files(Sequence[bytes]):
    """The contents of files, each read when it is asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, key: int) -> bytes: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[bytes]: ...
    def __getitem__(self, key: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(key, slice):
            return _Files(self._paths[key])
        return _read_file(self._paths[key], _MAX_IMAGE_BYTES)


def _robot(folder: Path) -> _Robot:
    states = actions = None
    outcome: Outcome | None = "demo"
    notes = []
    file = folder / "obs_dict.pkl"
    sensed = read_pickle(file) if file.is_file() else {}
    if isinstance(sensed, dict) and sensed.get("full_state") is not None:
        states = number_rows(sensed["full_state"], f"full_state of {file}")
    else:
        notes.append("no state")
    file = folder / "policy_out.pkl"
    if file.is_file():
        told = read_pickle(file)
        if not isinstance(told, list) or len(told) > MAX_STEPS:
            held = f"{len(told)} steps" if isinstance(told, list) else type(told).__name__
            raise DataFormatError(
                f"{file} holds {held}; expected a list of at most {MAX_STEPS} actions: copy it "
                "again from its source, or remove it"
            )
        steps = [step if isinstance(step, dict) else {"actions": step} for step in told]
        actions = number_rows([step.get("actions") for step in steps], f"actions of {file}")
        policy = str(steps[0].get("policy_type", "teleop"))
        if "teleop" not in policy.lower():
            outcome = None
            notes.append(f"driven by {policy[:80]}, not by a person")
    else:
        notes.append("no actions")
    return _Robot(states, actions, outcome, tuple(notes))


def _cameras(
    folder: Path, expected: int | None, lag: int
) -> tuple[dict[str, FrameSequence], list[str]]:
    """Find the cameras that saw something throughout, and say which did not."""
    images: dict[int, list[Path]] = {}
    notes = []
    for below in sorted(folder.iterdir(), key=natural_key):
        if named := _CAMERA.fullmatch(below.name):
            images[int(named[1])], seen = _images(below)
            notes += seen
    counts = [len(paths) for paths in images.values() if paths]
    length = expected if expected in counts else next(iter(counts), 0)
    videos: dict[str, FrameSequence] = {}
    for camera in range(max(images, default=-1) + 1):
        name, paths = f"image_{camera}", images.get(camera)
        if paths is None:
            notes.append(f"camera {name} is missing")
        elif not paths:
            notes.append(f"camera {name} has no whole sequence of frames and was left out")
        elif len(paths) != length:
            notes.append(
                f"camera {name} has {len(paths)} frames, not {length} as expected, and was left out"
            )
        elif len(paths) > lag:
            frames = EncodedFrames(_Files(paths[lag:]), f"camera {name} of {folder}")
            if is_black(frames):
                notes.append(f"camera {name} is black and was left out")
            else:
                videos[name] = frames
    if not videos:
        raise DataFormatError(
            f"{folder} has no camera with frames ({'; '.join(notes) or 'there are no folders'}); "
            "expected images0/im_0.jpg and so on: copy it again from its source, or remove it"
        )
    return videos, notes


def _images(folder: Path) -> tuple[list[Path], list[str]]:
    """Find a camera's files in the order of their numbers; none where a number is missing."""
    files = {
        int(image[1]): path
        for path in folder.iterdir()
        if (image := _IMAGE.fullmatch(path.name)) and path.is_file()
    }
    for number in range(len(files)):
        if number not in files:
            return [], [f"{folder.name} lacks im_{number} of {len(files)} and more images"]
    return [files[number] for number in range(len(files))], []


def _instructions(file: Path) -> tuple[tuple[str, ...], list[str]]:
    text, notes = "", []
    if file.is_file():
        encoded = _read_file(file, _MAX_TEXT_BYTES)
        text = encoded.decode("utf-8", errors="replace")
        if "\ufffd" in text:
            notes.append("lang.txt is not UTF-8: what could not be read is marked \ufffd")
    instructions = split_instructions(text.splitlines())
    if not instructions:
        notes.append("no instruction, or only blanks")
    return instructions, notes


def _recorded_on(folder: Path) -> tuple[date | None, list[str]]:
    """Find the day of a recording in the name of its folder, or in its metadata."""
    above = folder.absolute().parents[:3]
    days = [date_in(parent.name) for parent in above]
    if not any(days):
        metadata = [parent / _METADATA for parent in above if (parent / _METADATA).is_file()]
        fields = [field for file in metadata for field in read_json(file).items()]
        days = [date_in(value) for key, value in fields if "date" in key or "time" in key]
    day = next(filter(None, days), None)
    if day is None:
        return None, [
            f"recorded on an unknown day: if before {LATENCY_FIXED}, images lag actions by one step"
        ]
    if day < LATENCY_FIXED:
        return day, [
            f"latency shift: recorded on {day}, before {LATENCY_FIXED}, when images lagged by one "
            "step: the first frame and state and the last action were left out"
        ]
    return day, []


def _read_file(path: Path, limit: int) -> bytes:
    try:
        if path.stat().st_size > limit:
            raise DataFormatError(
                f"{path} has {path.stat().st_size} bytes; expected at most {limit}: the file is "
                "damaged, copy it again from its source"
            )
        return path.read_bytes()
    except OSError as error:
        raise TruncatedFileError(
            f"{path} can't be read ({error.strerror}): copy it again from its source"
        ) from error


def _is_trajectory(path: Path) -> bool:
    path = path.absolute()
    return bool(_TRAJECTORY.fullmatch(path.name)) and path.parent.name.startswith("traj_group")


def _matches(path: Path) -> bool:
    if not path.is_dir():
        return False
    return _is_trajectory(path) or next(walk(path, _is_trajectory), None) is not None


FORMAT = Format(
    layout="a folder of raw BridgeData, with raw/traj_group<g>/traj<t>/images0/",
    matches=_matches,
    open=BridgeRawRecording,
)
