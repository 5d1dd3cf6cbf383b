"""What models computed of episodes: latents, embeddings and the like, beside the recorded data.

`cache/<key>` is a zarr array with a row a frame, or a row an episode; its attributes name the
model. It isn't part of a commit: what is missing can be computed again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aid_robot.data.store.columns import Array, ColumnWriter, ShardedColumn
from aid_robot.data.store.layout import (
    TYPES,
    ArrayLayout,
    checked_key,
    get_json,
    group_json,
    put_json,
    read_layout,
)
from aid_robot.data.store.objects import Objects
from aid_robot.data.store.snapshot import Snapshot
from aid_robot.errors import StoreError

if TYPE_CHECKING:
    from aid_robot.data.store.shown import Shown

FOLDER = "cache"
Per = Literal["frame", "episode"]


class CacheWriter:
    """Write cached arrays, in any order of the episodes."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._columns: dict[str, ColumnWriter] = {}

    def write(
        self, snapshot: Snapshot, key: str, number: int, array: Array, model_hash: str, per: Per
    ) -> None:
        """Write the rows of an episode; what another model wrote under the key is removed."""
        checked_key(key)
        start = int(snapshot.starts[number])
        length = int(snapshot.ends[number]) - start
        if array.dtype.name not in TYPES:
            raise StoreError(f"'{key}' holds {array.dtype}; expected numbers or booleans")
        if per == "frame" and (not array.ndim or len(array) != length):
            raise StoreError(
                f"'{key}' has shape {array.shape} for an episode of {length} frames; expected a "
                "row a frame, or per='episode' for one array an episode"
            )
        rows = array if per == "frame" else array[None]
        limit = snapshot.total if per == "frame" else len(snapshot.ends)
        attributes = {"model_hash": model_hash, "per": per}
        layout = ArrayLayout.of_rows(rows, single=True, attributes=attributes)
        column = self._column(key, layout, limit)
        for place, row in enumerate(rows):
            at = (start if per == "frame" else number) + place
            column.put_chunk(at, layout.codec.encode(row[None]))

    def flush(self) -> None:
        """Write what is held in memory."""
        for column in self._columns.values():
            column.flush()
            column.declare(column.limit)

    def _column(self, key: str, layout: ArrayLayout, limit: int) -> ColumnWriter:
        layout = replace(layout, separator=self._objects.separator)
        column = self._columns.get(key)
        if column is None:
            column = _existing(self._objects, key, limit)
        if column is None or column.layout != layout:
            if column is not None:
                self._objects.delete_folder(f"{FOLDER}/{key}")
            elif get_json(self._objects, FOLDER) is None:
                put_json(self._objects, FOLDER, group_json({}))
            column = ColumnWriter(self._objects, f"{FOLDER}/{key}", layout, limit, -1)
        column.limit = limit
        self._columns[key] = column
        return column


def read_cached(
    shown: Shown, key: str, number: int, rows: tuple[int, int | None], model_hash: str
) -> Array | None:
    """Read the rows start, stop of what a model computed of an episode, None where it didn't."""
    metadata = get_json(shown.objects, f"{FOLDER}/{checked_key(key)}")
    if metadata is None:
        return None
    where = f"{shown.objects.url}: {FOLDER}/{key}"
    layout = ArrayLayout.from_json(metadata, where)
    if layout is None or layout.chunk_rows != 1:
        raise StoreError(f"{where} was not written by write_cached; expected another key")
    if layout.attributes.get("model_hash") != model_hash:
        return None
    column = ShardedColumn(shown.objects, f"{FOLDER}/{key}", layout, shown.shards)
    wanted = range(number, number + 1)
    if layout.attributes.get("per") != "episode":
        start, end = int(shown.snapshot.starts[number]), int(shown.snapshot.ends[number])
        inside = range(*slice(*rows).indices(end - start))
        wanted = range(start + inside.start, start + inside.stop)
    chunks = column.chunks(wanted)
    if None in chunks:
        # The shard may have been written anew since it was opened.
        for shard in {row // layout.shard_chunks for row in wanted}:
            shown.shards.forget(column.object_key(shard))
        chunks = column.chunks(wanted)
    if None in chunks:
        return None
    found = column.decoded(chunks, wanted)
    return found[0] if layout.attributes.get("per") == "episode" else found


def cached_keys(objects: Objects) -> dict[str, str]:
    """Name the cached arrays, and the hash of the model of each."""
    found = {}
    for key in sorted(objects.names(FOLDER)):
        metadata = None if key == "zarr.json" else get_json(objects, f"{FOLDER}/{key}")
        attributes: Any = {} if metadata is None else metadata.get("attributes")
        if isinstance(attributes, dict) and isinstance(attributes.get("model_hash"), str):
            found[key] = attributes["model_hash"]
    return found


def copy_cached(source: Shown, number: int, target: CacheWriter, into: Snapshot, at: int) -> None:
    """Take over what was computed of an episode into another store."""
    for key, model_hash in cached_keys(source.objects).items():
        found = read_cached(source, key, number, (0, None), model_hash)
        if found is not None:
            layout, _ = read_layout(source.objects, f"{FOLDER}/{key}")
            per: Per = "episode" if layout.attributes.get("per") == "episode" else "frame"
            target.write(into, key, at, np.asarray(found), model_hash, per)


def _existing(objects: Objects, key: str, limit: int) -> ColumnWriter | None:
    metadata = get_json(objects, f"{FOLDER}/{key}")
    if metadata is None:
        return None
    layout, rows = read_layout(objects, f"{FOLDER}/{key}")
    return ColumnWriter(objects, f"{FOLDER}/{key}", layout, limit, rows)
