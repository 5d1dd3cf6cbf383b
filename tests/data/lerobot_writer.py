"""Tiny LeRobot data sets, put together file by file as the lerobot package does it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.data.numbered_frames import HEIGHT, WIDTH, encode, numbered_frames

FPS = 5
TASKS = ("open the drawer", "put the carrot on the plate", "")
POSE = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
CAMERAS = ("observation.images.image_0", "observation.images.wrist")
V2_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
V2_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
V3_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
V3_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


@dataclass(frozen=True)
class Tiny:
    """What to write: frame i of the whole set shows the number i, and in the wrist camera 255 - i.

    State i is i / 10 throughout, action i is i / 100, touch i is a 2x3 array of i.
    """

    lengths: Sequence[int] = (7, 12, 5)
    # Number of the task of each frame, an episode a list.
    tasks: Sequence[Sequence[int]] = ((0,) * 7, (1,) * 6 + (0,) * 6, (2,) * 5)
    robot: str | None = "widowx"
    # Names of the actions and their number.
    names: Any = tuple(POSE)
    width: int = 7
    images: bool = False

    def starts(self) -> Iterator[tuple[int, int, int]]:
        """Number, first and last frame (exclusive) of each episode."""
        start = 0
        for episode, length in enumerate(self.lengths):
            yield episode, start, start + length
            start += length

    def frames(self, start: int, stop: int) -> list[np.ndarray[Any, Any]]:
        """Both cameras' frames."""
        frames = numbered_frames(stop)[start:]
        return [frames, 255 - frames]

    def rows(self, episode: int, start: int, stop: int) -> dict[str, pa.Array]:
        """An episode's rows."""
        index = np.arange(start, stop)
        columns: dict[str, pa.Array] = {}
        if self.images:
            for camera, frames in zip(CAMERAS, self.frames(start, stop), strict=True):
                columns[camera] = pa.array(
                    [{"bytes": png(frame), "path": None} for frame in frames],
                    pa.struct({"bytes": pa.binary(), "path": pa.string()}),
                )
        columns["observation.state"] = pa.FixedSizeListArray.from_arrays(
            pa.array(np.repeat(index / 10, 7).astype(np.float32)), 7
        )
        columns["action"] = pa.FixedSizeListArray.from_arrays(
            pa.array(np.repeat(index / 100, self.width).astype(np.float32)), self.width
        )
        touch = np.broadcast_to(index[:, None, None], (len(index), 2, 3)).astype(np.float32)
        columns["touch"] = pa.array(touch.tolist(), pa.list_(pa.list_(pa.float32())))
        columns["timestamp"] = pa.array((np.arange(len(index)) / FPS).astype(np.float32))
        columns["frame_index"] = pa.array(np.arange(len(index)))
        columns["episode_index"] = pa.array(np.full(len(index), episode))
        columns["index"] = pa.array(index)
        columns["task_index"] = pa.array(self.tasks[episode], pa.int64())
        return columns

    def info(self, version: str, **paths: Any) -> dict[str, Any]:
        """What meta/info.json says."""
        kind = "image" if self.images else "video"
        camera = {"dtype": kind, "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "c"]}
        number = {"dtype": "int64", "shape": [1], "names": None}
        features = dict.fromkeys(CAMERAS, camera) | {
            "observation.state": {"dtype": "float32", "shape": [7], "names": {"motors": POSE}},
            "action": {"dtype": "float32", "shape": [self.width], "names": self.names},
            "touch": {"dtype": "float32", "shape": [2, 3], "names": None},
            "timestamp": {**number, "dtype": "float32"},
            **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), number),
        }
        return {
            "codebase_version": version,
            "robot_type": self.robot,
            "total_episodes": len(self.lengths),
            "total_frames": sum(self.lengths),
            "chunks_size": 2 if version.startswith("v2") else 1000,
            "fps": FPS,
            "splits": {"train": "0:2", "val": "2:3"},
            **paths,
            "features": features,
        }


