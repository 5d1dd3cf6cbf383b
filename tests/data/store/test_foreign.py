"""Replay buffers of diffusion_policy and UMI are read by the same class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from aid_robot.data.store import EpisodeStore
from aid_robot.errors import StoreError
from tests.data.store.episodes import assert_same, episode_of

LENGTHS = (4, 7)
TOTAL = sum(LENGTHS)
FRAMES = np.random.default_rng(0).integers(0, 256, (TOTAL, 24, 32, 3), dtype=np.uint8)


def replay_buffer(
    path: Path,
    arrays: dict[str, np.ndarray],
    *,
    zarr_format: Any = 2,
    chunk: int = 3,
    **options: Any,
) -> Path:
    """Write a store as diffusion_policy's ReplayBuffer does."""
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    data, meta = group.create_group("data"), group.create_group("meta")
    for key, rows in arrays.items():
        shape = (3, *rows.shape[1:])
        data.create_array(key, data=rows, chunks=shape, **options)
    meta.create_array("episode_ends", data=np.cumsum(LENGTHS), chunks=(max(2, len(LENGTHS)),))
    return path


ACTION = np.random.default_rng(1).normal(size=(TOTAL, 7)).astype(np.float32)
POSE = np.random.default_rng(2).normal(size=(TOTAL, 2))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_replay_buffer_is_read(tmp_path: Path, zarr_format: int) -> None:
    arrays = {"camera0_rgb": FRAMES, "action": ACTION, "robot0_eef_pos": POSE}
    store = EpisodeStore.open(replay_buffer(tmp_path / "r.zarr", arrays, zarr_format=zarr_format))
    assert store.lengths.tolist() == [4, 7]
    assert store.cameras == {"camera0_rgb": (24, 32)}
    episode = store[1]
    assert episode.id == "1"
    np.testing.assert_array_equal(episode.frames[:], FRAMES[4:])
    np.testing.assert_array_equal(episode.frames[[6, 0]], FRAMES[[10, 4]])
    np.testing.assert_array_equal(store.clip(1, 1, 3, 2), FRAMES[5:11:2])
    np.testing.assert_array_equal(episode.actions, ACTION[4:])
    np.testing.assert_array_equal(episode.arrays["robot0_eef_pos"], POSE[4:])
    np.testing.assert_array_equal(store.read(1, ["action"], 2, 4)["action"], ACTION[6:8])
    assert [len(e) for e in store] == [4, 7]
    assert store.verify(deep=True) == []
    assert store.info()["frames"] == 11


@pytest.mark.parametrize("compressor", ["blosc", "zlib", None])
def test_any_of_zarrs_compressors(tmp_path: Path, compressor: str | None) -> None:
    import numcodecs

    made = {"blosc": numcodecs.Blosc("zstd", 5), "zlib": numcodecs.Zlib(3), None: None}[compressor]
    path = replay_buffer(tmp_path / "r.zarr", {"img": FRAMES}, compressors=made)
    np.testing.assert_array_equal(EpisodeStore.open(path)[0].frames[:], FRAMES[:4])


@pytest.mark.parametrize(
    "stored",
    [FRAMES.astype(np.float32), FRAMES.astype(np.float32) / 255, np.moveaxis(FRAMES, 3, 1)],
    ids=["0 to 255", "0 to 1", "channels first"],
)
def test_other_kinds_of_frames(tmp_path: Path, stored: np.ndarray) -> None:
    store = EpisodeStore.open(replay_buffer(tmp_path / "r.zarr", {"img": stored, "action": POSE}))
    np.testing.assert_array_equal(store[1].frames[:], FRAMES[4:])
    assert store[1].actions is None
    np.testing.assert_array_equal(store[1].arrays["action"], POSE[4:])


def test_it_is_read_only_and_can_be_merged(tmp_path: Path) -> None:
    path = replay_buffer(tmp_path / "r.zarr", {"img": FRAMES, "action": ACTION})
    with pytest.raises(StoreError, match=r"can only be read; expected .* merge it into one"):
        EpisodeStore.open(path, "a")
    with EpisodeStore.create(tmp_path / "s.zarr", codec="png") as store:
        store.append(episode_of(1))
        assert store.merge(path) == [1, 2]
        np.testing.assert_array_equal(store["1"].frames[:], FRAMES[4:])
        np.testing.assert_array_equal(store["0"].actions, ACTION[:4])


@pytest.mark.parametrize(
    ("ends", "match"),
    [
        ([4, 12], "up to the 11 rows"),
        ([4, 4], "doesn't increase"),
        ([-1, 4], "doesn't increase"),
    ],
)
def test_ends_that_cannot_be(tmp_path: Path, ends: list[int], match: str) -> None:
    path = replay_buffer(tmp_path / "r.zarr", {"img": FRAMES})
    zarr.open_group(path, mode="r+")["meta/episode_ends"][:] = ends
    with pytest.raises(StoreError, match=match):
        EpisodeStore.open(path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("data/img", {"shape": [11, 2**20, 2**20, 3]}),
        ("data/img", {"chunks": [2**40, 24, 32, 3]}),
        ("meta/episode_ends", {"chunks": [2**40]}),
        ("meta/episode_ends", {"shape": [2**44]}),
    ],
)
def test_sizes_that_cannot_be(tmp_path: Path, name: str, change: dict[str, Any]) -> None:
    path = replay_buffer(tmp_path / "r.zarr", {"img": FRAMES})
    metadata = path / name / ".zarray"
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), **change}))
    with pytest.raises(StoreError, match=r"more than any recording has|doesn't increase"):
        EpisodeStore.open(path)


def test_damage_is_told(tmp_path: Path) -> None:
    path = replay_buffer(tmp_path / "r.zarr", {"img": FRAMES})
    (path / "data" / "img" / "0.0.0.0").write_bytes(b"no chunk")
    with pytest.raises(StoreError, match="data/img can't be read"):
        EpisodeStore.open(path)[0].frames[0]


def test_what_is_no_store_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no episode store"):
        EpisodeStore.open(tmp_path)
    zarr.open_group(tmp_path / "group.zarr", mode="w")
    with pytest.raises(StoreError, match="there is no episode store"):
        EpisodeStore.open(tmp_path / "group.zarr")
    path = replay_buffer(tmp_path / "r.zarr", {"keypoints": POSE})
    with pytest.raises(StoreError, match=r"has no camera among .*keypoints"):
        EpisodeStore.open(path)


def test_diffusion_policys_own_check_holds_for_our_stores(tmp_path: Path) -> None:
    with EpisodeStore.create(tmp_path / "s.zarr") as store:
        store.append(episode_of(1, 5, arrays=("joints",)))
        store.append(episode_of(2, 3, action=False))
        store.append(episode_of(3, 9, cameras=("wrist",)))
    root = zarr.open_group(tmp_path / "s.zarr", mode="r")
    for _, value in root["data"].arrays():
        assert value.shape[0] == root["meta"]["episode_ends"][-1]
    assert_same(
        EpisodeStore.open(tmp_path / "s.zarr")[1], episode_of(2, 3, action=False), lossless=False
    )
