"""Whatever a writer dies of, and wherever: readers see whole episodes, and all committed ones."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from aid_robot.data.episode import Episode
from aid_robot.data.store import EpisodeStore, layout
from aid_robot.data.store.objects import Buffer, LocalObjects, WriteError
from aid_robot.errors import StoreError, StoreFullError
from tests.data.store.episodes import assert_no_remains, assert_same, episode_of

# Places at which a writer is interrupted.
INTERRUPTS = 8


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few rows fill chunks and shards."""
    monkeypatch.setattr(layout, "CHUNK_BYTES", 64)
    monkeypatch.setattr(layout, "CHUNKS_PER_SHARD", 2)


@pytest.fixture
def strike(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, type[BaseException]], None]]:
    """Let the n-th change from now on, and all after it, fail."""
    put, delete = LocalObjects.put, LocalObjects.delete
    left, failure = 10**9, Killed

    def count(path: Path) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            # What a killed process leaves of a file that it was writing.
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(path.name + ".partial").write_bytes(b"half")
            raise failure("struck")

    def counted_put(self: LocalObjects, key: str, parts: Sequence[Buffer]) -> None:
        count(self.root / key)
        put(self, key, parts)

    def counted_delete(self: LocalObjects, key: str) -> None:
        count(self.root / key)
        delete(self, key)

    def arm(after: int, kind: type[BaseException]) -> None:
        nonlocal left, failure
        left, failure = after, kind

    monkeypatch.setattr(LocalObjects, "put", counted_put)
    monkeypatch.setattr(LocalObjects, "delete", counted_delete)
    yield arm
    left = 10**9


BEFORE = [
    episode_of(1, 7, cameras=("image_0", "image_1"), arrays=("joints",)),
    episode_of(2, 4, action=False),
]
AFTER = [
    episode_of(3, 11, cameras=("image_1", "wrist"), arrays=("joints", "force")),
    episode_of(4, 2, cameras=("image_0",)),
    episode_of(5, 9, cameras=("image_0", "wrist"), action=False, arrays=("joints",)),
]


def make(path: Path) -> None:
    with EpisodeStore.create(path, codec="png", shard_frames=4) as store:
        store.extend(BEFORE)


def append_all(store: EpisodeStore) -> None:
    with store.group():
        store.append(AFTER[0])
        store.append(AFTER[1])
    store.append(AFTER[2])


def check(store: EpisodeStore, expected: list[Episode]) -> None:
    assert list(store.ids) == [episode.id for episode in expected]
    for found, episode in zip(store, expected, strict=True):
        assert_same(found, episode)


def abandon(store: EpisodeStore) -> None:
    """Do what the end of the process does: let go of the lock, write nothing."""
    assert store._lock is not None
    store._lock.release()
    store._writer = None


def test_killed_at_every_write(
    tmp_path: Path, strike: Callable[[int, type[BaseException]], None]
) -> None:
    outcomes = set()
    for after in range(10**6):
        path = tmp_path / f"{after}.zarr"
        make(path)
        reader = EpisodeStore.open(path)
        store = EpisodeStore.open(path, "a")
        strike(after, Killed)
        survived = True
        try:
            append_all(store)
        except Killed:
            survived = False
        abandon(store)

        # A reader from before, and one from after, see whole episodes.
        check(reader, BEFORE)
        seen = EpisodeStore.open(path)
        count = len(seen)
        assert count in (2, 4, 5)
        outcomes.add(count)
        check(seen, [*BEFORE, *AFTER][:count])

        strike(10**9, Killed)
        with EpisodeStore.open(path, "a") as store:
            assert len(store) == count
            store.extend(episode for episode in AFTER if episode.id not in store)
            check(store, [*BEFORE, *AFTER])
        check(EpisodeStore.open(path), [*BEFORE, *AFTER])
        check(reader, BEFORE)
        if survived or after % 5 == 0:  # zarr takes its time
            assert_no_remains(path)
        if survived:
            break
    assert outcomes == {2, 4, 5}


def test_failing_at_every_write(
    tmp_path: Path, strike: Callable[[int, type[BaseException]], None]
) -> None:
    """The same writer goes on when there is room again."""
    for after in range(0, 10**6, 3):
        path = tmp_path / f"{after}.zarr"
        make(path)
        with EpisodeStore.open(path, "a") as store:
            strike(after, WriteError)
            with suppress(StoreFullError):
                append_all(store)
            survived = len(store) == 5
            check(EpisodeStore.open(path), [*BEFORE, *AFTER][: len(store)])
            strike(10**9, WriteError)
            store.extend(episode for episode in AFTER if episode.id not in store)
            check(store, [*BEFORE, *AFTER])
        check(EpisodeStore.open(path), [*BEFORE, *AFTER])
        if survived or after % 5 == 0:
            assert_no_remains(path)
        if survived:
            break


def interrupted(action: Callable[[], None], after: int) -> int:
    """Raise KeyboardInterrupt at the n-th line of the store's code, and count the lines to it."""
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        code = frame.f_code
        # Python lets nothing out of a `__del__`.
        if "/data/store/" not in code.co_filename or code.co_name == "__del__":
            return None
        if event == "line":
            lines += 1
            if lines == after:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(None)
    return lines


