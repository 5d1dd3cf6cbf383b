"""The store of episodes: what the rest of the package, and its users, work with."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from aid_robot.data.episode import Episode
from aid_robot.data.store import maintenance
from aid_robot.data.store.cache import CacheWriter, Per
from aid_robot.data.store.codecs import JpegCodec, PngCodec
from aid_robot.data.store.lock import WriterLock, lock_writer
from aid_robot.data.store.objects import open_objects
from aid_robot.data.store.reader import StoreReader
from aid_robot.data.store.recorder import EpisodeWriter
from aid_robot.data.store.records import EpisodeRecord
from aid_robot.data.store.report import Problem, StoreInfo, describe, verify
from aid_robot.data.store.snapshot import Settings, make_store
from aid_robot.data.store.split import By, split_episodes
from aid_robot.data.store.writer import Writer, check_names
from aid_robot.errors import StoreError

if TYPE_CHECKING:
    from zarr.abc.store import Store


class EpisodeStore(StoreReader):
    """Recorded episodes in a zarr v3 hierarchy: one writer, any number of readers.

    `store[3]` and `store["id"]` are episodes whose frames stay in the store until they are asked
    for; `store.clip` is the fast way to some of the frames.

        with EpisodeStore.create("store.zarr") as store:
            store.append(episode)
        frames = EpisodeStore.open("store.zarr").clip(0, start=4, frames=16)
    """

    _lock: WriterLock | None = None
    _writer: Writer | None = None

    @classmethod
    def create(
        cls,
        url: str | os.PathLike[str] | Store,
        *,
        cameras: Mapping[str, tuple[int, int]] | None = None,
        codec: Literal["jpeg", "png"] = "jpeg",
        quality: int = 95,
        shard_frames: int = 256,
        overwrite: bool = False,
        attributes: Mapping[str, Any] | None = None,
    ) -> EpisodeStore:
        """Make an empty store and open it for writing.

        Args:
            url: A local path, any URL that obstore or fsspec know, or a zarr store.
            cameras: Name -> (height, width); what isn't named gets its size from the first frame.
            codec: How a frame is compressed; "png" is lossless, four times larger, and slower.
            quality: Of the JPEGs, 1 to 100.
            shard_frames: Frames to an object.
            overwrite: Whether a store that is there may be deleted.
            attributes: JSON that belongs to the whole store.
        """
        if codec not in ("jpeg", "png"):
            raise StoreError(f"codec is '{codec}'; expected 'jpeg' or 'png'")
        if not 1 <= quality <= 100 or not 1 <= shard_frames <= 2**16:
            raise StoreError(
                f"quality is {quality} and shard_frames {shard_frames}; expected 1 to 100, and 1 "
                "to 65536"
            )
        settings = Settings(JpegCodec(quality) if codec == "jpeg" else PngCodec(), shard_frames)
        objects = open_objects(url)
        lock = lock_writer(objects)
        try:
            maintenance.make_room(objects, overwrite)
            make_store(objects, settings, attributes or {})
            store = cls(objects)
            store._begin(lock)
            if cameras:
                store._writing.add_cameras(cameras)
                store._follow()
        except BaseException:
            lock.release()
            raise
        return store

    @classmethod
    def open(
        cls,
        url: str | os.PathLike[str] | Store,
        mode: Literal["r", "a"] = "r",
        *,
        break_lock: bool = False,
    ) -> EpisodeStore:
        """Open a store to read, or with mode "a" to write as well.

        A second writer gets StoreLockedError. Use it as a context manager, or call `close`.
        `break_lock` takes the lock of a remote store from a writer that was killed.
        """
        if mode not in ("r", "a"):
            raise StoreError(f"mode is '{mode}'; expected 'r' to read or 'a' to write")
        objects = open_objects(url)
        store = cls(objects)
        if mode == "a":
            if store._shown.settings is None:
                raise StoreError(
                    f"{objects.url} was written by another program and can only be read; expected "
                    "a store made by EpisodeStore.create: merge it into one"
                )
            lock = lock_writer(objects, break_lock=break_lock)
            try:
                maintenance.clear_beside(objects)
                store.refresh()
                store._begin(lock)
            except BaseException:
                lock.release()
                raise
        return store

    def _begin(self, lock: WriterLock) -> None:
        settings = self._shown.settings
        assert settings is not None
        self._writer = Writer(self._objects, settings, self._shown.snapshot)
        self._pid = os.getpid()
        self._lock = lock
        self._cache = CacheWriter(self._objects)
        self._mutex = threading.RLock()
        self._depth = 0

    def __contains__(self, name: object) -> bool:
        waits = self._writer is not None and self._writer.holds(name)
        return waits or super().__contains__(name)

    # Episodes

    def append(self, episode: Episode) -> int:
        """Add an episode, whole or not at all, and say its number."""
        writer = self._writing
        with self._mutex:
            record = EpisodeRecord.of(episode, len(episode))
            record = self.checked_record(record, record.cameras, record.keys)
            try:
                writer.add(episode, record)
            finally:
                self._follow()
            return self._added()

    def extend(self, episodes: Iterable[Episode]) -> list[int]:
        """Add episodes, committed in groups; those before a bad one stay."""
        with self.group():
            return [self.append(episode) for episode in episodes]

    @contextmanager
    def group(self) -> Iterator[None]:
        """Commit the episodes that are appended in the block a group at a time, which is faster.

        An episode that can't be appended takes back itself alone.
        """
        writer = self._writing
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth and writer.pending:
                self._commit()

    def commit(self) -> None:
        """Commit what was appended within `group`, and what was cached."""
        self._commit()
        self._writing.guarded(self._cache.flush)

    def _commit(self) -> None:
        writer = self._writing
        with self._mutex:
            try:
                writer.commit()
            finally:
                self._follow()

    def record(
        self,
        *,
        id: str,
        instruction: str | Sequence[str] | None = None,
        fps: float | None = None,
        **fields: Any,
    ) -> EpisodeWriter:
        """Write an episode while it happens; `fields` are outcome, source, scene, notes and info.

        with store.record(id="pick-7", instruction="pick the cup", fps=5) as episode:
            episode.add({"image_0": frame}, action=action)
        """
        texts = (instruction,) if isinstance(instruction, str) else tuple(instruction or ())
        record = EpisodeRecord(id, 0).changed({"instructions": texts, "fps": fps, **fields})
        self.checked_record(record, (), ()).to_text()
        return EpisodeWriter(self, self._writing, record)

    def checked_record(
        self, record: EpisodeRecord, cameras: Sequence[str], keys: Sequence[str]
    ) -> EpisodeRecord:
        """Refuse an episode that the store can't take, before anything is written."""
        if record.id in self:
            raise StoreError(
                f"{self.url} has an episode '{record.id}' already; expected a new id: rename one, "
                "or drop the old one first"
            )
        record = replace(record, cameras=tuple(cameras), keys=tuple(keys))
        check_names(record)
        return record

    def finish_recording(self, record: EpisodeRecord, length: int) -> None:
        """Commit what an EpisodeWriter has written."""
        with self._mutex:
            self._writing.finish(record.id, replace(record, length=length).to_text(), length)
            self._added()

    def annotate(self, index: int | str, **fields: Any) -> EpisodeRecord:
        """Change what is known of an episode: outcome, instructions, fps, scene, notes, info.

        `info` is merged with what is there. Readers see it when they next read the record.
        """
        writer = self._writing
        with self._mutex:
            self._commit()
            index = self.index(index)
            record = self.records[index].changed(fields)
            number = int(self._shown.snapshot.live[index])
            writer.rewrite(number, record.to_text())
            self._shown.reread(number)
        return record

    def drop(self, ids: Iterable[str | int]) -> None:
        """Let episodes no longer count; `compact` frees their space."""
        writer = self._writing
        with self._mutex:
            self._commit()
            numbers = {self.index(name) for name in ids}
            writer.drop([int(self._shown.snapshot.live[number]) for number in numbers])
            self._follow()

    def write_cached(
        self,
        key: str,
        index: int | str,
        array: npt.NDArray[Any],
        *,
        model_hash: str,
        per: Per = "frame",
    ) -> None:
        """Keep what a model computed of an episode: a row a frame, or one array (per="episode").

        A key holds the work of one model: writing under another hash removes what was there.
        It is safe from `commit` or `close` on.
        """
        writer = self._writing
        with self._mutex:
            self._commit()
            number = int(self._shown.snapshot.live[self.index(index)])
            shown = self._shown.snapshot
            writer.guarded(
                lambda: self._cache.write(shown, key, number, np.asarray(array), model_hash, per)
            )

    def read_cached(
        self,
        key: str,
        index: int | str,
        start: int = 0,
        stop: int | None = None,
        *,
        model_hash: str,
    ) -> npt.NDArray[Any] | None:
        if self._writer is not None:
            self._writer.guarded(self._cache.flush)
        return super().read_cached(key, index, start, stop, model_hash=model_hash)

    # The whole store

    def compact(self, target: str | os.PathLike[str] | Store | None = None) -> None:
        """Write the store anew without dropped episodes, to another place or in its own.

        In its own place (local stores) it needs room for the copy, and readers that are open get a
        StoreError that asks them to `refresh`.
        """
        if self._writer is not None:
            self.commit()
        if target is not None:
            maintenance.copy_store(self, target)
            return
        _, lock = self._writing, self._lock
        assert lock is not None
        maintenance.compact_in_place(self)
        self.refresh()
        self._begin(lock)

    def take_cached(self, source: StoreReader, index: int) -> None:
        """Copy what was cached of the episode of this number, which both stores have."""
        writer, shown = self._writing, self._shown.snapshot
        writer.guarded(lambda: source.copy_cached(index, self._cache, shown))

    def merge(
        self, other: EpisodeStore | str | os.PathLike[str], *, skip_existing: bool = False
    ) -> list[int]:
        """Append the episodes of another store and say their numbers.

        Frames are copied as they are stored where codec and size agree. An id that is here already
        is refused before anything is written, or left out.
        """
        source = other if isinstance(other, StoreReader) else EpisodeStore.open(other)
        common = [name for name in source.ids if name in self]
        if common and not skip_existing:
            raise StoreError(
                f"{self.url} and {source.url} both have '{common[0]}' and {len(common) - 1} other "
                "ids; expected different ones: give skip_existing=True to keep those here"
            )
        left_out = set(common)
        return self.extend(source[name] for name in source.ids if name not in left_out)

    def split(
        self, fractions: Mapping[str, float], by: By = "hash", *, seed: int = 0
    ) -> dict[str, list[int]]:
        """Divide the episodes: split({"train": 0.9, "val": 0.1})["val"] are numbers.

        By "hash" of the id an episode stays on its side when others are added; by "scene" so does
        a scene, whole; by "episode" the fractions are exact.
        """
        return split_episodes(self, fractions, by, seed)

    def verify(self, deep: bool = False) -> list[Problem]:
        """Look for damage; `deep` decodes everything."""
        return verify(self, deep)

    def info(self) -> StoreInfo:
        """Count what is in the store; prints as a table."""
        return describe(self)

    def refresh(self) -> None:
        # A writer shows its own commits.
        if self._writer is None or not self._shown.anchor.holds():
            super().refresh()

    def close(self) -> None:
        """Commit what waits, and let others write."""
        if self._writer is None or self._pid != os.getpid():
            return
        try:
            self._writer.close()
            self._writer.guarded(self._cache.flush)
        finally:
            self._follow()
            self._writer = None
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> EpisodeStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _writing(self) -> Writer:
        if self._writer is None:
            raise StoreError(
                f"{self.url} is open for reading; expected EpisodeStore.open(url, mode='a')"
            )
        if self._pid != os.getpid():
            raise StoreError(
                f"{self.url} was opened for writing by process {self._pid}, this is its child "
                f"{os.getpid()}: write in the parent alone"
            )
        return self._writer

    def _follow(self) -> None:
        """Show what the writer committed."""
        if self._writer is not None and self._writer.committed is not self._shown.snapshot:
            self._shown.follow(self._writer.committed)

    def _added(self) -> int:
        writer = self._writing
        index = len(self) + writer.pending - 1
        if not self._depth or writer.group_is_full:
            self._commit()
        return index
