"""What a reader shows: one commit, and what of it was read so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from aid_robot.data.ingest.recording import did_you_mean
from aid_robot.data.store import foreign
from aid_robot.data.store.columns import Column, ShardedColumn
from aid_robot.data.store.layout import get_json, read_layout
from aid_robot.data.store.maintenance import finish_swap
from aid_robot.data.store.objects import Objects, replaced
from aid_robot.data.store.records import EpisodeRecord, Records, StoredTexts
from aid_robot.data.store.shards import ShardCache
from aid_robot.data.store.snapshot import Settings, Snapshot, read_snapshot
from aid_robot.errors import StoreError

# Times that a store may be replaced by another while it is being opened.
ATTEMPTS = 5


def show(objects: Objects, pinned: tuple[str, Snapshot] | None = None) -> Shown:
    """Show the last commit, or the one that `pinned` names by generation and counts."""
    for attempt in range(ATTEMPTS):
        finish_swap(objects)
        anchor = objects.anchor()
        try:
            return Shown(objects, pinned)
        except StoreError:
            if attempt == ATTEMPTS - 1 or (anchor.holds() and objects.get("zarr.json") is not None):
                raise
    raise AssertionError("the last attempt returns or raises")


class Shown:
    """A commit, its arrays and its records, each opened when it is asked for."""

    def __init__(self, objects: Objects, pinned: tuple[str, Snapshot] | None = None) -> None:
        self.objects = objects
        self.anchor = objects.anchor()
        root = get_json(objects, "")
        attributes = {} if root is None else root.get("attributes")
        self.attributes: dict[str, Any] = dict(attributes) if isinstance(attributes, dict) else {}
        self.settings: Settings | None = None
        self.shards = ShardCache(objects)
        self.columns: dict[str, Column] = {}
        if "aid_robot" in self.attributes:
            self.settings = Settings.from_json(self.attributes.pop("aid_robot"), objects.url)
            if pinned is not None and pinned[0] != self.settings.generation:
                raise replaced(objects.url)
            self.snapshot = read_snapshot(objects, pinned and pinned[1])
            self.texts = StoredTexts(objects, self.anchor.check)
            self.records: Sequence[EpisodeRecord] = self._own_records(self.snapshot)
        else:
            self.snapshot, self.columns, self.records = foreign.open_foreign(objects)
        self.anchor.check()

    def follow(self, snapshot: Snapshot) -> None:
        """Show a commit of our own; earlier episodes are as they were."""
        tails = {
            column.object_key(self.snapshot.total // column.layout.shard_rows)
            for column in list(self.columns.values())
            if isinstance(column, ShardedColumn)
        }
        for key in tails:
            self.shards.forget(key)
        self.texts.forget(max(0, len(self.snapshot.ends) - 1))
        records = self._own_records(snapshot)
        places: dict[str, int] | None = self.__dict__.get("places")
        if self.snapshot.dropped != snapshot.dropped:
            places = None
        for name in ("ids", "places", "cameras"):
            self.__dict__.pop(name, None)
        if places is not None:
            # One by one: a store that grows must not read all its ids at every commit.
            for index in range(len(self.snapshot.live), len(snapshot.live)):
                places[records[index].id] = index
            self.__dict__["places"] = places
        self.records = records
        # Last, since an interrupt may come at any place, and then all is done again.
        self.snapshot = snapshot

    def reread(self, number: int) -> None:
        """Read an episode's record anew."""
        self.texts.forget(number)
        self.records = self._own_records(self.snapshot)

    def _own_records(self, snapshot: Snapshot) -> Records:
        return Records(self.texts, snapshot.live.tolist(), snapshot.lengths.tolist())

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The episodes' ids, in order."""
        records = self.records
        return tuple(records.ids() if isinstance(records, Records) else [r.id for r in records])

    @cached_property
    def places(self) -> dict[str, int]:
        """Number of each id."""
        return {name: index for index, name in enumerate(self.ids)}

    @cached_property
    def cameras(self) -> Mapping[str, tuple[int, int]]:
        """Camera -> (height, width)."""
        columns = {key: self.column(key) for key in self.snapshot.keys}
        return {
            key: (column.row_shape[0], column.row_shape[1])
            for key, column in columns.items()
            if column.is_camera
        }

    def episode(self, index: int) -> tuple[int, int, tuple[str, ...]]:
        """Give the first row, the length and the cameras of an episode."""
        snapshot, records = self.snapshot, self.records
        start = int(snapshot.starts[snapshot.live[index]])
        if isinstance(records, Records):
            return start, int(snapshot.lengths[index]), records.cameras(index)
        return start, int(snapshot.lengths[index]), records[index].cameras

    def column(self, key: str) -> Column:
        """Open an array."""
        column = self.columns.get(key)
        if column is not None:
            return column
        url, keys = self.objects.url, self.snapshot.keys
        if key not in keys:
            raise StoreError(
                f"{url} has no '{key}'{did_you_mean(key, keys)}; expected one of "
                f"{', '.join(keys) or 'none, it is empty'}"
            )
        layout, rows = read_layout(self.objects, f"data/{key}")
        if rows < self.snapshot.total:
            raise StoreError(
                f"{url}: data/{key} has {rows} rows for {self.snapshot.total} frames; the store "
                "is damaged: restore it from a copy"
            )
        column = ShardedColumn(self.objects, f"data/{key}", layout, self.shards)
        self.columns[key] = column
        return column
