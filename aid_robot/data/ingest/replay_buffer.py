"""Replay buffers of diffusion_policy and UMI: zarr version 2, in a folder or as .zarr.zip.

    data/<key>          (sum of T, ...), episodes one after the other
    meta/episode_ends   where each ends (exclusive)

Cameras are found by shape: (T, H, W, 3) or (T, 3, H, W), uint8 or float from 0 to 1 or to 255.
`action` and `state` of 7 columns are taken for an episode's own; all else, of whatever width and
name (`robot0_eef_pos`, ...), goes to `Episode.arrays` as it is. Such a store says neither what was
asked of the robot nor at how many frames a second it was recorded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from aid_robot.data.episode import Episode, FloatArray, FrameSequence, UInt8Array
from aid_robot.data.ingest.recording import Format, Recording, natural_key
from aid_robot.data.ingest.store_files import Files, FolderFiles, ZipFiles, open_zip
from aid_robot.data.ingest.traps import is_black, lead_in_notes, static_lead_in
from aid_robot.data.ingest.zarr_v2 import NotNumbersError, ZarrV2Array
from aid_robot.errors import DataFormatError, TruncatedFileError

Rows: TypeAlias = npt.NDArray[Any]

_ENDS = "meta/episode_ends"
_HEADER = f"{_ENDS}/.zarray"
# Where diffusion_policy's robots put it, beside their videos.
_INNER = "replay_buffer.zarr"
# Names become those of files; what leads elsewhere isn't one.
_KEY = re.compile(r"\w[\w.-]{0,99}")
_SMALLEST_SIDE = 16
# Point clouds and depth fit; a second copy of the images doesn't.
_MAX_ARRAY_BYTES = 2**27


class ReplayBufferRecording(Recording):
    """Episodes that lie one after the other in arrays."""

    format = "replay_buffer"

    def __init__(self, path: Path, fps: float | None = None) -> None:
        super().__init__(path, fps)
        files = _files(path)
        self._ends = _read_ends(files)
        self._arrays: dict[str, ZarrV2Array] = {}
        notes = []
        for key in sorted(files.arrays("data"), key=lambda key: natural_key(Path(key))):
            if not _KEY.fullmatch(key):
                notes.append(f"array {key[:100]!r} has no plain name and was left out")
                continue
            try:
                array = ZarrV2Array(files, f"data/{key}")
            except NotNumbersError as error:
                notes.append(f"array {key} was left out: {error}")
                continue
            if len(array) < self._ends[-1]:
                raise TruncatedFileError(
                    f"{array} has {len(array)} rows, but the episodes end at row {self._ends[-1]}; "
                    "copy the store again from its source"
                )
            self._arrays[key] = array
        self._cameras = [key for key, array in self._arrays.items() if _is_camera(array)]
        if not self._cameras:
            shapes = {key: array.shape for key, array in self._arrays.items()}
            raise DataFormatError(
                f"{path} has no images, only {str(shapes)[:300]}; expected an array (T, H, W, 3) "
                "below data/: a store that keeps its videos elsewhere can't be read"
            )
        self.notes = tuple(notes)

    def __len__(self) -> int:
        return len(self._ends)

    def _list_ids(self) -> Sequence[str]:
        return [f"episode_{number}" for number in range(len(self))]

    def _read(self, index: int) -> Episode:
        start, stop = self._ends[index - 1] if index else 0, self._ends[index]
        where = f"episode {index} of {self.path}"
        videos, notes = self._videos(start, stop, where)
        rows, seen = self._rows(start, stop)
        notes += seen
        actions, seen = _take(rows, "action", "actions")
        notes += seen
        state, seen = _take(rows, "state")
        notes += seen
        notes += lead_in_notes(static_lead_in(next(iter(videos.values())), state))
        return Episode(
            id=self.ids[index],
            videos=videos,
            actions=actions,
            state=state,
            source=where,
            notes=(
                *notes,
                "no instruction: a replay buffer has none",
                "a replay buffer does not say at how many frames a second it was recorded",
            ),
            arrays=rows,
        )

    def _videos(
        self, start: int, stop: int, where: str
    ) -> tuple[dict[str, FrameSequence], list[str]]:
        """Find the cameras that saw something, and say which did not."""
        videos: dict[str, FrameSequence] = {}
        notes = []
        for key in self._cameras:
            array = self._arrays[key]
            absent = list(array.absent(start, stop))
            if len(absent) == array.count_chunks(start, stop):
                notes.append(f"camera {key} has no frames and was left out")
                continue
            if absent:
                raise TruncatedFileError(
                    f"{where} lacks {len(absent)} chunks of camera {key}, {absent[0]} first; copy "
                    "the store again from its source"
                )
            brightest, note = _brightest(array, start, stop)
            frames = ReplayFrames(array, start, stop, brightest or 255)
            if brightest is None:
                notes.append(f"camera {key} has {note}, not an image's, and was left out")
            elif is_black(frames):
                notes.append(f"camera {key} is black and was left out")
            else:
                videos[key] = frames
                notes += [f"camera {key} has {note}"] if note else []
        if not videos:
            raise DataFormatError(
                f"{where} has no camera with frames ({'; '.join(notes)}); expected at least one: "
                "remove the episode, or copy the store again"
            )
        return videos, notes

    def _rows(self, start: int, stop: int) -> tuple[dict[str, Rows], list[str]]:
        """Read the arrays that are not cameras, and say what they lack."""
        rows: dict[str, Rows] = {}
        notes = []
        for key, array in self._arrays.items():
            if key in self._cameras:
                continue
            if (stop - start) * array.row_bytes > _MAX_ARRAY_BYTES:
                notes.append(f"array {key} is larger than {_MAX_ARRAY_BYTES} bytes: left out")
                continue
            rows[key] = array.rows(start, stop)
            if absent := len(list(array.absent(start, stop))):
                notes.append(f"array {key} lacks {absent} of its chunks, which count as its fill")
        return rows, notes


class ReplayFrames(FrameSequence):
    """Rows of an array as frames; `brightest` is the value in it that stands for 255."""

    def __init__(self, array: ZarrV2Array, start: int, stop: int, brightest: int) -> None:
        self._array, self._start, self._stop = array, start, stop
        self._brightest = brightest

    def __len__(self) -> int:
        return self._stop - self._start

    @property
    def size(self) -> tuple[int, int]:
        height, width = self._array.shape[2:] if self._planes else self._array.shape[1:3]
        return height, width

    @property
    def _planes(self) -> bool:
        """Whether a frame is (3, H, W)."""
        return self._array.shape[-1] != 3

    def read(self, index: int) -> UInt8Array:
        row = self._start + index
        frame: Rows = self._array.rows(row, row + 1)[0]
        if self._planes:
            frame = np.ascontiguousarray(frame.transpose(1, 2, 0))
        if frame.dtype == np.uint8:
            return frame
        scaled = frame.astype(np.float32) * (255 / self._brightest)
        low, high = scaled.min(), scaled.max()
        # The comparison also fails for what is no number.
        if not (low > -1 and high < 256):
            raise DataFormatError(
                f"row {row} of {self._array} goes from {frame.min():g} to {frame.max():g}, others "
                f"from 0 to {self._brightest}; expected one range throughout: save the store again"
            )
        rounded: UInt8Array = scaled.round().clip(0, 255).astype(np.uint8)
        return rounded


def _brightest(array: ZarrV2Array, start: int, stop: int) -> tuple[int | None, str]:
    """Find what stands for 255 by a few frames, None where they are no images; and what to say."""
    if array.dtype == np.uint8:
        return 255, ""
    looked_at = [array.rows(row, row + 1) for row in (start, (start + stop) // 2, stop - 1)]
    low = min(float(frame.min()) for frame in looked_at)
    high = max(float(frame.max()) for frame in looked_at)
    if not (low >= 0 and high <= 255):
        return None, f"values from {low:g} to {high:g}"
    # An image up to 255 in which nothing exceeds 1 would be black.
    brightest = 1 if array.dtype.kind == "f" and high <= 1 else 255
    return brightest, f"values of type {array.dtype} from 0 to {brightest}: rounded to 8 bits"


def _take(rows: dict[str, Rows], *names: str) -> tuple[FloatArray | None, list[str]]:
    """Take out the array that is an episode's own, if it can be, and say what it is taken for."""
    name = next((name for name in names if name in rows), None)
    if name is None:
        return None, [f"no {names[-1]}"]
    shape = rows[name].shape[1:]
    if shape != (7,):
        columns = f"{shape[0]} columns" if len(shape) == 1 else f"rows of shape {shape}"
        return None, [f"{name} has {columns}, not 7: kept among the arrays"]
    gripper = rows[name][:, 6]
    if not np.isfinite(rows[name]).all() or gripper.min() < -0.2 or gripper.max() > 1.2:
        return None, [f"{name} has a seventh column that is no gripper: kept among the arrays"]
    return rows.pop(name).astype(np.float32), [
        f"{name} has 7 columns, taken for position, rotation and gripper with 1 = open: a replay "
        "buffer does not say"
    ]


