"""The growing files of a LeRobot v3 data set: rows, videos and episodes, each file to a size."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from aid_robot.data.writers.encoder import Codec, VideoEncoder, checked_frame, even
from aid_robot.data.writers.stats import NAMES, PixelStats, Stats

# LeRobot's own limits: files in a folder, and MiB in a file.
CHUNK_FILES = 1000
DATA_MIB, VIDEO_MIB = 100, 200
# A row group: many episodes, since each has its own overhead, and little enough to read for one.
_GROUP_BYTES = 2**20
# Rows of the episodes' table that are written together.
_EPISODE_ROWS = 100

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"


@dataclass(frozen=True)
class Column:
    """A column of the frames' table."""

    key: str
    dtype: np.dtype[Any]
    # Of one frame; () and (1,) are the same to LeRobot.
    shape: tuple[int, ...]
    names: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Describe it as info.json does."""
        names = list(self.names) or None
        return {"dtype": self.dtype.name, "shape": list(self.shape or (1,)), "names": names}

    def to_arrow(self, rows: npt.NDArray[Any]) -> pa.Array:
        """Turn rows (T, *shape) into what LeRobot expects of this shape."""
        values = pa.array(np.ascontiguousarray(rows, self.dtype).ravel())
        if self.shape in ((), (1,)):
            return values
        if len(self.shape) == 1:
            return pa.FixedSizeListArray.from_arrays(values, self.shape[0])
        for side in reversed(self.shape):
            offsets = np.arange(0, len(values) + 1, side, dtype=np.int32)
            values = pa.ListArray.from_arrays(offsets, values)
        return values

    def blank(self, frames: int) -> npt.NDArray[Any]:
        """Give the rows of an episode that has none: not a number, 0 or False."""
        nothing = np.nan if self.dtype.kind == "f" else 0
        return np.full((frames, *self.shape), nothing, self.dtype)


@dataclass
class _Place:
    """Where in the numbering of files one is."""

    chunk_index: int = 0
    file_index: int = 0

    def advance(self) -> None:
        """Go to the next file."""
        self.file_index += 1
        if self.file_index == CHUNK_FILES:
            self.chunk_index, self.file_index = self.chunk_index + 1, 0

    def path(self, root: Path, template: str, **values: str) -> Path:
        """Name the file, and make its folder."""
        path = root / template.format(**vars(self), **values)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class TableFiles:
    """Tables, appended to parquet files of a size."""

    def __init__(self, root: Path, template: str) -> None:
        self._root, self._template = root, template
        self.place = _Place()
        self._paths: list[Path] = []
        self._writer: pq.ParquetWriter | None = None
        # What will be the next row group.
        self._waiting: list[pa.Table] = []
        self._waiting_bytes = 0

    def make_room(self, schema: pa.Schema) -> None:
        """Go to the next file where this one is full, or has other columns."""
        if self._writer is None:
            return
        size = self._sink.tell() + self._waiting_bytes
        if size >= DATA_MIB * 2**20 or not self._writer.schema.equals(schema):
            self.close()
            self.place.advance()

    def add(self, table: pa.Table) -> None:
        """Append a table."""
        if self._writer is None:
            self._paths.append(self.place.path(self._root, self._template))
            self._sink = self._paths[-1].open("wb")
            self._writer = pq.ParquetWriter(self._sink, table.schema, compression="snappy")
        self._waiting.append(table)
        self._waiting_bytes += table.nbytes
        if self._waiting_bytes >= _GROUP_BYTES:
            self._flush(self._writer)

    def close(self) -> None:
        """Finish the file that is being written."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with self._sink:
                self._flush(writer)
                writer.close()

    def _flush(self, writer: pq.ParquetWriter) -> None:
        if self._waiting:
            table = pa.concat_tables(self._waiting)
            self._waiting, self._waiting_bytes = [], 0
            writer.write_table(table, row_group_size=len(table))

    def complete(self, columns: Sequence[Column]) -> None:
        """Give the files written so far the columns that turned up later."""
        names = [column.key for column in columns]
        for path in self._paths:
            file = pq.ParquetFile(path)
            if file.schema_arrow.names == names:
                continue
            longer = path.with_suffix(".part")
            with longer.open("wb") as sink:
                writer: pq.ParquetWriter | None = None
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group)
                    for column in columns:
                        if column.key not in table.column_names:
                            rows = column.to_arrow(column.blank(len(table)))
                            table = table.append_column(column.key, rows)
                    table = table.select(names)
                    writer = writer or pq.ParquetWriter(sink, table.schema, compression="snappy")
                    writer.write_table(table)
                assert writer is not None
                writer.close()
            longer.replace(path)


