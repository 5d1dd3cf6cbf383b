"""What all readers of recordings share."""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, ClassVar

import numpy as np

from aid_robot.data.episode import Episode, FloatArray
from aid_robot.data.frames import VideoFrames
from aid_robot.errors import DataFormatError, FrameRateError

# Bridge's robots are controlled, and their cameras recorded, at this rate.
BRIDGE_FPS = 5.0


class Recording(ABC):
    """The episodes of one recording, each read when it is asked for.

    `recording[3]` and `recording["train/c0"]` are one episode; a loop gives all, one at a time.
    """

    format: ClassVar[str]

    def __init__(self, path: Path, fps: float | None = None) -> None:
        if fps is not None and not (math.isfinite(fps) and fps > 0):
            raise FrameRateError(f"fps is {fps}; expected a positive number of frames a second")
        self.path = path
        # What the user should know about the recording as a whole, one sentence each.
        self.notes: tuple[str, ...] = ()
        self._fps = fps

    @abstractmethod
    def __len__(self) -> int:
        """Count the episodes."""

    @abstractmethod
    def _list_ids(self) -> Sequence[str]:
        """Name the episodes, in order."""

    @abstractmethod
    def _read(self, index: int) -> Episode:
        """Read the episode at `index`, 0 <= index < len(self)."""

    @cached_property
    def ids(self) -> Sequence[str]:
        """The episodes' ids, in order."""
        return self._list_ids()

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.ids)}

    def __getitem__(self, key: int | str) -> Episode:
        if isinstance(key, str):
            index = self._places.get(key, -1)
            if index < 0:
                raise DataFormatError(
                    f"{self.path} has no episode '{key}'{did_you_mean(key, self.ids)}; "
                    f"expected one of its {len(self)} ids, which are in `.ids`"
                )
        else:
            count = len(self)
            if not -count <= key < count:
                raise IndexError(f"episode {key} was asked for, but {self.path} has {count}")
            index = key % count
        episode = self._read(index)
        return episode if self._fps is None else replace(episode, fps=self._fps)

    def __iter__(self) -> Iterator[Episode]:
        for index in range(len(self)):
            yield self[index]

    def __repr__(self) -> str:
        return f"{type(self).__name__}('{self.path}', {len(self)} episodes)"


@dataclass(frozen=True)
class Format:
    """A layout that recordings come in."""

    # What such a recording looks like, for error messages.
    layout: str
    # Whether a file or folder has this layout, judged by names alone.
    matches: Callable[[Path], bool]
    # Called with the path and the user's fps.
    open: Callable[[Path, float | None], Recording]


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Suggest the known name that is closest: ' (did you mean ...?)', or nothing."""
    # An id within a folder is often asked for without the folder.
    ends = [candidate for candidate in known if candidate.endswith(f"/{name}")]
    close = ends or get_close_matches(name, known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def natural_key(path: Path) -> list[tuple[int, int | str]]:
    """Sort key in which 2.json comes before 10.json."""
    parts = re.findall(r"[0-9]+|[^0-9]+", path.as_posix())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def inside(root: Path, relative: object, where: str) -> Path:
    """Join a path found in a recording to its root, and refuse one that leads out of it."""
    # By its words, not by where links lead: download caches are trees of links to elsewhere.
    if not isinstance(relative, str) or not relative.strip() or "\0" in relative:
        raise DataFormatError(
            f"{where} names the file {relative!r}; expected a path relative to {root}"
        )
    for words in (PurePosixPath(relative), PureWindowsPath(relative)):
        if words.is_absolute() or words.drive or words.root or ".." in words.parts:
            raise DataFormatError(
                f"{where} names the file '{relative}', which leads out of {root}; expected a path "
                "inside: a recording from a source that you don't trust may do so on purpose"
            )
    return root / relative


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataFormatError(
            f"{path} can't be read as JSON ({error}): copy it again from its source"
        ) from error
    if not isinstance(content, dict):
        raise DataFormatError(
            f"{path} holds a JSON {type(content).__name__}; expected an object with named fields"
        )
    return content


def bridge_rate(frames: VideoFrames) -> list[str]:
    """Say so where a file plays at another rate than the robot was recorded at."""
    if frames.rate in (None, BRIDGE_FPS):
        return []
    return [f"fps is Bridge's {BRIDGE_FPS:g}, though the file plays at {frames.rate:g}"]


def distinct_texts(texts: Sequence[str]) -> tuple[str, ...]:
    """Strip texts, and drop blanks and repeats."""
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))


def fit_rows(
    rows: FloatArray, frames: int, name: str, where: str, *, still: bool
) -> tuple[FloatArray | None, list[str]]:
    """Give each frame a row of 7, and say what had to be done for that.

    `rows` is (N, D) float32. One row too few is usual, since nothing follows the last frame: it
    then gets a copy of the last row, in which `still` sets all but the gripper to 0. Where D is
    not 7 the result is None. A difference of more than one row raises DataFormatError.
    """
    if not np.isfinite(rows).all():
        raise DataFormatError(
            f"{where} has {name} that are not finite numbers; repair or remove the episode"
        )
    if rows.shape[1] != 7:
        return None, [f"{name} have {rows.shape[1]} columns, not 7, and were left out"]
    if len(rows) == frames:
        return rows, []
    if len(rows) == frames + 1:
        return rows[:frames], [f"{frames + 1} {name} for {frames} frames: the last was left out"]
    if len(rows) == frames - 1 and len(rows) > 0:
        last = rows[-1:].copy()
        if still:
            last[:, :6] = 0
        added = "a still one" if still else "a copy of the one before"
        note = f"{len(rows)} {name} for {frames} frames: the last frame got {added}"
        return np.concatenate([rows, last]), [note]
    raise DataFormatError(
        f"{where} has {len(rows)} {name} for {frames} frames; expected as many, or one more or "
        "less: export the episode again"
    )
