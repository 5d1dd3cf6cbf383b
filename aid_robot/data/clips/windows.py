"""Which windows there are, and how likely each one is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from aid_robot.data.clips.config import ClipConfig
from aid_robot.data.store import EpisodeRecord
from aid_robot.errors import ConfigError, DataFormatError, FrameRateError

IntArray: TypeAlias = npt.NDArray[np.int64]
Weight: TypeAlias = Callable[[EpisodeRecord], float]


@dataclass(frozen=True)
class Window:
    """A place in an episode."""

    episode: int
    # "" where each clip draws its own.
    camera: str
    start: int
    # Frames before the episode ends, at most N.
    valid: int


@dataclass(frozen=True)
class Video:
    """A camera of an episode, or "" where each clip draws its own."""

    episode: int
    camera: str
    length: int
    weight: float


def choose_videos(
    records: Iterable[tuple[int, EpisodeRecord]], config: ClipConfig, weight: Weight | None
) -> list[Video]:
    """Choose the videos that clips are cut from, and refuse episodes that don't fit the config."""
    shortest = (config.needed - 1) * config.stride + 1
    videos: list[Video] = []
    left_out: Counter[str] = Counter()
    for index, record in records:
        share = 1.0 if weight is None else _checked_weight(weight(record), record)
        cameras = _cameras(config.camera, record)
        if config.outcomes is not None and record.outcome not in config.outcomes:
            left_out[f"with the outcome {record.outcome}"] += 1
        elif share == 0:
            left_out["of weight 0"] += 1
        elif record.length < shortest:
            left_out[f"with fewer than {shortest} frames"] += 1
        elif not cameras:
            others = ", ".join(record.cameras)
            left_out[f"without camera '{config.camera}' but with {others}"] += 1
        else:
            _check_rate(record, config)
            if config.actions and "action" not in record.keys:
                raise DataFormatError(
                    f"episode '{record.id}' has no actions, but the clips shall have them: set "
                    "actions=False, or give it the weight 0"
                )
            videos += [Video(index, camera, record.length, share) for camera in cameras]
    if not videos:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
        raise DataFormatError(
            "there is nothing to cut clips from; expected at least one fitting episode on this "
            f"side of the split, found {reasons or 'none at all'}: record more, or ask for less"
        )
    return videos


class Windows:
    """The windows of videos, and their weights.

    Nothing is kept of a window that its video's length doesn't say, so that millions of them fit;
    only where still ones are left out are the places of the others listed.

    Args:
        videos: At least one.
        config: How windows are cut.
        starts: For each video where its windows start, at least one each; None for everywhere
            that its length allows.
    """

    def __init__(
        self, videos: Sequence[Video], config: ClipConfig, starts: list[IntArray] | None = None
    ) -> None:
        self._num_frames, self._stride = config.num_frames, config.stride
        self.episodes = np.array([video.episode for video in videos], np.int64)
        self.lengths = np.array([video.length for video in videos], np.int64)
        self._cameras = tuple(sorted({video.camera for video in videos}))
        codes = {name: code for code, name in enumerate(self._cameras)}
        self._camera_of = np.array([codes[video.camera] for video in videos], np.int16)
        self.counts: IntArray = self.lengths - (config.needed - 1) * config.stride
        self._listed: IntArray | None = None
        if starts is not None:
            self.counts = np.array([len(part) for part in starts], np.int64)
            self._listed = np.concatenate(starts)
        self._ends: IntArray = self.counts.cumsum()
        shares = {"windows": self.counts, "sqrt": np.sqrt(self.counts), "episodes": np.ones(1)}
        weights = shares[config.weighting] * np.array([video.weight for video in videos])
        # Windows to a unit of weight: exactly 1 where all windows weigh 1, so that `pick` is exact.
        self._density = self.counts / weights
        self._weight_ends = weights.cumsum()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def pick(self, place: float, places: int) -> Window:
        """Find the window at a place, 0 <= place < places, if all weights together take `places`.

        Where all windows weigh the same and `places` is their number, window n lies from n to
        n + 1.
        """
        at = place * (self._weight_ends[-1] / places)
        video = int(np.searchsorted(self._weight_ends, at, side="right"))
        # What is left to rounding at the far ends stays inside.
        video = min(video, len(self.counts) - 1)
        before = float(self._weight_ends[video - 1]) if video else 0.0
        number = int((at - before) * float(self._density[video]))
        number = min(number, int(self.counts[video]) - 1)
        return self._window(video, int(self.starts(video)[number]))

    def evenly(self, per_video: int) -> list[Window]:
        """Space whole windows evenly over each video, or take the first of one that has none."""
        found = []
        for video, length in enumerate(self.lengths):
            starts = self.starts(video)
            starts = starts[starts + (self._num_frames - 1) * self._stride < length]
            if len(starts):
                places = np.linspace(0, len(starts) - 1, per_video)
                chosen = [starts[place] for place in sorted({round(at) for at in places})]
            else:
                chosen = [self.starts(video)[0]]
            found += [self._window(video, int(start)) for start in chosen]
        return found

    def starts(self, video: int) -> IntArray:
        """Give the starts of a video's windows."""
        if self._listed is None:
            return np.arange(self.counts[video])
        end = self._ends[video]
        return self._listed[end - self.counts[video] : end]

    @property
    def signature(self) -> bytes:
        """Give other bytes for other windows or weights."""
        arrays = (self.counts, self._camera_of, self._weight_ends, self._listed)
        parts = [array.tobytes() for array in arrays if array is not None]
        return b"".join([repr(self._cameras).encode(), *parts])

    def _window(self, video: int, start: int) -> Window:
        left = -(-(int(self.lengths[video]) - start) // self._stride)
        camera = self._cameras[self._camera_of[video]]
        return Window(int(self.episodes[video]), camera, start, min(self._num_frames, left))


def _cameras(choice: str, record: EpisodeRecord) -> tuple[str, ...]:
    if choice == "default":
        return record.cameras[:1]
    if choice == "all":
        return record.cameras
    if choice == "random":
        return ("",)
    return (choice,) if choice in record.cameras else ()


def _checked_weight(value: float, record: EpisodeRecord) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(
            f"the weight of episode '{record.id}' is {value}; expected a finite number, 0 or more"
        )
    return float(value)


def _check_rate(record: EpisodeRecord, config: ClipConfig) -> None:
    if config.fps is None:
        return
    if record.fps is None:
        raise FrameRateError(
            f"episode '{record.id}' has no known rate; the clips shall have {config.fps:g} frames "
            "a second: set the episode's fps where it is known, or give it the weight 0"
        )
    if abs(record.fps / config.stride - config.fps) > 1e-3:
        stride = record.fps / config.fps
        whole = stride >= 1 and abs(stride - round(stride)) * config.fps < 1e-3
        remedy = f"set stride={round(stride)}" if whole else "resample the recording"
        raise FrameRateError(
            f"episode '{record.id}' has {record.fps:g} frames a second, with a stride of "
            f"{config.stride} {record.fps / config.stride:g}; the clips shall have "
            f"{config.fps:g}: {remedy}, or give the episode the weight 0"
        )
