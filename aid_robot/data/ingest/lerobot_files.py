"""Where a LeRobot data set says that its frames and rows lie: info.json, tasks and episodes.

    v3                                        v2 (2.0 and 2.1)
    meta/info.json                            meta/info.json
    meta/tasks.parquet                        meta/tasks.jsonl
    meta/episodes/chunk-*/file-*.parquet      meta/episodes.jsonl
    data/chunk-000/file-000.parquet           data/chunk-000/episode_000000.parquet
    videos/<key>/chunk-000/file-000.mp4       videos/chunk-000/<key>/episode_000000.mp4

In v3 many episodes share a file, in v2 each has its own.
"""

from __future__ import annotations

import json
import math
import re
import string
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from aid_robot.data.ingest.lerobot_parquet import (
    ParquetTable,
    is_list,
    is_text,
    to_texts,
    to_whole,
)
from aid_robot.data.ingest.recording import inside, natural_key, read_json
from aid_robot.errors import DataFormatError

INFO = "meta/info.json"
# What no reader needs and every data set has.
BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
_SPAN = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")


@dataclass(frozen=True)
class Feature:
    """A column of the frames' table, or a camera."""

    key: str
    # NumPy's name of a number's type, "string", "image" (in the table) or "video" (in files).
    dtype: str
    shape: tuple[int, ...]
    # What the values are called; empty where nothing is said.
    names: tuple[str, ...]
    is_depth: bool

    @property
    def is_camera(self) -> bool:
        """Whether frames are kept under this key."""
        return self.dtype in ("image", "video")


@dataclass(frozen=True)
class Info:
    """What meta/info.json says."""

    path: Path
    version: str
    fps: float
    features: tuple[Feature, ...]
    data_path: str
    video_path: str
    chunks_size: int
    robot_type: str | None
    # Name -> first and last episode (exclusive).
    splits: Mapping[str, tuple[int, int]]
    total_episodes: int

    @property
    def is_v3(self) -> bool:
        """Whether many episodes share a file."""
        return self.version.startswith("v3.")


@dataclass(frozen=True)
class VideoSpan:
    """The part of a video file that is an episode."""

    path: Path
    # Seconds from the file's start; None where the file is the episode.
    times: tuple[float, float] | None


@dataclass(frozen=True)
class Entry:
    """An episode as the data set's tables describe it."""

    index: int
    length: int
    tasks: tuple[str, ...]
    data: Path
    # Key of the camera -> its frames.
    videos: Mapping[str, VideoSpan]


class EpisodeTable(ABC):
    """The entries of a data set, in the order of their index."""

    def __init__(self, root: Path, info: Info, indices: Sequence[int]) -> None:
        self.root, self.info, self.indices = root, info, indices
        repeated = len(indices) - len(set(indices))
        if repeated or any(index < 0 for index in indices):
            raise DataFormatError(
                f"{root / 'meta'} describes {repeated} episodes twice or has negative numbers; "
                "expected one entry an episode: export the data set again"
            )

    def __len__(self) -> int:
        return len(self.indices)

    @abstractmethod
    def entry(self, place: int) -> Entry:
        """Describe the episode at a place, 0 <= place < len(self)."""


