"""What models computed of episodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aid_robot.data.store import EpisodeStore
from aid_robot.errors import StoreError
from tests.data.store.episodes import episode_of

LENGTHS = (5, 60, 7, 90)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with EpisodeStore.create(tmp_path / "s.zarr") as store:
        store.extend(episode_of(seed, length, size=(2, 2)) for seed, length in enumerate(LENGTHS))
    return tmp_path / "s.zarr"


def latents(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    return rng.normal(size=(LENGTHS[number], 4, 2, 2)).astype(np.float16)


def test_rows_of_frames_come_back_whatever_the_order(path: Path) -> None:
    with EpisodeStore.open(path, "a") as store:
        for number in (2, 0, 3):
            store.write_cached("latents", number, latents(number), model_hash="a1")
            np.testing.assert_array_equal(
                store.read_cached("latents", number, model_hash="a1"), latents(number)
            )
        reader = EpisodeStore.open(path)
        assert reader.read_cached("latents", "e1", model_hash="a1") is None
        store.write_cached("latents", 1, latents(1), model_hash="a1")
        store.commit()
        found = EpisodeStore.open(path).read_cached("latents", 1, model_hash="a1")
        np.testing.assert_array_equal(found, latents(1))
    for number in range(4):
        # The reader from before finds what came since, too.
        np.testing.assert_array_equal(
            reader.read_cached("latents", number, model_hash="a1"), latents(number)
        )
    np.testing.assert_array_equal(
        reader.read_cached("latents", 3, 20, 36, model_hash="a1"), latents(3)[20:36]
    )
    assert reader.cached == {"latents": "a1"}
    assert reader.info()["cached"] == {"latents": "a1"}


def test_one_array_an_episode(path: Path) -> None:
    with EpisodeStore.open(path, "a") as store:
        store.write_cached("text", 1, np.arange(12).reshape(3, 4), model_hash="c", per="episode")
    store = EpisodeStore.open(path)
    found = store.read_cached("text", 1, model_hash="c")
    np.testing.assert_array_equal(found, np.arange(12).reshape(3, 4))
    assert store.read_cached("text", 0, model_hash="c") is None


def test_another_model_does_not_get_it_and_takes_its_place(path: Path) -> None:
    with EpisodeStore.open(path, "a") as store:
        store.write_cached("latents", 0, latents(0), model_hash="old")
        store.write_cached("latents", 1, latents(1), model_hash="old")
    with EpisodeStore.open(path, "a") as store:
        assert store.read_cached("latents", 0, model_hash="new") is None
        store.write_cached("latents", 1, latents(1).astype(np.float32)[:, :2], model_hash="new")
    store = EpisodeStore.open(path)
    assert store.read_cached("latents", 0, model_hash="old") is None
    assert store.read_cached("latents", 0, model_hash="new") is None
    found = store.read_cached("latents", 1, model_hash="new")
    np.testing.assert_array_equal(found, latents(1).astype(np.float32)[:, :2])


def test_it_grows_with_the_store(path: Path) -> None:
    with EpisodeStore.open(path, "a") as store:
        store.write_cached("latents", 3, latents(3), model_hash="a")
        store.append(episode_of(9, 5, size=(2, 2)))
        store.write_cached("latents", 4, latents(0), model_hash="a")
        store.drop([0])
    store = EpisodeStore.open(path)
    np.testing.assert_array_equal(store.read_cached("latents", 3, model_hash="a"), latents(0))
    np.testing.assert_array_equal(store.read_cached("latents", "e3", model_hash="a"), latents(3))
    assert list(store.keys) == ["image_0", "action"]


def test_what_does_not_fit_is_refused(path: Path) -> None:
    with EpisodeStore.open(path, "a") as store:
        with pytest.raises(StoreError, match=r"shape \(4, 2\) for an episode of 5 frames"):
            store.write_cached("latents", 0, np.zeros((4, 2)), model_hash="a")
        with pytest.raises(StoreError, match="expected numbers"):
            store.write_cached("words", 0, np.array(["a"] * 5), model_hash="a")
        with pytest.raises(StoreError, match="can't be the name"):
            store.write_cached("../x", 0, np.zeros(5), model_hash="a")
    with pytest.raises(StoreError, match="open for reading"):
        EpisodeStore.open(path).write_cached("latents", 0, np.zeros(5), model_hash="a")
