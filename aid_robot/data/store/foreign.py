"""Stores that other programs wrote in diffusion_policy's convention, to read.

`data/<key>` concatenated over time and `meta/episode_ends`, zarr v2 or v3, with any compressor:
the replay buffers of diffusion_policy and UMI.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from aid_robot.data.frames import MAX_PIXELS
from aid_robot.data.store.columns import Array, Column
from aid_robot.data.store.objects import Objects
from aid_robot.data.store.records import EpisodeRecord
from aid_robot.data.store.snapshot import Snapshot
from aid_robot.errors import StoreError
from aid_robot.extras import require

if TYPE_CHECKING:
    import zarr

# More than a chunk of any recording; zarr allocates a chunk as large as the metadata say.
MAX_CHUNK_BYTES = 2**31
# Smaller than any camera's frames, larger than what else has a last axis of 3.
MIN_SIDE = 16


class ForeignColumn(Column):
    """An array that only zarr itself can read."""

    def __init__(self, key: str, array: zarr.Array[Any], url: str) -> None:
        self.key, self._array, self._url = key, array, url
        self._first = _is_first(array.shape)
        shape = array.shape[1:]
        self.camera = _is_camera(array)
        if self.camera:
            shape = (shape[1], shape[2], 3) if self._first else shape
        self.row_shape = tuple(shape)
        self.dtype = np.dtype(np.uint8) if self.camera else np.dtype(array.dtype)
        self._scale: float | None = None

    @property
    def is_camera(self) -> bool:
        return self.camera

    def read(self, rows: Sequence[int]) -> Array:
        if isinstance(rows, range) and rows.step > 0:
            found = self._read(slice(rows.start, rows.stop, rows.step))
        else:
            parts = [self._read(slice(row, row + 1)) for row in rows]
            empty = np.empty((0, *self._array.shape[1:]), self._array.dtype)
            found = np.concatenate([empty, *parts])
        return self._frames(found) if self.camera else found

    def _read(self, rows: slice) -> Array:
        try:
            return np.asarray(self._array[rows])
        except Exception as error:
            raise StoreError(
                f"{self._url}: data/{self.key} can't be read ({type(error).__name__}: {error}); "
                "the store is damaged, or needs a codec that isn't installed"
            ) from error

    def _frames(self, found: Array) -> Array:
        if self._first:
            found = np.moveaxis(found, 1, 3)
        if found.dtype == np.uint8:
            return np.ascontiguousarray(found)
        if self._scale is None:
            # Floats are in [0, 1] or in [0, 255]; some frames from all over tell which.
            some = np.linspace(0, self._array.shape[0] - 1, 5).astype(int)
            highest = max(float(self._read(slice(row, row + 1)).max()) for row in some)
            self._scale = 255.0 if highest <= 1.0 else 1.0
        scaled: Array = np.rint(found * self._scale).clip(0, 255).astype(np.uint8)
        return scaled


class ForeignRecords(Sequence[EpisodeRecord]):
    """Records of episodes of which nothing is told: their ids are "0", "1" and so on."""

    def __init__(self, lengths: Sequence[int], columns: dict[str, Column], source: str) -> None:
        self._lengths, self._source = lengths, source
        self._cameras = tuple(key for key, column in columns.items() if column.is_camera)
        self._keys = tuple(key for key, column in columns.items() if not column.is_camera)

    def __len__(self) -> int:
        return len(self._lengths)

    @overload
    def __getitem__(self, index: int) -> EpisodeRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[EpisodeRecord]: ...
    def __getitem__(self, index: int | slice) -> EpisodeRecord | list[EpisodeRecord]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return EpisodeRecord(
            id=str(range(len(self))[index]),
            length=int(self._lengths[index]),
            source=self._source,
            cameras=self._cameras,
            keys=self._keys,
        )


def open_foreign(objects: Objects) -> tuple[Snapshot, dict[str, Column], Sequence[EpisodeRecord]]:
    """Find the episodes of another program's store; StoreError where there are none."""
    import zarr

    if not any(objects.exists(name) for name in (".zgroup", ".zmetadata", "zarr.json")):
        raise no_store(objects)
    try:
        group = zarr.open_group(objects.zarr_store(), mode="r")
        meta, data = group["meta"], group["data"]
        ends = meta["episode_ends"] if isinstance(meta, zarr.Group) else None
    except Exception as error:
        raise no_store(objects) from error
    if not isinstance(ends, zarr.Array) or not isinstance(data, zarr.Group):
        raise no_store(objects)
    columns: dict[str, Column] = {}
    total = 0
    for key in sorted(data.keys()):
        array = _opened(data, key, objects.url)
        if array is not None:
            _check_sizes(array, f"{objects.url}: data/{key}")
            columns[key] = ForeignColumn(key, array, objects.url)
            total = min(total or array.shape[0], array.shape[0])
    _check_sizes(ends, f"{objects.url}: meta/episode_ends")
    snapshot = Snapshot(_read_ends(ends, total, objects.url), tuple(columns))
    if not any(column.is_camera for column in columns.values()):
        shapes = {key: column.row_shape for key, column in columns.items()}
        raise StoreError(
            f"{objects.url} has no camera among {shapes}; expected an array (T, H, W, 3) of "
            f"frames, {MIN_SIDE} pixels or more to a side"
        )
    records = ForeignRecords(snapshot.lengths.tolist(), columns, objects.url)
    return snapshot, columns, records


