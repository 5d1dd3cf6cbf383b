"""LeRobot data sets of the versions 2.0, 2.1 and 3.0 in a local folder.

Cameras are the features of type image and video, without the `observation.images.` in front; depth
maps are left out. `action` and `observation.state` become the episode's actions and state where
they have Bridge's seven values, by name or, where the names say nothing, by number. What has other
values keeps its LeRobot name in `Episode.arrays`, as every further column of numbers does.

A data set that this package wrote has a file more, meta/aid_robot.jsonl, with what LeRobot has no
place for; its episodes come back whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from aid_robot.data.episode import Episode, FloatArray, FrameSequence
from aid_robot.data.frames import EncodedFrames, FrameWindow, VideoFrames
from aid_robot.data.ingest.lerobot_files import (
    BOOKKEEPING,
    INFO,
    Entry,
    Feature,
    Info,
    OwnFiles,
    SharedFiles,
    VideoSpan,
    read_info,
    read_tasks,
)
from aid_robot.data.ingest.lerobot_parquet import FrameTable, is_text, to_numpy, to_texts, to_whole
from aid_robot.data.ingest.lerobot_sidecar import read_sidecars
from aid_robot.data.ingest.recording import Format, Recording, distinct_texts, fit_rows, inside
from aid_robot.errors import DataFormatError

_POSE = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
# How far from a whole frame a time may be: rounding errors add up over the episodes of a file.
_FRAME_TOLERANCE = 0.25


class LeRobotRecording(Recording):
    """Episodes of a LeRobot data set; files that many episodes share are opened once."""

    format = "lerobot"

    def __init__(self, path: Path, fps: float | None = None) -> None:
        super().__init__(path, fps)
        self._info = read_info(path)
        self._tasks = read_tasks(path, self._info)
        self._episodes = (SharedFiles if self._info.is_v3 else OwnFiles)(path, self._info)
        self._sidecars = read_sidecars(path)
        if self._info.total_episodes > len(self):
            missing = self._info.total_episodes - len(self)
            self.notes = (f"{missing} of the episodes that {INFO} counts are not described",)
        self._open_table = lru_cache(maxsize=4)(FrameTable)
        self._open_video = lru_cache(maxsize=16)(VideoFrames)

    def __reduce__(self) -> tuple[type[LeRobotRecording], tuple[Path, float | None]]:
        # Open files can't be sent to another process.
        return type(self), (self.path, self._fps)

    def __len__(self) -> int:
        return len(self._episodes)

    def _list_ids(self) -> Sequence[str]:
        return [
            sidecar.id if (sidecar := self._sidecars.get(index)) else f"episode_{index:06d}"
            for index in self._episodes.indices
        ]

    def _read(self, index: int) -> Episode:
        entry = self._episodes.entry(index)
        where = f"{entry.data} episode {entry.index}"
        table = self._rows(entry, where)
        videos, notes = self._videos(entry, table, where)
        columns = {
            feature.key: _column(table, feature, where)
            for feature in self._info.features
            if feature.key in table.column_names
            and feature.key not in BOOKKEEPING
            and not feature.is_camera
            and not is_text(table.schema.field(feature.key).type)
        }
        if sidecar := self._sidecars.get(entry.index):
            return sidecar.restore(videos, columns, where)
        arrays = dict(columns)
        by_key = {feature.key: feature for feature in self._info.features}
        actions, seen = _pose(arrays, by_key.get("action"), "actions", self._info, where)
        notes += seen
        state, seen = _pose(arrays, by_key.get("observation.state"), "states", self._info, where)
        notes += seen
        instructions, seen = self._instructions(entry, table, where)
        notes += seen
        success = arrays.get("next.success")
        return Episode(
            id=self.ids[index],
            videos={_camera(key, videos): frames for key, frames in videos.items()},
            actions=actions,
            state=state,
            instruction=instructions[0] if instructions else None,
            instructions=instructions,
            # That it is never set may also mean that nobody set it.
            outcome="success" if success is not None and success.any() else None,
            fps=self._info.fps,
            source=where,
            notes=tuple(notes),
            arrays=arrays,
            info=self._facts(entry),
        )

    def _rows(self, entry: Entry, where: str) -> pa.Table:
        frames = self._open_table(entry.data)
        wanted = [f.key for f in self._info.features if f.dtype != "video"]
        rows = frames.rows(entry.index, wanted)
        if len(rows) != entry.length:
            raise DataFormatError(
                f"{where} has {len(rows)} rows, but meta/ says {entry.length}; expected a row a "
                "frame: export the data set again"
            )
        return rows

    def _videos(
        self, entry: Entry, table: pa.Table, where: str
    ) -> tuple[dict[str, FrameSequence], list[str]]:
        """Find the cameras by key, and say which are left out."""
        videos: dict[str, FrameSequence] = {}
        notes = []
        for feature in self._info.features:
            if not feature.is_camera:
                continue
            if feature.is_depth or "depth" in feature.key:
                notes.append(f"{feature.key} holds depth and was left out")
            elif feature.dtype == "image":
                name = f"{feature.key} of {where}"
                images = _Images(self.path, table[feature.key], name)
                videos[feature.key] = EncodedFrames(images, name)
            else:
                videos[feature.key] = self._window(entry, entry.videos[feature.key])
        return videos, notes

    def _window(self, entry: Entry, span: VideoSpan) -> FrameSequence:
        """Find an episode's frames in a video file."""
        frames, fps, length = self._open_video(span.path), self._info.fps, entry.length
        where = f"episode {entry.index} of {self.path}"
        if span.times is None:
            if len(frames) != length:
                raise DataFormatError(
                    f"{span.path} has {len(frames)} frames, but {where} has {length} rows; "
                    "expected a row a frame: export the data set again"
                )
            return frames
        first, last = (time * fps for time in span.times)
        # Not a number fails these comparisons too.
        if not (
            0 <= round(first, 2) <= 2**40
            and abs(first - round(first)) <= _FRAME_TOLERANCE
            and abs(last - first - length) <= 2 * _FRAME_TOLERANCE
        ):
            raise DataFormatError(
                f"{where} lies from {span.times[0]} s to {span.times[1]} s of {span.path}, which "
                f"at {fps:g} frames a second is not {length} frames; expected a row a frame: "
                "export the data set again"
            )
        start = round(first)
        if start + length > len(frames):
            raise DataFormatError(
                f"{where} is frames {start} to {start + length} of {span.path}, which has "
                f"{len(frames)}; copy the video again from its source"
            )
        rate = frames.rate
        if rate and abs(rate - fps) > 0.01 * fps and len(frames) > length:
            raise DataFormatError(
                f"{span.path} plays at {rate:g} frames a second, but {INFO} says {fps:g}, so its "
                "episodes can't be told apart: export the data set again"
            )
        return FrameWindow(frames, start, start + length)

    def _instructions(
        self, entry: Entry, table: pa.Table, where: str
    ) -> tuple[tuple[str, ...], list[str]]:
        """Collect what the robot was told, in the order of the frames."""
        notes, texts = [], []
        if "task_index" in table.column_names:
            numbers = to_whole(table["task_index"], f"'task_index' of {where}")
            changes = np.flatnonzero(np.diff(numbers)) + 1
            for number in numbers[np.append(0, changes)].tolist():
                if number not in self._tasks:
                    raise DataFormatError(
                        f"{where} has the task {number}, but there are {len(self._tasks)}: copy "
                        "meta/ again from its source"
                    )
                texts.append(self._tasks[number])
            if len(changes):
                notes.append(f"the task changes at frame {', '.join(map(str, changes[:20]))}")
        for feature in self._info.features:
            if feature.key not in table.column_names or feature.is_camera:
                continue
            if not is_text(table.schema.field(feature.key).type):
                continue
            if "instruction" in feature.key or "language" in feature.key:
                texts += to_texts(table[feature.key], where)
            else:
                notes.append(f"the texts of {feature.key} were left out")
        instructions = distinct_texts([*texts, *entry.tasks])
        if not instructions:
            notes.append("no instruction, or only blanks")
        return instructions, notes

    def _facts(self, entry: Entry) -> dict[str, Any]:
        facts = {} if self._info.robot_type is None else {"robot_type": self._info.robot_type}
        if len(self._info.splits) > 1:
            for name, (first, last) in self._info.splits.items():
                if first <= entry.index < last:
                    facts["split"] = name
        return facts


