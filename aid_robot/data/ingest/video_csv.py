"""Video files: alone, in a folder, or in a folder whose index.csv describes them.

Two kinds of index are read; columns beyond the first two are optional.

    file,instruction,frames,width,height,outcome    demonstrations at Bridge's 5 frames a second
    file,task,policy,outcome,frames,width,height    policy rollouts, re-timed: fps is unknown

A column `fps` overrides both: a number, or `unknown`. Rows with the same `episode` are cameras of
one, named by `camera`; what they say of the episode is taken from the first. `outcome` is demo,
success or fail. Videos without an index have no instruction, and the rate at which they play. There
are never actions.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aid_robot.data.episode import Episode, Outcome
from aid_robot.data.frames import VideoFrames
from aid_robot.data.ingest.recording import (
    BRIDGE_FPS,
    Format,
    Recording,
    bridge_rate,
    distinct_texts,
    inside,
    natural_key,
)
from aid_robot.errors import DataFormatError

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
OUTCOMES: dict[str, Outcome] = {
    "demo": "demo",
    "success": "success",
    "fail": "failure",
    "failure": "failure",
}


@dataclass(frozen=True)
class _Video:
    """A video file and what is said about it."""

    id: str
    path: Path
    # Where it is described, for error messages.
    where: str
    # The columns of its row; None for a video without an index.
    row: dict[str, str] | None = None


class VideoCsvRecording(Recording):
    """Videos, one an episode and camera."""

    format = "video_csv"

    def __init__(self, path: Path, fps: float | None = None) -> None:
        super().__init__(path, fps)
        if path.is_file() and path.suffix.lower() != ".csv":
            videos = [_Video(path.stem, path, str(path))]
        elif (index := _index_of(path)) is not None:
            videos = _read_index(index)
        else:
            videos = [
                _Video(file.stem, file, str(file))
                for file in sorted(_videos_in(path), key=natural_key)
            ]
        self._episodes = _group(videos)

    def __len__(self) -> int:
        return len(self._episodes)

    def _list_ids(self) -> Sequence[str]:
        return [next(iter(cameras.values())).id for cameras in self._episodes]

    def _read(self, index: int) -> Episode:
        cameras = self._episodes[index]
        for video in cameras.values():
            if not video.path.is_file():
                raise DataFormatError(
                    f"{video.where} names {video.path}, which is not there; copy the video to that "
                    "place or remove its row"
                )
        videos = {camera: VideoFrames(video.path) for camera, video in cameras.items()}
        camera, video = next(iter(cameras.items()))
        row = video.row or {}
        instructions = distinct_texts([row.get("instruction", "")])
        fps, notes = _rate(video, videos[camera])
        for camera, described in cameras.items():
            if described.row is not None:
                notes += _described(described.row, videos[camera], described.where)
        if not instructions:
            notes.append("no instruction")
        return Episode(
            id=video.id,
            videos=videos,
            instruction=instructions[0] if instructions else None,
            instructions=instructions,
            outcome=_outcome(row.get("outcome", ""), video.where),
            fps=fps,
            source=str(video.path),
            notes=tuple(dict.fromkeys(notes)),
        )


def _rate(video: _Video, frames: VideoFrames) -> tuple[float | None, list[str]]:
    """Frames a second of the world that a video shows."""
    if video.row is None:
        return frames.rate, ["fps is the rate at which the file plays"]
    if said := video.row.get("fps", ""):
        if said == "unknown":
            return None, []
        try:
            fps = float(said)
        except ValueError:
            fps = float("nan")
        if not 0 < fps < float("inf"):
            raise DataFormatError(
                f"{video.where} has fps '{said}'; expected a positive number or unknown: correct "
                "the index"
            )
        return fps, []
    if "task" in video.row:
        return None, ["a re-timed rollout: its fps is unknown"]
    return BRIDGE_FPS, bridge_rate(frames)


def _described(row: dict[str, str], frames: VideoFrames, where: str) -> list[str]:
    """Say where the file differs from its row, and what of the row an episode has no place for."""
    height, width = frames.size
    notes = []
    for column, actual in (("frames", len(frames)), ("width", width), ("height", height)):
        said = row.get(column, "")
        if said and not said.isdecimal():
            raise DataFormatError(
                f"{where} has {column} '{said}'; expected a whole number: correct the index"
            )
        # Compared as text: a number of any length costs nothing.
        if said and said.lstrip("0") != str(actual):
            notes.append(f"the index says {column} {said[:20]}, the file has {actual}")
    labels = [f"{column} {row[column]}" for column in ("task", "policy") if row.get(column)]
    return notes + ([", ".join(labels)] if labels else [])


def _outcome(said: str, where: str) -> Outcome | None:
    if not said:
        return None
    if said.lower() not in OUTCOMES:
        raise DataFormatError(
            f"{where} has outcome '{said}'; expected one of {', '.join(OUTCOMES)}, or nothing"
        )
    return OUTCOMES[said.lower()]


def _read_index(index: Path) -> list[_Video]:
    try:
        with index.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [name.strip() for name in reader.fieldnames or []]
            _check_columns(columns, index)
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataFormatError(
            f"{index} can't be read as CSV in UTF-8 ({error}): export it again"
        ) from error
    return [_described_video(index, line, row) for line, row in rows]


def _described_video(index: Path, line: int, row: dict[str, str | None]) -> _Video:
    where = f"{index} line {line}"
    # DictReader files what is beyond the last column under None, and fills what is missing with it.
    if None in row or None in row.values():
        raise DataFormatError(
            f"{where} has not one value a column; quote texts that contain a comma"
        )
    values = {column: (value or "").strip() for column, value in row.items()}
    path = inside(index.parent, values["file"], where)
    name = values.get("episode") or Path(values["file"]).with_suffix("").as_posix()
    return _Video(name, path, where, values)


def _check_columns(columns: list[str], index: Path) -> None:
    layouts = "file,instruction,... or file,task,policy,outcome,..."
    if "file" not in columns or not {"instruction", "task"} & set(columns):
        missing = "'file'" if "file" not in columns else "'instruction' or 'task'"
        raise DataFormatError(
            f"{index} has no column {missing}, but {', '.join(columns) or 'none'}; expected "
            f"{layouts}: add or rename the column in its first line"
        )


def _group(videos: list[_Video]) -> list[dict[str, _Video]]:
    """Put the videos of an episode together, by their cameras."""
    episodes: dict[str, dict[str, _Video]] = {}
    for video in videos:
        row = video.row or {}
        cameras = episodes.setdefault(video.id, {})
        camera = row.get("camera") or f"image_{len(cameras) if row.get('episode') else 0}"
        if camera in cameras:
            raise DataFormatError(
                f"{video.where} and {cameras[camera].where} both describe '{video.id}'; expected "
                "one video an episode and camera: remove or rename one"
            )
        cameras[camera] = video
    return list(episodes.values())


def _index_of(path: Path) -> Path | None:
    index = path if path.is_file() else path / "index.csv"
    return index if index.is_file() else None


def _videos_in(folder: Path) -> list[Path]:
    # Not in folders below: those of another layout would pass for bare videos, silently.
    return [file for file in folder.glob("*") if file.suffix.lower() in VIDEO_SUFFIXES]


def _matches(path: Path) -> bool:
    if path.is_file():
        return path.suffix.lower() in VIDEO_SUFFIXES or path.name == "index.csv"
    return _index_of(path) is not None or bool(_videos_in(path))


FORMAT = Format(
    layout="a video file, or a folder of videos with or without index.csv",
    matches=_matches,
    open=VideoCsvRecording,
)
