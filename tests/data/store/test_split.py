"""Parts of a store that stay apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aid_robot.data.store import EpisodeStore
from aid_robot.data.store.split import hashed
from aid_robot.errors import StoreError
from tests.data.store.episodes import episode_of

PARTS = {"train": 0.7, "val": 0.2, "test": 0.1}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("split") / "s.zarr"
    with EpisodeStore.create(path) as store:
        store.extend(
            episode_of(seed, 1, size=(2, 2), scene=f"table {seed % 17}" if seed % 5 else "")
            for seed in range(200)
        )
    return path


@pytest.mark.parametrize("by", ["hash", "scene", "episode"])
def test_each_episode_is_in_one_part(path: Path, by: str) -> None:
    parts = EpisodeStore.open(path).split(PARTS, by)  # type: ignore[arg-type]
    assert list(parts) == ["train", "val", "test"]
    assert sorted(number for numbers in parts.values() for number in numbers) == list(range(200))
    assert len(parts["train"]) > len(parts["val"]) > 0
    assert EpisodeStore.open(path).split(PARTS, by) == parts  # type: ignore[arg-type]
    assert EpisodeStore.open(path).split(PARTS, by, seed=1) != parts  # type: ignore[arg-type]


def test_by_episode_the_fractions_are_exact(path: Path) -> None:
    parts = EpisodeStore.open(path).split(PARTS, "episode")
    assert [len(numbers) for numbers in parts.values()] == [140, 40, 20]


def test_by_hash_an_episode_stays_on_its_side(path: Path) -> None:
    before = EpisodeStore.open(path)
    parts = {name: {before.ids[n] for n in ns} for name, ns in before.split(PARTS).items()}
    with EpisodeStore.open(path, "a") as store:
        store.extend(episode_of(seed, 1, size=(2, 2)) for seed in range(200, 260))
        store.drop(range(0, 200, 9))
        for name, numbers in store.split(PARTS).items():
            for number in numbers:
                old = [side for side, ids in parts.items() if store.ids[number] in ids]
                assert old in ([], [name])
        store.drop([name for name in store.ids if int(name[1:]) >= 200])


def test_by_scene_a_scene_is_on_one_side(path: Path) -> None:
    store = EpisodeStore.open(path)
    parts = store.split({"train": 0.5, "val": 0.5}, "scene")
    scenes = {
        name: {store.records[n].scene for n in numbers} - {""} for name, numbers in parts.items()
    }
    assert scenes["train"]
    assert scenes["val"]
    assert not scenes["train"] & scenes["val"]


@pytest.mark.parametrize("fractions", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": float("nan")}])
def test_fractions_that_cannot_be(path: Path, fractions: dict[str, float]) -> None:
    with pytest.raises(StoreError, match="expected numbers from 0 that add up to 1"):
        EpisodeStore.open(path).split(fractions)
    with pytest.raises(StoreError, match="by is 'colour'"):
        EpisodeStore.open(path).split({"a": 1}, "colour")  # type: ignore[arg-type]


@given(name=st.text(), seed=st.integers())
def test_any_name_has_a_place(name: str, seed: int) -> None:
    assert 0 <= hashed(name, seed) < 1


def test_places_are_the_same_on_every_machine() -> None:
    assert hashed("episode-1") == pytest.approx(0.36076624, abs=1e-8)
