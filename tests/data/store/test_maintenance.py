"""What is done to a store as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aid_robot.data.store import EpisodeStore
from aid_robot.data.store.maintenance import beside
from aid_robot.errors import StoreError
from tests.data.store.episodes import assert_same, episode_of

EPISODES = [episode_of(seed, 4 + seed, size=(16, 16), arrays=("joints",)) for seed in range(6)]


def filled(path: Path, **options: object) -> EpisodeStore:
    store = EpisodeStore.create(path, **{"codec": "png", **options})  # type: ignore[arg-type]
    store.extend(EPISODES)
    return store


def frame_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in (path / "data" / "image_0").iterdir())


def test_dropped_episodes_are_gone_for_those_who_look_again(tmp_path: Path) -> None:
    with filled(tmp_path / "s.zarr") as store:
        reader = EpisodeStore.open(tmp_path / "s.zarr")
        store.drop(["e1", 4])
        assert list(store.ids) == ["e0", "e2", "e3", "e5"]
        assert "e1" not in store
        assert_same(store[1], EPISODES[2])
        assert len(reader) == 6
        assert_same(reader[1], EPISODES[1])
        reader.refresh()
        assert list(reader.ids) == ["e0", "e2", "e3", "e5"]
        store.append(EPISODES[1])
        assert_same(store[-1], EPISODES[1])
        with pytest.raises(StoreError, match="no episode 'e4'"):
            store.drop(["e4"])


@pytest.mark.parametrize("in_place", [True, False])
def test_compaction_frees_space_and_keeps_the_rest(tmp_path: Path, in_place: bool) -> None:
    path = tmp_path / "s.zarr"
    with filled(path, attributes={"robot": "WidowX"}) as store:
        store.annotate("e3", outcome="failure", scene="kitchen", info={"why": "slipped"})
        for number in (1, 3):
            latents = np.full((len(EPISODES[number]), 2, 3), number, np.float16)
            store.write_cached("latents", number, latents, model_hash="vae-1")
        store.write_cached("text", 3, np.arange(5), model_hash="clip", per="episode")
        store.drop([0, 2, 4])
        before = frame_bytes(path)
        (path / "quarantine.jsonl").write_text("{}")
        target = None if in_place else tmp_path / "t.zarr"
        store.compact(target)
        if in_place:
            store.append(EPISODES[0])
            assert (path / "quarantine.jsonl").exists()
    store = EpisodeStore.open(path if in_place else tmp_path / "t.zarr")
    assert list(store.ids) == ["e1", "e3", "e5", *(["e0"] if in_place else [])]
    assert_same(store[0], EPISODES[1])
    assert_same(store[2], EPISODES[5])
    assert (store[1].outcome, store[1].scene) == ("failure", "kitchen")
    assert store[1].info == {"why": "slipped"}
    assert store.attributes == {"robot": "WidowX"}
    if not in_place:
        assert frame_bytes(tmp_path / "t.zarr") < before
    assert store.cached == {"latents": "vae-1", "text": "clip"}
    assert (store.read_cached("latents", "e3", model_hash="vae-1") == 3).all()
    assert store.read_cached("text", "e3", model_hash="clip").tolist() == [0, 1, 2, 3, 4]
    assert store.read_cached("latents", "e5", model_hash="vae-1") is None
    assert {p.name for p in tmp_path.iterdir()} <= {"s.zarr", "t.zarr"}


def test_open_readers_of_a_compacted_store_are_told(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    with filled(path) as store:
        readers = [EpisodeStore.open(path) for _ in range(3)]
        readers[0].clip(5, 0)
        store.drop([0])
        for _ in range(3):  # the system may give a removed folder's number to a new one
            store.compact()
    for look in (
        lambda: readers[0].clip(5, 0),
        lambda: readers[1].records[0],
        lambda: readers[2][0],
    ):
        with pytest.raises(StoreError, match="compacted or replaced since it was opened"):
            look()
    readers[0].refresh()
    assert_same(readers[0][0], EPISODES[1])


def test_a_compaction_that_was_killed_between_its_renames(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    filled(path).close()
    made, previous = beside(path)
    path.rename(previous)
    assert len(EpisodeStore.open(path)) == 6  # the copy wasn't whole: the old one is back
    path.rename(previous)
    with EpisodeStore.create(made, codec="png") as store:
        store.extend(EPISODES[:2])
    assert len(EpisodeStore.open(path)) == 2
    assert previous.exists()  # killed before it removed the old one, too: the next writer does
    with EpisodeStore.open(path, "a") as store:
        store.drop([0])
    assert list(EpisodeStore.open(path).ids) == ["e1"]
    assert [p.name for p in tmp_path.iterdir()] == ["s.zarr"]


def test_merging_copies_frames_as_they_are_stored(tmp_path: Path) -> None:
    with EpisodeStore.create(tmp_path / "a.zarr", quality=60) as first:
        first.extend(EPISODES[:3])
    with EpisodeStore.create(tmp_path / "b.zarr", quality=95) as second:
        second.append(EPISODES[4])
        assert second.merge(tmp_path / "a.zarr") == [1, 2, 3]
        assert list(second.ids) == ["e4", "e0", "e1", "e2"]
        for number in range(len(EPISODES[2])):
            mine = second["e2"].frames.encoded(number)
            assert mine is not None
            assert mine == EpisodeStore.open(tmp_path / "a.zarr")["e2"].frames.encoded(number)
        assert second.verify(deep=True) == []


def test_merging_other_codecs_compresses_again(tmp_path: Path) -> None:
    with EpisodeStore.create(tmp_path / "a.zarr", codec="jpeg") as first:
        first.extend(EPISODES[:2])
    with EpisodeStore.create(tmp_path / "b.zarr", codec="png") as second:
        second.merge(EpisodeStore.open(tmp_path / "a.zarr"))
        np.testing.assert_array_equal(
            second[0].frames[:], EpisodeStore.open(tmp_path / "a.zarr")[0].frames[:]
        )


def test_merging_the_same_ids(tmp_path: Path) -> None:
    filled(tmp_path / "a.zarr").close()
    with EpisodeStore.create(tmp_path / "b.zarr", codec="png") as store:
        store.append(EPISODES[2])
        with pytest.raises(StoreError, match=r"both have 'e2'.*skip_existing=True"):
            store.merge(tmp_path / "a.zarr")
        assert len(store) == 1
        store.merge(tmp_path / "a.zarr", skip_existing=True)
        assert sorted(store.ids) == [f"e{n}" for n in range(6)]
    with EpisodeStore.create(tmp_path / "c.zarr") as store:
        store.append(episode_of(9, size=(8, 8)))
        with pytest.raises(StoreError, match="'image_0' is 16x16 in this episode"):
            store.merge(tmp_path / "a.zarr")
        assert len(store) == 1
