"""Where clips are read from: a store, or episodes at hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy.typing as npt

from aid_robot.data.episode import Episode, UInt8Array
from aid_robot.data.store import EpisodeRecord
from aid_robot.data.store.reader import StoreReader

Rows = npt.NDArray[Any]


class Source(Protocol):
    """Episodes of which any part can be read, also in another process."""

    def __len__(self) -> int: ...

    def record(self, index: int) -> EpisodeRecord:
        """Say what an episode is."""

    def frames(self, index: int, camera: str, start: int, count: int, stride: int) -> UInt8Array:
        """Decode every `stride`-th frame of a camera, (count, H, W, 3)."""

    def actions(self, index: int, start: int, stop: int) -> Rows:
        """Read actions (n, 7) of an episode that has them."""

    def cached(self, index: int, key: str, start: int, stop: int, model_hash: str) -> Rows | None:
        """Read rows that a model computed, None where it didn't."""


class EpisodeSource:
    """Episodes at hand, whose frames are decoded when they are asked for."""

    def __init__(self, episodes: Iterable[Episode]) -> None:
        self._episodes = list(episodes)
        self._records = [EpisodeRecord.of(episode, len(episode)) for episode in self._episodes]

    def __len__(self) -> int:
        return len(self._episodes)

    def record(self, index: int) -> EpisodeRecord:
        return self._records[index]

    def frames(self, index: int, camera: str, start: int, count: int, stride: int) -> UInt8Array:
        video = self._episodes[index].videos[camera]
        return video[start : start + (count - 1) * stride + 1 : stride]

    def actions(self, index: int, start: int, stop: int) -> Rows:
        actions = self._episodes[index].actions
        assert actions is not None
        return actions[start:stop]

    def cached(self, index: int, key: str, start: int, stop: int, model_hash: str) -> Rows | None:
        rows = self._episodes[index].arrays.get(key)
        return None if rows is None else rows[start:stop]


class StoreSource:
    """The episodes of a store, as they were when it was opened."""

    def __init__(self, store: StoreReader) -> None:
        self._store = store

    def __len__(self) -> int:
        return len(self._store)

    def record(self, index: int) -> EpisodeRecord:
        return self._store.records[index]

    def frames(self, index: int, camera: str, start: int, count: int, stride: int) -> UInt8Array:
        return self._store.clip(index, start, count, stride, camera)

    def actions(self, index: int, start: int, stop: int) -> Rows:
        return self._store.read(index, ["action"], start, stop)["action"]

    def cached(self, index: int, key: str, start: int, stop: int, model_hash: str) -> Rows | None:
        return self._store.read_cached(key, index, start, stop, model_hash=model_hash)


def open_source(episodes: StoreReader | Sequence[Episode]) -> Source:
    """Read from a store, or from episodes at hand."""
    return StoreSource(episodes) if isinstance(episodes, StoreReader) else EpisodeSource(episodes)
