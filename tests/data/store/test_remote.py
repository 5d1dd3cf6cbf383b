"""Stores that are no local folder: the same class, the same arrays."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore, ObjectStore

from aid_robot.data.store import EpisodeStore
from aid_robot.errors import StoreError, StoreFullError, StoreLockedError
from tests.data.store.episodes import assert_same, episode_of

EPISODES = [
    episode_of(1, 7, cameras=("image_0", "wrist"), arrays=("joints",)),
    episode_of(2, 5, action=False),
    episode_of(3, 9),
]
_numbers = itertools.count()


@pytest.fixture
def url() -> str:
    pytest.importorskip("fsspec")
    return f"memory://aid-robot-tests/{next(_numbers)}.zarr"


def test_a_url_of_fsspec(url: str) -> None:
    with EpisodeStore.create(url, codec="png", shard_frames=4) as store:
        store.append(EPISODES[0])
        reader = EpisodeStore.open(url)
        store.extend(EPISODES[1:])
        store.annotate(0, outcome="success")
        store.write_cached("latents", 0, np.ones((7, 2)), model_hash="m")
        store.drop(["e2"])
    assert [episode.id for episode in reader] == ["e1"]
    store = EpisodeStore.open(url)
    assert list(store.ids) == ["e1", "e3"]
    assert_same(store["e3"], EPISODES[2])
    np.testing.assert_array_equal(store.clip("e3", 1, 3, 2), EPISODES[2].frames[1:7:2])
    assert store.records[0].outcome == "success"
    cached = store.read_cached("latents", 0, model_hash="m")
    np.testing.assert_array_equal(cached, np.ones((7, 2)))
    assert store.verify(deep=True) == []
    assert_same(pickle.loads(pickle.dumps(store))["e3"], EPISODES[2])


@pytest.mark.parametrize("kind", ["memory", "obstore"])
def test_a_zarr_store_that_the_caller_made(tmp_path: Path, kind: str) -> None:
    made: Any
    if kind == "memory":
        made = MemoryStore()
    else:
        obstore = pytest.importorskip("obstore.store")
        made = ObjectStore(obstore.LocalStore(tmp_path))
    with EpisodeStore.create(made, codec="png") as store:
        store.extend(EPISODES)
    store = EpisodeStore.open(made)
    for found, episode in zip(store, EPISODES, strict=True):
        assert_same(found, episode)
    assert zarr.open_group(made, mode="r")["meta/episode_ends"][:].tolist() == [7, 12, 21]


def test_icechunk_makes_several_writers_safe(tmp_path: Path) -> None:
    icechunk = pytest.importorskip("icechunk")
    repository = icechunk.Repository.create(icechunk.in_memory_storage())
    session = repository.writable_session("main")
    with EpisodeStore.create(session.store, codec="png") as store:
        store.append(EPISODES[0])
    session.commit("one episode")
    sessions = [repository.writable_session("main") for _ in range(2)]
    for number, session in enumerate(sessions, 1):
        with EpisodeStore.open(session.store, "a") as store:
            store.append(EPISODES[number])
    sessions[0].commit("another")
    with pytest.raises(icechunk.ConflictError):
        sessions[1].commit("and another, at the same time")
    store = EpisodeStore.open(repository.readonly_session("main").store)
    for found, episode in zip(store, EPISODES[:2], strict=True):
        assert_same(found, episode)


def test_copies_between_places(tmp_path: Path, url: str) -> None:
    with EpisodeStore.create(tmp_path / "s.zarr", codec="png", attributes={"a": 1}) as store:
        store.extend(EPISODES)
        store.drop([1])
        store.compact(url)
    remote = EpisodeStore.open(url)
    assert remote.attributes == {"a": 1}
    assert_same(remote[1], EPISODES[2])
    with EpisodeStore.open(url, "a") as store, pytest.raises(StoreError, match="a target"):
        store.compact()


def test_one_writer_and_a_lock_that_outlives_it(url: str) -> None:
    store = EpisodeStore.create(url)
    with pytest.raises(StoreLockedError, match=r"written by process \d+ .*break_lock=True"):
        EpisodeStore.open(url, "a")
    # As after a SIGKILL: the object stays.
    with EpisodeStore.open(url, "a", break_lock=True) as second:
        second.append(EPISODES[0])
    del store
    assert len(EpisodeStore.open(url)) == 1
    EpisodeStore.open(url, "a").close()


def test_overwriting(url: str) -> None:
    with EpisodeStore.create(url) as store:
        store.extend(EPISODES)
    with pytest.raises(StoreError, match="not empty"):
        EpisodeStore.create(url)
    EpisodeStore.create(url, overwrite=True).close()
    assert len(EpisodeStore.open(url)) == 0


class Flaky(MemoryStore):
    """Fails from the n-th write on; the commit's answer may be lost after it was written."""

    left = 10**9
    lose_answers = False

    async def set(self, key: str, value: Any, byte_range: Any = None) -> None:
        self.left -= 1
        if self.left < 0 and not self.lose_answers:
            raise ConnectionError("no route to host")
        await super().set(key, value, byte_range)
        if self.lose_answers and key == "meta/episode_ends/zarr.json":
            raise ConnectionError("timed out")


def test_writes_that_fail() -> None:
    counts = set()
    for after in range(0, 60, 2):
        made = Flaky()
        with EpisodeStore.create(made, codec="png") as store:
            store.append(EPISODES[0])
            made.left = after
            try:
                store.append(EPISODES[1])
                store.append(EPISODES[2])
            except StoreFullError:
                assert len(EpisodeStore.open(made)) == len(store)
            counts.add(len(store))
            made.left = 10**9
            store.extend(episode for episode in EPISODES if episode.id not in store)
        found = EpisodeStore.open(made)
        assert found.verify(deep=True) == []
        for number, episode in enumerate(EPISODES):
            assert_same(found[number], episode)
    assert counts == {1, 2, 3}


def test_a_commit_whose_answer_is_lost_counts() -> None:
    made = Flaky()
    with EpisodeStore.create(made, codec="png") as store:
        made.lose_answers = True
        store.append(EPISODES[0])
        store.append(EPISODES[1])
    assert list(EpisodeStore.open(made).ids) == ["e1", "e2"]


def test_urls_that_lead_nowhere(url: str) -> None:
    with pytest.raises(StoreError, match="there is no episode store at"):
        EpisodeStore.open(url)
    with pytest.raises(StoreError, match="expected a local path or a URL such as"):
        EpisodeStore.open("gopher://example/store.zarr")