class CameraFiles:
    """The videos of a camera, each of as many whole episodes as fit."""

    def __init__(
        self, root: Path, key: str, size: tuple[int, int], fps: float, codec: Codec, crf: int
    ) -> None:
        self.key, self.size = key, size
        self._root, self._fps, self._codec, self._crf = root, fps, codec, crf
        self._place = _Place()
        self._encoder: VideoEncoder | None = None

    def describe(self) -> dict[str, Any]:
        """Describe it as info.json does."""
        height, width = even(self.size)
        return {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": height,
                "video.width": width,
                "video.codec": self._codec.name,
                "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False,
                "video.fps": whole(self._fps),
                "video.channels": 3,
                "has_audio": False,
            },
        }

    def add(
        self, frames: Iterable[npt.NDArray[np.uint8]], count: int, where: str
    ) -> tuple[dict[str, Any], Stats]:
        """Append an episode; return where it lies, as columns of the episodes' table."""
        encoder = self._room_for(count)
        start, stats = encoder.frames, PixelStats(count)
        for number, frame in enumerate(frames):
            checked_frame(frame, self.size, f"frame {number} of {where}")
            encoder.add(frame, keyframe=number == 0)
            stats.add(number, frame)
        return self._columns(start, start + count), stats.result()

    def add_blank(self, count: int) -> dict[str, Any]:
        """Append black frames, for an episode without this camera."""
        encoder = self._room_for(count)
        start, black = encoder.frames, np.zeros((*self.size, 3), np.uint8)
        for number in range(count):
            encoder.add(black, keyframe=number == 0)
        return self._columns(start, start + count)

    def close(self) -> None:
        """Finish the file that is being written."""
        if self._encoder is not None:
            encoder, self._encoder = self._encoder, None
            encoder.close()

    def _room_for(self, count: int) -> VideoEncoder:
        """Find the file that an episode goes into; one that is longer than a file gets its own."""
        encoder = self._encoder
        if encoder is not None and encoder.frames:
            expected = encoder.bytes / encoder.frames * (encoder.frames + count)
            if expected > VIDEO_MIB * 2**20:
                self.close()
                self._place.advance()
        if self._encoder is None:
            path = self._place.path(self._root, VIDEO_PATH, video_key=self.key)
            self._encoder = VideoEncoder(path, self.size, self._fps, self._codec, self._crf)
        return self._encoder

    def _columns(self, start: int, stop: int) -> dict[str, Any]:
        span = {"from_timestamp": start / self._fps, "to_timestamp": stop / self._fps}
        return {f"videos/{self.key}/{k}": v for k, v in {**vars(self._place), **span}.items()}


def write_episodes(
    root: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[Column], cameras: Sequence[str]
) -> None:
    """Write meta/episodes: what each episode is, where it lies, and its statistics."""
    schema = _episodes_schema(columns, cameras)
    files = TableFiles(root, _EPISODES_PATH)
    remaining: Iterator[Mapping[str, Any]] = iter(rows)
    while batch := list(islice(remaining, _EPISODE_ROWS)):
        files.make_room(schema)
        place = {f"meta/episodes/{name}": value for name, value in vars(files.place).items()}
        files.add(pa.Table.from_pylist([{**row, **place} for row in batch], schema))
    files.close()


def write_tasks(root: Path, tasks: Mapping[str, int]) -> None:
    """Write meta/tasks.parquet, with the texts as what pandas takes for the index."""
    types = {"task_index": ("int64", "int64"), "task": ("unicode", "object")}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {"name": n, "field_name": n, "pandas_type": p, "numpy_type": t, "metadata": None}
            for n, (p, t) in types.items()
        ],
    }
    table = pa.table(
        {"task_index": pa.array(tasks.values(), pa.int64()), "task": pa.array(tasks, pa.string())}
    )
    table = table.replace_schema_metadata({"pandas": json.dumps(pandas)})
    pq.write_table(table, root / "meta/tasks.parquet")


def whole(fps: float) -> float:
    """Write a rate as LeRobot does, without a decimal point where it needs none."""
    return int(fps) if fps == int(fps) else fps


def _episodes_schema(columns: Sequence[Column], cameras: Sequence[str]) -> pa.Schema:
    number, real = pa.int64(), pa.float64()
    fields = [("episode_index", number), ("tasks", pa.list_(pa.string())), ("length", number)]
    fields += [("data/chunk_index", number), ("data/file_index", number)]
    fields += [("dataset_from_index", number), ("dataset_to_index", number)]
    for key in cameras:
        fields += [(f"videos/{key}/{name}", number) for name in ("chunk_index", "file_index")]
        fields += [(f"videos/{key}/{name}", real) for name in ("from_timestamp", "to_timestamp")]
    pixel = pa.list_(pa.list_(pa.list_(real)))
    kinds = dict.fromkeys(cameras, pixel) | {column.key: pa.list_(real) for column in columns}
    for key, kind in kinds.items():
        for name in NAMES:
            fields.append((f"stats/{key}/{name}", pa.list_(number) if name == "count" else kind))
    fields += [("meta/episodes/chunk_index", number), ("meta/episodes/file_index", number)]
    return pa.schema(fields)
