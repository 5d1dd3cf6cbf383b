"""Read episodes, clips and rows of a store, as of one commit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from aid_robot.data.episode import Episode, UInt8Array
from aid_robot.data.ingest.recording import did_you_mean
from aid_robot.data.store import cache
from aid_robot.data.store.columns import Array, Column
from aid_robot.data.store.frames import StoreFrames, read_frames
from aid_robot.data.store.objects import Objects, open_objects
from aid_robot.data.store.records import EpisodeRecord
from aid_robot.data.store.shown import Shown, show
from aid_robot.data.store.snapshot import Settings, Snapshot
from aid_robot.errors import StoreError


@dataclass(frozen=True)
class ClipAt:
    """A clip and where it was cut."""

    index: int
    start: int
    frames: UInt8Array  # (n, H, W, 3)


class StoreReader:
    """The reading half of EpisodeStore.

    Shows the episodes that were committed when it was opened, until `refresh()`. May be shared by
    threads, forked, and sent to processes, which then show the same episodes.
    """

    def __init__(self, objects: Objects, shown: Shown | None = None) -> None:
        self._objects = objects
        self._shown = shown or show(objects)

    @property
    def url(self) -> str:
        """Where the store lies."""
        return self._objects.url

    @property
    def objects(self) -> Objects:
        """Where the store's objects lie."""
        return self._objects

    @property
    def settings(self) -> Settings | None:
        """What the store was made with; None for another program's."""
        return self._shown.settings

    @property
    def attributes(self) -> Mapping[str, Any]:
        """JSON that belongs to the whole store."""
        return self._shown.attributes

    def __len__(self) -> int:
        return len(self._shown.snapshot.live)

    def __repr__(self) -> str:
        return f"{type(self).__name__}('{self.url}', {len(self)} episodes)"

    @property
    def ids(self) -> Sequence[str]:
        """The episodes' ids, in order."""
        return self._shown.ids

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Frames of each episode (n,)."""
        return self._shown.snapshot.lengths

    @property
    def records(self) -> Sequence[EpisodeRecord]:
        """What is known of each episode beside its arrays, read when it is asked for."""
        return self._shown.records

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of all arrays, cameras included; not every episode has every one."""
        return self._shown.snapshot.keys

    @property
    def cameras(self) -> Mapping[str, tuple[int, int]]:
        """Camera -> (height, width) of its frames."""
        return self._shown.cameras

    def __contains__(self, name: object) -> bool:
        return name in self._shown.places

    def __iter__(self) -> Iterator[Episode]:
        for index in range(len(self)):
            yield self[index]

    def __getitem__(self, key: int | str) -> Episode:
        index = self.index(key)
        record, start = self.records[index], self.start(index)
        videos = {
            camera: StoreFrames(self, camera, start, record.length) for camera in record.cameras
        }
        rows = self.read(index, record.keys)
        known = {
            key: rows.pop(key).astype(np.float32, copy=False)
            for key in ("action", "state")
            if key in rows and rows[key].shape[1:] == (7,)
        }
        return Episode(
            id=record.id,
            videos=videos,
            actions=known.get("action"),
            state=known.get("state"),
            instruction=record.instruction,
            instructions=record.instructions,
            outcome=record.outcome,
            fps=record.fps,
            source=record.source,
            notes=record.notes,
            scene=record.scene,
            arrays=rows,
            info=record.info,
        )

    def index(self, key: int | str) -> int:
        """Find an episode's number by its id, or check a number."""
        if isinstance(key, str):
            index = self._shown.places.get(key, -1)
            if index < 0:
                raise StoreError(
                    f"{self.url} has no episode '{key}'{did_you_mean(key, self.ids)}; expected "
                    f"one of its {len(self)} ids, which are in `.ids`"
                )
            return index
        if not isinstance(key, (int, np.integer)) or isinstance(key, bool):
            raise StoreError(f"an episode is named by its number or its id, not by {key!r}")
        if not -len(self) <= key < len(self):
            raise IndexError(f"episode {key} was asked for, but {self.url} has {len(self)}")
        return int(key) % len(self)

    def column(self, key: str) -> Column:
        """Open one of the store's arrays, for all episodes' rows."""
        return self._shown.column(key)

    def clip(
        self,
        index: int | str,
        start: int,
        frames: int = 16,
        stride: int = 1,
        camera: str | None = None,
    ) -> UInt8Array:
        """Decode `frames` frames from number `start` on, every `stride`-th, as (n, H, W, 3).

        There are fewer where the episode ends; `camera` is the default one unless named.
        """
        index = self.index(index)
        first, length, cameras = self._shown.episode(index)
        if not 0 <= start < length or frames < 1 or stride < 1:
            raise StoreError(
                f"{frames} frames from {start} by {stride} were asked for, but episode "
                f"'{self.records[index].id}' has frames 0 to {length - 1}; expected a start in "
                "there, and at least one frame and a stride of 1"
            )
        camera = cameras[0] if camera is None and cameras else camera
        if camera not in cameras:
            raise StoreError(
                f"episode '{self.records[index].id}' has no camera '{camera}'; expected one of "
                f"{', '.join(cameras)}"
            )
        stop = min(length, start + frames * stride)
        return read_frames(self, camera, range(first + start, first + stop, stride))

    def read(
        self,
        index: int | str,
        keys: Iterable[str],
        start: int = 0,
        stop: int | None = None,
        step: int = 1,
    ) -> dict[str, Array]:
        """Read frames start:stop:step of some arrays and cameras of an episode, each (n, ...)."""
        index = self.index(index)
        record, first = self.records[index], self.start(index)
        rows = range(*slice(start, stop, step).indices(record.length))
        rows = range(first + rows.start, first + rows.stop, rows.step)
        found = {}
        for key in keys:
            if key not in record.keys and key not in record.cameras:
                raise StoreError(
                    f"episode '{record.id}' has no '{key}'; expected one of "
                    f"{', '.join((*record.cameras, *record.keys))}"
                )
            found[key] = self.column(key).read(rows)
        self.check_current()
        return found

    def steps(self, index: int | str) -> Iterator[dict[str, Any]]:
        """Yield an episode's steps as RLDS has them, one frame decoded at a time."""
        episode = self[self.index(index)]
        last = len(episode) - 1
        for place in range(len(episode)):
            observation: dict[str, Any] = {
                camera: frames[place] for camera, frames in episode.videos.items()
            }
            if episode.state is not None:
                observation["state"] = episode.state[place]
            observation |= {key: rows[place] for key, rows in episode.arrays.items()}
            step = {
                "observation": observation,
                "language_instruction": episode.instruction or "",
                "is_first": place == 0,
                "is_last": place == last,
                "is_terminal": place == last and episode.outcome is not None,
                "reward": float(place == last and episode.outcome in ("demo", "success")),
                "discount": 1.0,
            }
            if episode.actions is not None:
                step["action"] = episode.actions[place]
            yield step

    def random_clips(
        self, n: int, frames: int = 16, stride: int = 1, camera: str | None = None, *, seed: int
    ) -> Iterator[ClipAt]:
        """Draw whole clips, every one of the store equally likely; the same for the same seed."""
        spans = np.maximum(self.lengths - (frames - 1) * stride, 0)
        ends = np.cumsum(spans)
        if not len(ends) or not ends[-1]:
            raise StoreError(
                f"{self.url} has no episode of {(frames - 1) * stride + 1} frames; expected one "
                "at least: ask for shorter clips"
            )
        for draw in np.random.default_rng(seed).integers(ends[-1], size=n):
            index = int(np.searchsorted(ends, draw, side="right"))
            start = int(draw - (ends[index] - spans[index]))
            yield ClipAt(index, start, self.clip(index, start, frames, stride, camera))

    @property
    def cached(self) -> Mapping[str, str]:
        """What was written by `write_cached`: key -> hash of the model that made it."""
        return cache.cached_keys(self._objects)

    def read_cached(
        self,
        key: str,
        index: int | str,
        start: int = 0,
        stop: int | None = None,
        *,
        model_hash: str,
    ) -> Array | None:
        """Read what was computed of an episode, None where this model hasn't done so.

        Rows start:stop (n, ...) of an array with a row a frame, else the episode's array whole.
        """
        number = int(self._shown.snapshot.live[self.index(index)])
        found = cache.read_cached(self._shown, key, number, (start, stop), model_hash)
        self.check_current()
        return found

    def copy_cached(self, index: int, target: cache.CacheWriter, into: Snapshot) -> None:
        """Write what was cached of an episode to a store where it has the same number."""
        number = int(self._shown.snapshot.live[index])
        cache.copy_cached(self._shown, number, target, into, int(into.live[index]))

    def refresh(self) -> None:
        """Show what was committed since the store was opened."""
        self._shown = show(self._objects)

    def check_current(self) -> None:
        """Refuse to go on when another store was put in this one's place."""
        self._shown.anchor.check()

    def start(self, index: int) -> int:
        """Row of an episode's first frame in the store's arrays."""
        snapshot = self._shown.snapshot
        return int(snapshot.starts[snapshot.live[index]])

    def __reduce__(self) -> tuple[Any, ...]:
        shown = self._shown
        if not self._objects.named:
            return type(self), (self._objects,)
        if shown.settings is None:
            return _reopened, (type(self), self.url, "", 0, (), ())
        snapshot, generation = shown.snapshot, shown.settings.generation
        count = len(snapshot.ends)
        return _reopened, (
            type(self), self.url, generation, count, snapshot.keys, snapshot.dropped
        )  # fmt: skip


def _reopened(
    kind: type[StoreReader],
    url: str,
    generation: str,
    count: int,
    keys: tuple[str, ...],
    dropped: tuple[int, ...],
) -> StoreReader:
    """Open the same snapshot in another process."""
    shown = _shown_again(url, generation, count, keys, dropped)
    return kind(shown.objects, shown)


@lru_cache(maxsize=8)
def _shown_again(
    url: str, generation: str, count: int, keys: tuple[str, ...], dropped: tuple[int, ...]
) -> Shown:
    """Show a snapshot, once for all that is sent to this process."""
    objects = open_objects(url)
    if not generation:
        return show(objects)
    # Of the ends only their number matters.
    return show(objects, (generation, Snapshot(np.broadcast_to(np.int64(0), count), keys, dropped)))