def _column(table: pa.Table, feature: Feature, where: str) -> npt.NDArray[Any]:
    rows = to_numpy(table[feature.key], f"'{feature.key}' of {where}")
    # A single number is written as such, not as a list of one.
    if rows.shape[1:] != feature.shape and (rows.shape[1:], feature.shape) != ((), (1,)):
        raise DataFormatError(
            f"{where} has '{feature.key}' of shape {rows.shape[1:]} a frame, but {INFO} says "
            f"{feature.shape}: copy both again from their source"
        )
    return rows


def _pose(
    arrays: dict[str, npt.NDArray[Any]],
    feature: Feature | None,
    name: str,
    info: Info,
    where: str,
) -> tuple[FloatArray | None, list[str]]:
    """Take actions or states out of `arrays` if they are Bridge's seven values, or say why not."""
    if feature is None or feature.key not in arrays:
        return None, [f"no {name}"]
    rows = arrays[feature.key]
    names = [text.lower() for text in feature.names]
    # Numbered names say as little as none.
    telling = any(not re.fullmatch(r"(motor|dim|axis|action|state)?s?_?[0-9]*", n) for n in names)
    named = len(names) == rows.shape[-1] and all(names.count(part) == 1 for part in _POSE)
    if telling and not (named and set(names) <= {*_POSE, "pad"}):
        return None, [f"{name} are {', '.join(names)}: kept as the array '{feature.key}'"]
    if rows.ndim != 2 or not (named or rows.shape[1] == 7):
        shape = "x".join(map(str, rows.shape[1:])) or "1"
        return None, [f"{name} have {shape} values, not 7: kept as the array '{feature.key}'"]
    if named:
        rows = rows[:, [names.index(part) for part in _POSE]]
    fitted, notes = fit_rows(
        rows.astype(np.float32), len(rows), name, where, still=name == "actions"
    )
    del arrays[feature.key]
    if not (named and "widowx" in (info.robot_type or "").lower()):
        notes.append(f"whether {name} follow Bridge's conventions is not known")
    return fitted, notes


