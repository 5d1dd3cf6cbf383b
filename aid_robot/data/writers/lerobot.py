"""Export episodes as a LeRobot v3 data set."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from aid_robot.data.episode import Episode
from aid_robot.data.ingest.lerobot_files import BOOKKEEPING, INFO
from aid_robot.data.ingest.lerobot_sidecar import SIDECARS, Sidecar
from aid_robot.data.writers.encoder import choose_codec
from aid_robot.data.writers.folder import new_folder, safe_name
from aid_robot.data.writers.lerobot_files import (
    CHUNK_FILES,
    DATA_MIB,
    DATA_PATH,
    VIDEO_MIB,
    VIDEO_PATH,
    CameraFiles,
    Column,
    TableFiles,
    whole,
    write_episodes,
    write_tasks,
)
from aid_robot.data.writers.stats import Stats, merge, row_stats, to_lists
from aid_robot.errors import DataFormatError, FrameRateError

_POSE = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
# What LeRobot can hold: arrays of up to five axes a frame.
_MAX_AXES = 5
_ROWS = "rows.jsonl"


def write_lerobot(
    episodes: Iterable[Episode],
    folder: str | Path,
    *,
    fps: float | None = None,
    crf: int | None = None,
    codec: str = "h264",
    progress: bool = True,
) -> Path:
    """Write episodes, such as a store, as a LeRobot v3 data set; return its folder.

    `folder` is there whole or not at all. Episodes are read one at a time. `fps` is for those that
    don't know their rate; LeRobot has one for all. `codec` is h264 or av1, `crf` its quality from
    0 (best), by default one that looks lossless. An episode that lacks what others have gets black
    frames and NaN for LeRobot; read here, it lacks them again.
    """
    folder = Path(folder)
    with new_folder(folder) as unfinished, _DataSet(unfinished, fps, codec, crf) as data_set:
        for episode in tqdm(episodes, "writing", unit=" episodes", disable=not progress):
            data_set.add(episode)
        data_set.finish()
    return folder


class _DataSet:
    """A data set that is being written."""

    def __init__(self, root: Path, fps: float | None, codec: str, crf: int | None) -> None:
        self._codec, self._crf = choose_codec(codec, crf)
        self._root, self._given_fps = root, fps
        self._fps: float | None = None
        self._ids: set[str] = set()
        self._frames = 0
        self._tasks: dict[str, int] = {}
        # (kind, name in the episodes) -> LeRobot's key, which no two share.
        self._keys: dict[tuple[str, str], str] = {}
        self._columns: dict[str, Column] = {}
        self._cameras: dict[str, CameraFiles] = {}
        # Of each episode, for cameras that turn up later.
        self._lengths: list[int] = []
        # Key of a camera -> where the black frames of the episodes before its first are.
        self._before: dict[str, list[dict[str, Any]]] = {}
        self._stats: dict[str, Stats] = {}
        (root / "meta").mkdir()
        self._data = TableFiles(root, DATA_PATH)
        self._sidecars = (root / SIDECARS).open("w", encoding="utf-8")
        # Rows of the episodes' table wait here, since later episodes may bring more columns.
        self._rows = (root / _ROWS).open("w+", encoding="utf-8")

    def __enter__(self) -> _DataSet:
        return self

    def __exit__(self, *_: object) -> None:
        files: list[Any] = [self._sidecars, self._rows, self._data, *self._cameras.values()]
        with ExitStack() as stack:
            for file in files:
                stack.callback(file.close)

    def add(self, episode: Episode) -> None:
        """Append an episode."""
        where, length = f"episode '{episode.id}' ({episode.source})", len(episode)
        if not length or episode.id in self._ids:
            raise DataFormatError(
                f"{where} has {length} frames and comes {'again' if length else 'alone'}; expected "
                "at least one frame, and an id that no other episode has: leave it out"
            )
        self._fps = _common_rate(self._fps, self._given_fps, episode)
        index, start = len(self._ids), self._frames
        instructions = list(episode.instructions) or [episode.instruction or ""]
        # Parquet is UTF-8, which not every text that Python holds can be.
        task = instructions[0].encode("utf-8", "replace").decode("utf-8")
        number = self._tasks.setdefault(task, len(self._tasks))
        cameras = {name: self._key("camera", name) for name in episode.videos}
        row: dict[str, Any] = {"episode_index": index, "tasks": [task], "length": length}
        row |= self._add_videos(episode, cameras, where)
        columns, arrays, poses = self._own_columns(episode, where)
        columns |= {
            "timestamp": (np.arange(length) / self._fps).astype(np.float32),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, index),
            "index": np.arange(start, start + length),
            "task_index": np.full(length, number),
        }
        row |= self._add_rows(columns, length)
        row |= {"dataset_from_index": start, "dataset_to_index": start + length}
        sidecar = Sidecar(
            episode_index=index,
            frames=length,
            id=episode.id,
            instructions=[text for text in instructions if text],
            outcome=episode.outcome,
            fps=episode.fps,
            source=episode.source,
            scene=episode.scene,
            notes=list(episode.notes),
            info=dict(episode.info),
            cameras=cameras,
            arrays=arrays,
            columns=[name for name, rows in episode.arrays.items() if rows.shape[1:] == (1,)],
            actions=poses.get("actions"),
            state=poses.get("state"),
        )
        print(sidecar.to_json(), file=self._sidecars)
        print(json.dumps(row), file=self._rows)
        self._ids.add(episode.id)
        self._lengths.append(length)
        self._frames += length

    def finish(self) -> None:
        """Write what describes the whole."""
        if self._fps is None:
            raise DataFormatError("no episodes were given to write; expected at least one")
        self._data.close()
        columns = [self._columns[key] for key in self._ordered(self._columns)]
        self._data.complete(columns)
        write_episodes(self._root, self._complete_rows(), columns, list(self._cameras))
        for camera in self._cameras.values():
            camera.close()
        write_tasks(self._root, self._tasks)
        features = {key: camera.describe() for key, camera in self._cameras.items()}
        features |= {column.key: column.describe() for column in columns}
        info = {
            "codebase_version": "v3.0",
            "robot_type": None,
            "total_episodes": len(self._ids),
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNK_FILES,
            "data_files_size_in_mb": DATA_MIB,
            "video_files_size_in_mb": VIDEO_MIB,
            "fps": whole(self._fps),
            "splits": {"train": f"0:{len(self._ids)}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH,
            "features": features,
        }
        stats = {key: to_lists(self._stats[key]) for key in features if key in self._stats}
        for name, content in ((INFO, info), ("meta/stats.json", stats)):
            text = json.dumps(content, indent=4, ensure_ascii=False)
            (self._root / name).write_text(text, encoding="utf-8")
        self._rows.close()
        (self._root / _ROWS).unlink()

    def _key(self, kind: str, name: str) -> str:
        """Give LeRobot's key for a camera, an array, or actions and state."""
        if (kind, name) not in self._keys:
            taken = {*BOOKKEEPING, "task", *self._keys.values()}
            wish = f"observation.images.{name}" if kind == "camera" else name
            self._keys[kind, name] = safe_name(wish, taken)
        return self._keys[kind, name]

    def _add_videos(self, episode: Episode, cameras: dict[str, str], where: str) -> dict[str, Any]:
        """Append an episode's frames; return where they lie and what they are like."""
        assert self._fps is not None
        row: dict[str, Any] = {}
        for name, frames in episode.videos.items():
            key = cameras[name]
            if key not in self._cameras:
                camera = self._cameras[key] = CameraFiles(
                    self._root, key, frames.size, self._fps, self._codec, self._crf
                )
                # First, since LeRobot's tools rely on the episodes' order in the files.
                self._before[key] = [camera.add_blank(length) for length in self._lengths]
            camera = self._cameras[key]
            if frames.size != camera.size:
                sizes = [f"{width}x{height}" for height, width in (frames.size, camera.size)]
                raise DataFormatError(
                    f"{where} has frames of {sizes[0]} from camera {name}, others have {sizes[1]}; "
                    "LeRobot has one size a camera: bring them to one size first, as "
                    "`aid-robot ingest --size` does"
                )
            place, stats = camera.add(frames, len(episode), f"camera {name} of {where}")
            row |= place | self._note_stats(key, stats)
        for key, camera in self._cameras.items():
            if key not in cameras.values():
                row |= camera.add_blank(len(episode))
        return row

    def _own_columns(
        self, episode: Episode, where: str
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str], dict[str, str]]:
        """Collect an episode's numbers by LeRobot's keys, and the keys of its arrays and poses."""
        columns: dict[str, npt.NDArray[Any]] = {}
        poses: dict[str, str] = {}
        for kind, wish, rows in (
            ("actions", "action", episode.actions),
            ("state", "observation.state", episode.state),
        ):
            if rows is not None:
                poses[kind] = self._key(kind, wish)
                columns[poses[kind]] = rows
                self._expect(Column(poses[kind], rows.dtype, (7,), _POSE), where)
        arrays = {name: self._key("array", name) for name in episode.arrays}
        for name, key in arrays.items():
            rows = episode.arrays[name]
            if rows.dtype.kind not in "fiub" or rows.ndim - 1 > _MAX_AXES or 0 in rows.shape:
                raise DataFormatError(
                    f"{where} has the array '{name}' of shape {rows.shape} and type {rows.dtype}; "
                    f"LeRobot holds numbers of up to {_MAX_AXES} axes a frame: leave it out"
                )
            columns[key] = rows
            shape = () if rows.shape[1:] == (1,) else rows.shape[1:]
            self._expect(Column(key, rows.dtype.newbyteorder("="), shape), where)
        return columns, arrays, poses

    def _expect(self, column: Column, where: str) -> None:
        known = self._columns.setdefault(column.key, column)
        if (known.dtype, known.shape) != (column.dtype, column.shape):
            raise DataFormatError(
                f"{where} has '{column.key}' of shape {column.shape} and type {column.dtype}, "
                f"others {known.shape} and {known.dtype}; LeRobot has one a column: convert them, "
                "or export them apart"
            )

    def _add_rows(self, columns: dict[str, npt.NDArray[Any]], length: int) -> dict[str, Any]:
        """Append an episode's numbers; return where they lie and what they are like."""
        for key in BOOKKEEPING:
            self._columns.setdefault(key, Column(key, columns[key].dtype, ()))
        row: dict[str, Any] = {}
        table = {}
        for key in self._ordered(self._columns):
            column = self._columns[key]
            if key in columns:
                row |= self._note_stats(key, row_stats(columns[key]))
            table[key] = column.to_arrow(columns.get(key, column.blank(length)))
        arrow = pa.table(table)
        self._data.make_room(arrow.schema)
        place = {f"data/{name}": value for name, value in vars(self._data.place).items()}
        self._data.add(arrow)
        return row | place

    def _note_stats(self, key: str, stats: Stats) -> dict[str, Any]:
        self._stats[key] = merge(self._stats.get(key), stats)
        return _named_stats(key, stats)

    def _ordered(self, columns: Iterable[str]) -> list[str]:
        """LeRobot puts its own columns behind."""
        return [key for key in columns if key not in BOOKKEEPING] + list(BOOKKEEPING)

    def _complete_rows(self) -> Iterator[dict[str, Any]]:
        """Read the episodes' rows again, and fill in what their episodes lack.

        Statistics are the whole set's, counted 0 times: LeRobot asks for some, and these change
        nothing where it puts them together.
        """
        nothing = np.array([0])
        wholes = {key: {**stats, "count": nothing} for key, stats in self._stats.items()}
        blanks = {key: _named_stats(key, stats) for key, stats in wholes.items()}
        self._rows.seek(0)
        for line in self._rows:
            row = json.loads(line)
            for places in self._before.values():
                if row["episode_index"] < len(places):
                    row |= places[row["episode_index"]]
            for key, blank in blanks.items():
                if f"stats/{key}/count" not in row:
                    row |= blank
            yield row


def _named_stats(key: str, stats: Stats) -> dict[str, Any]:
    """Name statistics as the columns of the episodes' table."""
    return {f"stats/{key}/{name}": values for name, values in to_lists(stats).items()}


def _common_rate(known: float | None, given: float | None, episode: Episode) -> float:
    """Give the rate of the episodes so far and of one more.

    `given` is the user's for episodes that don't know theirs. Raises FrameRateError where there is
    none, or another.
    """
    if given is not None and not (math.isfinite(given) and given > 0):
        raise FrameRateError(f"fps is {given}; expected a positive number of frames a second")
    rate = episode.fps or given
    where = f"episode '{episode.id}' ({episode.source})"
    if rate is None:
        raise FrameRateError(
            f"{where} doesn't know at how many frames a second it was recorded; say so by fps="
        )
    expected = known or given or rate
    if not math.isclose(rate, expected, rel_tol=1e-6):
        raise FrameRateError(
            f"{where} was recorded at {rate:g} frames a second, not at {expected:g} as was said or "
            "as the episodes before; LeRobot has one rate for all: export them apart"
        )
    return expected