def _is_camera(array: ZarrV2Array) -> bool:
    if len(array.shape) != 4:
        return False
    sides = array.shape[1:3] if array.shape[3] == 3 else array.shape[2:]
    return 3 in (array.shape[1], array.shape[3]) and min(sides) >= _SMALLEST_SIDE


def _read_ends(files: Files) -> list[int]:
    array = ZarrV2Array(files, _ENDS)
    if array.dtype.kind not in "iu" or len(array.shape) != 1 or not len(array):
        raise DataFormatError(
            f"{array} has shape {array.shape} and type {array.dtype}; expected whole numbers, one "
            "an episode, and at least one"
        )
    if (absent := next(array.absent(0, len(array)), None)) is not None:
        raise TruncatedFileError(f"{files} lacks {absent}: copy it again from its source")
    ends: list[int] = array.rows(0, len(array)).tolist()
    if any(stop <= start for start, stop in pairwise([0, *ends])):
        raise DataFormatError(
            f"{array} does not ascend from one episode to the next; expected the row after each "
            "episode's last: repair it"
        )
    return ends


def _files(path: Path) -> Files:
    if path.is_dir():
        return FolderFiles(path / _INNER if (path / _INNER).is_dir() else path)
    names = [name for name in open_zip(path).namelist() if name.endswith(_HEADER)]
    if not names:
        raise DataFormatError(
            f"{path} holds no {_HEADER}; expected a replay buffer of zarr version 2"
        )
    return ZipFiles(path, min(names, key=len).removesuffix(_HEADER))


def _matches(path: Path) -> bool:
    if path.is_file():
        return path.name.endswith(".zarr.zip")
    return any((folder / _HEADER).is_file() for folder in (path, path / _INNER))


FORMAT = Format(
    layout="a replay buffer of zarr version 2 with data/ and meta/episode_ends, or its .zarr.zip",
    matches=_matches,
    open=ReplayBufferRecording,
)