def write_v2(folder: Path, tiny: Tiny = Tiny(), version: str = "v2.1") -> Path:
    """Write a data set of version 2, two episodes a folder."""
    (folder / "meta").mkdir(parents=True)
    info = tiny.info(version, data_path=V2_DATA, video_path=V2_VIDEO)
    (folder / "meta/info.json").write_text(json.dumps(info))
    write_lines(
        folder / "meta/tasks.jsonl", [{"task_index": i, "task": t} for i, t in enumerate(TASKS)]
    )
    episodes = []
    for episode, start, stop in tiny.starts():
        place = {"episode_chunk": episode // 2, "episode_index": episode}
        file = folder / V2_DATA.format(**place)
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(tiny.rows(episode, start, stop)), file)
        for camera, frames in zip(CAMERAS, tiny.frames(start, stop), strict=True):
            if not tiny.images:
                video = folder / V2_VIDEO.format(video_key=camera, **place)
                video.parent.mkdir(parents=True, exist_ok=True)
                encode(video, frames, rate=FPS, g="2", crf="10")
        texts = sorted({TASKS[task] for task in tiny.tasks[episode]})
        episodes.append({"episode_index": episode, "tasks": texts, "length": stop - start})
    write_lines(folder / "meta/episodes.jsonl", episodes)
    return folder


def write_v3(
    folder: Path,
    tiny: Tiny = Tiny(),
    *,
    files: Sequence[Sequence[int]] = ((0, 1, 2),),
    one_group: bool = False,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a data set of version 3; `files` says which episodes share a file, of each kind."""
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    info = tiny.info("v3.0", data_path=V3_DATA, video_path=V3_VIDEO)
    (folder / "meta/info.json").write_text(json.dumps(info))
    # As pandas writes it: the texts are an index without a name.
    tasks = pa.table({"task_index": list(range(len(TASKS))), "__index_level_0__": list(TASKS)})
    pq.write_table(tasks, folder / "meta/tasks.parquet")
    spans = {episode: (start, stop) for episode, start, stop in tiny.starts()}
    rows = []
    for number, episodes in enumerate(files):
        place = {"chunk_index": 0, "file_index": number}
        data = folder / V3_DATA.format(**place)
        data.parent.mkdir(parents=True, exist_ok=True)
        tables = [pa.table(tiny.rows(episode, *spans[episode])) for episode in episodes]
        with pq.ParquetWriter(data, tables[0].schema) as writer:
            for table in [pa.concat_tables(tables)] if one_group else tables:
                writer.write_table(table)
        if not tiny.images:
            parts = [tiny.frames(*spans[episode]) for episode in episodes]
            for camera, videos in zip(CAMERAS, zip(*parts, strict=True), strict=True):
                video = folder / V3_VIDEO.format(video_key=camera, **place)
                video.parent.mkdir(parents=True, exist_ok=True)
                encode(video, np.concatenate(videos), rate=FPS, **(options or {"g": "2"}))
        shown = 0
        for episode in episodes:
            start, stop = spans[episode]
            row = {
                "episode_index": episode,
                "tasks": sorted({TASKS[task] for task in tiny.tasks[episode]}),
                "length": stop - start,
                **{f"data/{name}": value for name, value in place.items()},
                "dataset_from_index": start,
                "dataset_to_index": stop,
            }
            for camera in () if tiny.images else CAMERAS:
                row |= {f"videos/{camera}/{name}": value for name, value in place.items()}
                row[f"videos/{camera}/from_timestamp"] = shown / FPS
                row[f"videos/{camera}/to_timestamp"] = (shown + stop - start) / FPS
            shown += stop - start
            rows.append(row)
    write_episodes(folder, rows)
    return folder


def write_episodes(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write the episodes' table of version 3, a few rows a group as LeRobot does."""
    file = folder / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=2)


def read_episodes(folder: Path) -> list[dict[str, Any]]:
    """Read the episodes' table of version 3."""
    rows: list[dict[str, Any]] = pq.read_table(
        folder / "meta/episodes/chunk-000/file-000.parquet"
    ).to_pylist()
    return rows


def change_info(folder: Path, **changes: Any) -> None:
    """Say something else in meta/info.json."""
    file = folder / "meta/info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_feature(folder: Path, key: str, **changes: Any) -> None:
    """Describe a feature otherwise, or a new one, in meta/info.json."""
    features = json.loads((folder / "meta/info.json").read_text())["features"]
    features[key] = features.get(key, {}) | changes
    change_info(folder, features=features)


def write_lines(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write JSON, an object a line."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def png(frame: np.ndarray[Any, Any]) -> bytes:
    """Encode a frame."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()
