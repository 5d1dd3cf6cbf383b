"""Everything that changes a store's episodes, up to the commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from aid_robot.data.episode import Episode
from aid_robot.data.store.columns import ColumnWriter
from aid_robot.data.store.draft import Draft
from aid_robot.data.store.layout import (
    ArrayLayout,
    checked_key,
    get_json,
    put_json,
    read_layout,
    shape_of,
    size_text,
)
from aid_robot.data.store.objects import Objects, WriteError
from aid_robot.data.store.records import (
    CHUNK,
    KEY,
    EpisodeRecord,
    chunk_name,
    encode_texts,
    read_texts,
    records_json,
)
from aid_robot.data.store.snapshot import COMMIT, Settings, Snapshot, put_ends, read_snapshot
from aid_robot.errors import StoreError, StoreFullError

# A group of episodes is committed when it has as many bytes, or was begun as many seconds ago.
GROUP_BYTES = 64 * 2**20
GROUP_SECONDS = 10.0
# Pixels to a side, for what is told ahead of the first frame.
MAX_SIDE = 8192

Result = TypeVar("Result")
Array = npt.NDArray[Any]


class Writer:
    """Append episodes to a store whose lock is held.

    Frames and arrays are written past the committed end, then the records, then the ends, and last
    the metadata of `meta/episode_ends`, which are the commit. Whatever is interrupted before that
    leaves remains that no reader sees and the next writer removes.
    """

    def __init__(self, objects: Objects, settings: Settings, snapshot: Snapshot) -> None:
        self._objects, self._settings = objects, settings
        self.committed = snapshot
        self._columns: dict[str, ColumnWriter] | None = None
        # Episodes that wait for the commit: id -> record and end.
        self._pending: dict[str, tuple[str, int]] = {}
        self._bytes = 0
        self._since = 0.0
        self._draft: Draft | None = None
        self.guarded(self._prepare)

    @property
    def end(self) -> int:
        """Frames up to the last episode, committed or not."""
        last = next(reversed(self._waiting().values()), None)
        return self.committed.total if last is None else last[1]

    @property
    def pending(self) -> int:
        """Episodes that wait for the commit."""
        return len(self._waiting())

    def holds(self, name: object) -> bool:
        """Whether an episode of this id waits for the commit."""
        return name in self._waiting()

    @property
    def group_is_full(self) -> bool:
        """Whether what waits is worth a commit of its own."""
        late = time.monotonic() - self._since > GROUP_SECONDS
        return bool(self._waiting()) and (late or self._bytes > GROUP_BYTES)

    def guarded(self, action: Callable[[], Result]) -> Result:
        """Do what writes; where that fails, go back to the last commit and say so."""
        try:
            return action()
        except WriteError as error:
            self.roll_back()
            raise StoreFullError(
                f"{self._objects.url}: writing failed ({error}); the store is whole and readable "
                f"at its last commit, with {len(self.committed.live)} episodes: make room, then "
                "append again what came after"
            ) from error

    def roll_back(self) -> None:
        """Go back to the last commit, whatever state the writing was left in."""
        self._pending, self._bytes, self._draft = {}, 0, None
        self._columns = None
        # Where even this fails, the next use or the next writer removes the remains.
        with suppress(WriteError, StoreError):
            self.committed = read_snapshot(self._objects)
            self._prepare()

    def close(self) -> None:
        """Commit what waits; an episode that is still being recorded is given up."""
        self.abandon()
        self.commit()

    def begin(self) -> Draft:
        """Start an episode at the end of the store."""
        self._check_free()
        if not self._waiting():
            self._since = time.monotonic()
        self._draft = Draft(self, self.end, tuple(self._prepared()))
        return self._draft

    def abandon(self) -> None:
        """Take back the episode that was begun, if it wasn't finished."""
        draft = self._draft
        if draft is None:
            return
        try:
            if draft.start == self.end:
                self.guarded(draft.take_back)
        except BaseException:
            # Neither the episode nor its removal is whole: what was committed is.
            self.roll_back()
            raise
        self._draft = None

    def is_open(self, draft: Draft) -> bool:
        """Whether an episode is still being written, which a failed write ends."""
        return self._draft is draft

    def _check_free(self) -> None:
        if self._draft is not None:
            raise StoreError(
                f"{self._objects.url}: an episode is being recorded; finish it before the next"
            )

    def discard(self, key: str) -> None:
        """Remove an array that only an abandoned episode had."""
        self._prepared().pop(key)
        self._objects.delete_folder(f"data/{key}")

    def add(self, episode: Episode, record: EpisodeRecord) -> None:
        """Write an episode and its record; it counts from the next commit on."""
        text = record.to_text()
        self._check_free()
        try:
            draft = self.begin()
            for camera, frames in episode.videos.items():
                draft.add_video(camera, frames)
            named = {"action": episode.actions, "state": episode.state, **episode.arrays}
            for key, rows in named.items():
                if rows is not None:
                    draft.add_rows(key, np.asarray(rows))
            self.finish(record.id, text, len(episode))
        except BaseException:
            self.abandon()
            raise

    def finish(self, name: str, text: str, length: int) -> None:
        """Let the episode that was begun, of this id and length, wait for the commit."""
        draft = self._draft
        assert draft is not None
        # Its end moves the store's: from here on `abandon` keeps it.
        self._pending[name] = text, draft.start + length
        self._draft = None

    def add_cameras(self, cameras: Mapping[str, tuple[int, int]]) -> None:
        """Make arrays for cameras of a height and width."""
        for key, (height, width) in cameras.items():
            if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
                raise StoreError(
                    f"camera '{key}' is given as {(height, width)}; expected (height, width) of "
                    f"1 to {MAX_SIDE}"
                )
            self.column(key, self.frames_layout((height, width)))
        self.commit(tuple(cameras))

    def column(self, key: str, layout: ArrayLayout) -> ColumnWriter:
        """Find the array for rows of this layout, or make it."""
        columns = self._prepared()
        column = columns.get(key)
        if column is None:
            checked_key(key)
            self._remove_remains(key)
            layout = replace(layout, separator=self._objects.separator)
            column = columns[key] = ColumnWriter(
                self._objects, f"data/{key}", layout, self.end, declared=-1
            )
        elif not column.layout.same_rows(layout) or column.layout.is_camera != layout.is_camera:
            remedy = "export them with one size and type"
            if column.layout.is_camera and layout.is_camera:
                size = size_text(column.layout.row_shape)
                remedy = f"resize them first, or ingest with --size {size}"
            raise StoreError(
                f"{self._objects.url}: '{key}' is {layout.describe()} in this episode, but the "
                f"store holds {column.layout.describe()}; expected one size throughout: {remedy}"
            )
        return column

    def frames_layout(self, size: tuple[int, int]) -> ArrayLayout:
        """Lay out a camera as the store's settings say."""
        return ArrayLayout.of_frames(size, self._settings.codec, self._settings.shard_frames)

    def count(self, data: int) -> None:
        """Take note of so many bytes that wait for the commit."""
        self._bytes += data

    def commit(self, keys: Iterable[str] = ()) -> None:
        """Make what waits, and arrays of these names, part of the store."""
        self.guarded(lambda: self._commit(tuple(keys)))

    def _commit(self, keys: Sequence[str]) -> None:
        old, columns = self.committed, self._prepared()
        waiting = self._waiting()
        if not waiting and set(keys) <= set(old.keys):
            return
        self._check_free()
        for column in columns.values():
            column.limit = self.end
            column.flush()
            column.declare(self.end)
        new = [end for _, end in waiting.values()]
        ends = np.concatenate([old.ends, np.asarray(new, np.int64)])
        self._put_records([text for text, _ in waiting.values()])
        put_ends(self._objects, ends, len(old.ends))
        self._put_commit(Snapshot(ends, tuple(columns), old.dropped))
        self._pending, self._bytes = {}, 0

    def drop(self, numbers: Sequence[int]) -> None:
        """Commit that some episodes no longer count."""
        dropped = tuple(sorted({*self.committed.dropped, *numbers}))
        self.guarded(lambda: self._put_commit(replace(self.committed, dropped=dropped)))

    def rewrite(self, number: int, text: str) -> None:
        """Give a committed episode another record."""
        chunk, place = divmod(number, CHUNK)
        texts = read_texts(self._objects, chunk)
        texts[place] = text
        self.guarded(lambda: self._objects.put(chunk_name(chunk), [encode_texts(texts)]))

    def _waiting(self) -> dict[str, tuple[str, int]]:
        # An interrupt may have come between a commit and its clearing of what it took in.
        if self._pending and next(iter(self._pending.values()))[1] <= self.committed.total:
            self._pending, self._bytes = {}, 0
        return self._pending

    def _put_commit(self, snapshot: Snapshot) -> None:
        self._objects.settle()
        try:
            put_json(self._objects, COMMIT, snapshot.to_json())
        except WriteError:
            # A remote store may have written it and lost the answer.
            found = read_snapshot(self._objects)
            if found.to_json() != snapshot.to_json():
                raise
        self.committed = snapshot
        self._objects.settle()

    def _put_records(self, texts: Sequence[str]) -> None:
        first = len(self.committed.ends)
        chunk, kept = divmod(first, CHUNK)
        merged = [*(read_texts(self._objects, chunk)[:kept] if kept else []), *texts]
        put_json(self._objects, KEY, records_json(first + len(texts)))
        for start in range(0, len(merged), CHUNK):
            data = encode_texts(merged[start : start + CHUNK])
            self._objects.put(chunk_name(chunk + start // CHUNK), [data])

    def _prepared(self) -> dict[str, ColumnWriter]:
        self._prepare()
        assert self._columns is not None
        return self._columns

    def _prepare(self) -> None:
        """Open the arrays, and remove what lies past the commit."""
        if self._columns is not None:
            return
        columns = {}
        for key in self.committed.keys:
            layout, rows = read_layout(self._objects, f"data/{key}")
            if rows < self.committed.total:
                raise StoreError(
                    f"{self._objects.url}: data/{key} has {rows} rows for {self.committed.total} "
                    "committed frames; the store is damaged: restore it from a copy"
                )
            total = self.committed.total
            columns[key] = ColumnWriter(self._objects, f"data/{key}", layout, total, rows)
            if rows > total:
                columns[key].reclaim()
        self._reclaim_records()
        self._columns = columns

    def _reclaim_records(self) -> None:
        count = len(self.committed.ends)
        metadata = get_json(self._objects, KEY) or {}
        declared = shape_of(metadata.get("shape"), f"{self._objects.url}: {KEY}")[0]
        if declared <= count:
            return
        chunk, kept = divmod(count, CHUNK)
        if kept:
            texts = read_texts(self._objects, chunk)[:kept]
            self._objects.put(chunk_name(chunk), [encode_texts(texts)])
        for name in self._objects.names(f"{KEY}/c"):
            if name.isdecimal() and int(name) * CHUNK >= count:
                self._objects.delete(chunk_name(int(name)))
        put_json(self._objects, KEY, records_json(count))

    def _remove_remains(self, key: str) -> None:
        """Clear the place of an array whose first writer didn't get to its commit."""
        metadata = get_json(self._objects, f"data/{key}")
        if metadata is None:
            return
        if ArrayLayout.from_json(metadata, f"{self._objects.url}: data/{key}") is None:
            raise StoreError(
                f"{self._objects.url}: data/{key} was made by another program; expected no such "
                "array: move it elsewhere, or give the episode's array another name"
            )
        self._objects.delete_folder(f"data/{key}")


def check_names(record: EpisodeRecord) -> None:
    """Refuse an id or names of arrays that can't be, or that are given twice."""
    if not record.id:
        raise StoreError("an episode has no id; expected a text that no other episode has")
    names = (*record.cameras, *record.keys)
    for name in names:
        checked_key(name)
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise StoreError(
            f"episode '{record.id}' has '{min(twice)}' both as a camera and as an array; expected "
            "one meaning a name: rename one"
        )