def test_interrupted_anywhere(tmp_path: Path) -> None:
    """After Ctrl-C the same writer goes on; what was whole is there, what wasn't isn't."""
    path = tmp_path / "count.zarr"
    make(path)
    with EpisodeStore.open(path, "a") as store:
        count = interrupted(lambda: append_all(store), -1)
    assert count > 2000
    for after in np.random.default_rng(0).choice(count, INTERRUPTS, replace=False) + 1:
        path = tmp_path / f"{after}.zarr"
        make(path)
        with EpisodeStore.open(path, "a") as store:
            with pytest.raises(KeyboardInterrupt):
                interrupted(lambda store=store: append_all(store), after)  # type: ignore[misc]
            seen = EpisodeStore.open(path)
            check(seen, [*BEFORE, *AFTER][: len(seen)])
            store.commit()
            store.extend(episode for episode in AFTER if episode.id not in store)
            check(store, [*BEFORE, *AFTER])
        check(EpisodeStore.open(path), [*BEFORE, *AFTER])
        assert_no_remains(path)


def test_interrupted_right_after_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "s.zarr")
    settle, calls = LocalObjects.settle, 0

    def struck(self: LocalObjects) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        settle(self)

    with EpisodeStore.open(tmp_path / "s.zarr", "a") as store:
        monkeypatch.setattr(LocalObjects, "settle", struck)
        with pytest.raises(KeyboardInterrupt):
            store.append(AFTER[0])
        check(store, [*BEFORE, AFTER[0]])
        store.append(AFTER[1])
        check(store, [*BEFORE, *AFTER[:2]])


def test_a_full_disk_is_told_with_what_is_safe(
    tmp_path: Path, strike: Callable[[int, type[BaseException]], None]
) -> None:
    make(tmp_path / "s.zarr")
    with EpisodeStore.open(tmp_path / "s.zarr", "a") as store:
        strike(0, WriteError)
        with pytest.raises(StoreFullError, match=r"at its last commit, with 2 episodes: make room"):
            store.append(AFTER[0])
        strike(10**9, WriteError)


def test_killed_while_dropping_and_annotating(
    tmp_path: Path, strike: Callable[[int, type[BaseException]], None]
) -> None:
    for after in range(10**6):
        path = tmp_path / f"{after}.zarr"
        make(path)
        store = EpisodeStore.open(path, "a")
        strike(after, Killed)
        try:
            store.annotate("e2", outcome="failure", info={"why": "slipped"})
            store.drop(["e1"])
        except Killed:
            abandon(store)
            strike(10**9, Killed)
            seen = EpisodeStore.open(path)
            assert list(seen.ids) == ["e1", "e2"]
            assert seen.records[1].outcome in (None, "failure")
            assert seen.verify(deep=True) == []
        else:
            store.close()
            assert list(EpisodeStore.open(path).ids) == ["e2"]
            assert EpisodeStore.open(path)["e2"].info == {"why": "slipped"}
            break


def test_remains_are_removed_where_nothing_else_comes(tmp_path: Path) -> None:
    make(tmp_path / "s.zarr")
    store = EpisodeStore.open(tmp_path / "s.zarr", "a")
    lost = episode_of(6, 30, cameras=("image_1", "lost"), arrays=("force", "joints"))
    writer = store.record(id="lost").__enter__()
    for place in range(30):
        rows = {name: rows[place] for name, rows in lost.arrays.items()}
        writer.add({name: video[place] for name, video in lost.videos.items()}, **rows)
    abandon(store)
    with EpisodeStore.open(tmp_path / "s.zarr", "a") as store:
        for seed in range(10, 16):
            store.append(episode_of(seed, 5, cameras=("image_0",), action=False))
        store.append(episode_of(16, 5, cameras=("image_0", "image_1"), arrays=("joints",)))
    assert_no_remains(tmp_path / "s.zarr")
    assert "lost" not in EpisodeStore.open(tmp_path / "s.zarr").keys


def test_an_episode_that_cannot_be_read_takes_back_itself_alone(tmp_path: Path) -> None:
    class Broken(episode_of(9, 9).frames.__class__):  # type: ignore[misc]
        def read(self, index: int) -> np.ndarray:
            if index == 6:
                raise StoreError("this frame is damaged")
            return super().read(index)

    good = episode_of(9, 9, cameras=("image_0", "new"), arrays=("joints",))
    frames = Broken(np.asarray(good.videos["new"]))
    bad = Episode(**{**good.__dict__, "videos": {"image_0": good.frames, "new": frames}})
    path = tmp_path / "store.zarr"
    make(path)
    with EpisodeStore.open(path, "a") as store:
        with store.group():
            store.append(AFTER[0])
            with pytest.raises(StoreError, match="this frame is damaged"):
                store.append(bad)
            store.append(AFTER[1])
        check(store, [*BEFORE, *AFTER[:2]])
    assert "new" not in EpisodeStore.open(path).keys
    assert_no_remains(path)