class SharedFiles(EpisodeTable):
    """v3: meta/episodes/**.parquet, which says where in which files an episode lies."""

    def __init__(self, root: Path, info: Info) -> None:
        folder = root / "meta/episodes"
        files = sorted(folder.glob("*/*.parquet"), key=natural_key)
        if not files:
            raise DataFormatError(
                f"{folder} holds no tables; expected chunk-000/file-000.parquet: copy them too"
            )
        self._cameras = [f.key for f in info.features if f.dtype == "video"]
        whole = ["episode_index", "length", "data/chunk_index", "data/file_index"]
        whole += [f"videos/{key}/{name}" for key in self._cameras for name in _SPAN[:2]]
        real = [f"videos/{key}/{name}" for key in self._cameras for name in _SPAN[2:]]
        types = {name: pa.int64() for name in whole} | {name: pa.float64() for name in real}
        tables = [_places(file, types) for file in files]
        try:
            self._table = pa.concat_tables(tables)
        except pa.ArrowException as error:
            raise DataFormatError(
                f"{folder} has tables that don't fit each other ({error}): copy them again from "
                "their source"
            ) from error
        self._order = pc.sort_indices(self._table["episode_index"])
        super().__init__(root, info, self._table["episode_index"].take(self._order).to_pylist())

    def entry(self, place: int) -> Entry:
        here = self._table.slice(self._order[place].as_py(), 1)
        row: dict[str, Any] = here.drop_columns("tasks").to_pylist()[0]
        where = f"episode {row['episode_index']} of {self.root / 'meta/episodes'}"
        blank = [name for name, value in row.items() if value is None]
        if blank:
            raise DataFormatError(
                f"{where} has no {', '.join(blank)}; expected a value: was the recording closed? "
                "LeRobot's finalize() writes what is missing"
            )
        videos = {}
        for key in self._cameras:
            chunk, file, start, stop = (row[f"videos/{key}/{name}"] for name in _SPAN)
            path = self._path(self.info.video_path, chunk, file, video_key=key)
            videos[key] = VideoSpan(path, (start, stop))
        return Entry(
            index=row["episode_index"],
            length=row["length"],
            tasks=tuple(to_texts(pc.list_flatten(here["tasks"]), f"'tasks' of {where}")),
            data=self._path(self.info.data_path, row["data/chunk_index"], row["data/file_index"]),
            videos=videos,
        )

    def _path(self, template: str, chunk: int, file: int, **values: str) -> Path:
        return fill(self.root, template, chunk_index=chunk, file_index=file, **values)