def no_store(objects: Objects) -> StoreError:
    """Say that there is no store."""
    return StoreError(
        f"there is no episode store at '{objects.url}'; expected one made by EpisodeStore.create "
        "or `aid-robot ingest`, or a replay buffer with data/ and meta/episode_ends: check the path"
    )


def _opened(data: zarr.Group, key: str, url: str) -> zarr.Array[Any] | None:
    import zarr

    try:
        found = data[key]
    except Exception as error:
        if "imagecodecs" not in str(error):
            raise StoreError(f"{url}: data/{key} can't be opened ({error})") from error
        require("imagecodecs.numcodecs", "imagecodecs").register_codecs()
        found = data[key]
    return found if isinstance(found, zarr.Array) else None


def _check_sizes(array: zarr.Array[Any], where: str) -> None:
    item = np.dtype(array.dtype).itemsize
    row, chunk = math.prod(array.shape[1:]) * item, math.prod(array.chunks) * item
    if not array.shape or row > 4 * 3 * MAX_PIXELS or chunk > MAX_CHUNK_BYTES:
        raise StoreError(
            f"{where} claims the shape {array.shape} in chunks of {array.chunks}, more than any "
            "recording has: the store is damaged, or made to do harm"
        )
    if np.dtype(array.dtype).hasobject:
        raise StoreError(f"{where} holds Python objects; expected numbers")


def _read_ends(array: zarr.Array[Any], total: int, url: str) -> Array:
    # Chunk by chunk, up to the first that can't be: metadata may claim any number of them.
    parts, last = [np.empty(0, np.int64)], 0
    for start in range(0, array.shape[0], array.chunks[0]):
        try:
            part = np.asarray(array[start : start + array.chunks[0]]).astype(np.int64)
        except Exception as error:
            raise StoreError(f"{url}: meta/episode_ends can't be read ({error})") from error
        if part.ndim != 1 or (np.diff(part, prepend=last) <= 0).any() or part[-1] > total:
            raise StoreError(
                f"{url}: meta/episode_ends {part[:8]}... doesn't increase from episode to episode "
                f"up to the {total} rows of the arrays; the store is damaged: copy it again"
            )
        parts.append(part)
        last = int(part[-1])
    return np.concatenate(parts)


def _is_first(shape: tuple[int, ...]) -> bool:
    """Whether the colours come before the rows of pixels: (T, 3, H, W)."""
    return len(shape) == 4 and shape[1] == 3 and shape[3] != 3


def _is_camera(array: zarr.Array[Any]) -> bool:
    shape, kind = array.shape, np.dtype(array.dtype)
    if len(shape) != 4 or not (kind == np.uint8 or kind.kind == "f"):
        return False
    sides = shape[2:] if _is_first(shape) else shape[1:3]
    return (_is_first(shape) or shape[3] == 3) and min(sides) >= MIN_SIDE