class _Images(Sequence[bytes]):
    """Encoded images in a table, each {'bytes', 'path'}, taken out when they are asked for."""

    def __init__(self, root: Path, column: pa.ChunkedArray, name: str) -> None:
        if not pa.types.is_struct(column.type) or "bytes" not in column.type.names:
            raise DataFormatError(f"{name} holds {column.type}; expected images as bytes")
        self._bytes = pc.struct_field(column, "bytes")
        # Those that lie in files of their own.
        self._files: dict[int, Path] = {}
        for number in np.flatnonzero(pc.is_null(self._bytes).to_numpy()).tolist():
            image = column[number].as_py() or {}
            where = f"frame {number} of {name}"
            self._files[number] = inside(root, image.get("path"), where)
            if not self._files[number].is_file():
                raise DataFormatError(f"{where} is in {image['path']}, which is not there")

    def __len__(self) -> int:
        return len(self._bytes)

    @overload
    def __getitem__(self, key: int) -> bytes: ...
    @overload
    def __getitem__(self, key: slice) -> list[bytes]: ...
    def __getitem__(self, key: int | slice) -> bytes | list[bytes]:
        if isinstance(key, slice):
            return [self[number] for number in range(len(self))[key]]
        if key in self._files:
            return self._files[key].read_bytes()
        image: bytes = self._bytes[key].as_py()
        return image


def _camera(key: str, keys: Mapping[str, FrameSequence]) -> str:
    """Shorten a camera's key, unless another camera then has the same name."""
    short = {other: re.sub(r"^observation\.(images?\.)?", "", other) for other in keys}
    return short[key] if list(short.values()).count(short[key]) == 1 else key


def _matches(path: Path) -> bool:
    return (path / INFO).is_file() and (path / "data").is_dir()


FORMAT = Format(
    layout="a LeRobot data set (v2 or v3) with meta/info.json and data/",
    matches=_matches,
    open=LeRobotRecording,
)