class OwnFiles(EpisodeTable):
    """v2: meta/episodes.jsonl; where the files are follows from the episode's index."""

    def __init__(self, root: Path, info: Info) -> None:
        rows = [
            (_whole(row, "episode_index", where), _whole(row, "length", where), row, where)
            for row, where in read_jsonl(root / "meta/episodes.jsonl")
        ]
        self._rows = sorted(rows, key=lambda row: row[0])
        super().__init__(root, info, [row[0] for row in self._rows])

    def entry(self, place: int) -> Entry:
        index, length, row, where = self._rows[place]
        tasks = row.get("tasks", [])
        if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
            raise DataFormatError(f"{where} has the tasks {tasks!r}; expected a list of texts")
        place_of = {"episode_chunk": index // self.info.chunks_size, "episode_index": index}
        return Entry(
            index=index,
            length=length,
            tasks=tuple(tasks),
            data=fill(self.root, self.info.data_path, **place_of),
            videos={
                feature.key: VideoSpan(
                    fill(self.root, self.info.video_path, **place_of, video_key=feature.key), None
                )
                for feature in self.info.features
                if feature.dtype == "video"
            },
        )


def fill(root: Path, template: str, **values: int | str) -> Path:
    """Fill in a path of info.json: only plain fields, as Python's own format gives away far more.

    Raises DataFormatError for any other field, and where the path leads out of `root`.
    """
    path = ""
    try:
        for text, name, width, conversion in string.Formatter().parse(template):
            path += text
            if name is None:
                continue
            value = values[name]
            # A width of ten digits would fill the memory with zeros.
            if conversion or not re.fullmatch(r"(0?[0-9]d?)?", width or ""):
                raise ValueError(f"'{{{name}:{width}}}' is no plain field")
            path += format(value, width or "") if isinstance(value, int) else value
    except (KeyError, ValueError) as error:
        fields = ", ".join(f"{{{name}}}" for name in values)
        raise DataFormatError(
            f"{root / INFO} has the path {template!r}, which can't be filled in ({error}); "
            f"expected text with the fields {fields}, such as {{file_index:03d}}"
        ) from error
    return inside(root, path, str(root / INFO))


def read_info(root: Path) -> Info:
    """Read meta/info.json."""
    file = root / INFO
    content = read_json(file)
    version = content.get("codebase_version")
    if not isinstance(version, str) or not re.fullmatch(r"v[23]\.[0-9]+", version):
        raise DataFormatError(
            f"{file} has the codebase_version {version!r}; expected v2.0, v2.1 or v3.0: convert "
            "the data set with LeRobot's own scripts"
        )
    fps = content.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps < math.inf:
        raise DataFormatError(f"{file} has fps {fps!r}; expected a positive number")
    features = content.get("features")
    if not isinstance(features, dict):
        raise DataFormatError(f"{file} has no 'features'; expected an object, a key a column")
    robot = content.get("robot_type")
    chunks_size = _whole(content, "chunks_size", str(file), default=1000)
    if chunks_size < 1:
        raise DataFormatError(f"{file} has chunks_size {chunks_size}; expected at least 1")
    return Info(
        path=file,
        version=version,
        fps=float(fps),
        features=tuple(_feature(key, value, file) for key, value in features.items()),
        data_path=str(content.get("data_path")),
        video_path=str(content.get("video_path")),
        chunks_size=chunks_size,
        robot_type=robot if isinstance(robot, str) else None,
        splits=_splits(content.get("splits")),
        total_episodes=_whole(content, "total_episodes", str(file), default=0),
    )


def read_tasks(root: Path, info: Info) -> dict[int, str]:
    """Read what the robot is told to do, by task_index."""
    if not info.is_v3:
        rows = read_jsonl(root / "meta/tasks.jsonl")
        return {_whole(row, "task_index", where): str(row.get("task", "")) for row, where in rows}
    file = root / "meta/tasks.parquet"
    parquet = ParquetTable(file)
    # Pandas writes its index, which the texts are, under whatever name that has.
    texts = [field.name for field in parquet.schema if is_text(field.type)]
    table = parquet.read(["task_index", *texts[:1]])
    if not texts:
        raise DataFormatError(f"{file} has no texts, but {', '.join(table.column_names)}")
    numbers = to_whole(table["task_index"], f"'task_index' of {file}").tolist()
    return dict(zip(numbers, to_texts(table[texts[0]], str(file)), strict=True))


def read_jsonl(file: Path) -> list[tuple[dict[str, Any], str]]:
    """Read a file with an object a line; the second of each pair names its place for errors."""
    rows = []
    try:
        # Not splitlines(), which also splits at separators that JSON allows in a text.
        lines = file.read_text(encoding="utf-8").split("\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{file} line {number}"
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no object")
            rows.append((row, where))
    except (OSError, ValueError, RecursionError) as error:
        raise DataFormatError(
            f"{file} can't be read as JSON, an object a line ({error}): copy it again from its "
            "source"
        ) from error
    return rows


def _places(file: Path, types: Mapping[str, pa.DataType]) -> pa.Table:
    """Read the columns of a table of episodes that say where things are, and the tasks."""
    table = ParquetTable(file).read([*types, "tasks"])
    kind = table.schema.field("tasks").type
    if not is_list(kind) or not is_text(kind.value_type):
        raise DataFormatError(f"{file} has {kind} in 'tasks'; expected lists of texts")
    try:
        numbers = table.select(list(types)).cast(pa.schema(types.items()))
    except pa.ArrowException as error:
        raise DataFormatError(
            f"{file} has columns of other kinds than LeRobot's ({error}): copy it again from its "
            "source"
        ) from error
    return numbers.append_column("tasks", table["tasks"])


def _feature(key: str, value: Any, file: Path) -> Feature:
    value = value if isinstance(value, dict) else {}
    dtype, shape = value.get("dtype"), value.get("shape")
    if not isinstance(dtype, str) or not isinstance(shape, (list, tuple)):
        raise DataFormatError(
            f"{file} describes the feature '{key}' as {value!r}; expected 'dtype' and 'shape'"
        )
    if not all(type(side) is int and side >= 0 for side in shape):
        raise DataFormatError(f"{file} has the shape {shape} in '{key}'; expected whole numbers")
    details = [value, value.get("info"), value.get("video_info")]
    is_depth = any(d.get("video.is_depth_map") is True for d in details if isinstance(d, dict))
    return Feature(key, dtype, tuple(shape), tuple(_names(value.get("names"))), is_depth)


def _names(value: Any) -> list[str]:
    """Flatten names, which are a list, or lists by group ({'motors': [...]}), or absent."""
    groups = list(value.values()) if isinstance(value, dict) else [value]
    return [str(name) for group in groups if isinstance(group, list) for name in group]


def _splits(value: Any) -> dict[str, tuple[int, int]]:
    splits = {}
    for name, span in value.items() if isinstance(value, dict) else ():
        if match := re.fullmatch(r"([0-9]{1,12}):([0-9]{1,12})", str(span)):
            splits[str(name)] = (int(match[1]), int(match[2]))
    return splits


def _whole(row: Mapping[str, Any], key: str, where: str, default: int | None = None) -> int:
    value = row.get(key, default)
    if type(value) is not int or value < 0:
        raise DataFormatError(f"{where} has {key} {value!r}; expected a whole number")
    return value
