"""Small episodes for the tests of the store, and what makes two of them equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aid_robot.data.episode import Episode
from aid_robot.data.frames import ArrayFrames
from aid_robot.data.store import EpisodeStore

SIZE = (16, 24)


def frames_of(seed: int, length: int, size: tuple[int, int] = SIZE) -> npt.NDArray[np.uint8]:
    """Make frames of coloured blocks, which a JPEG keeps well."""
    blocks = np.random.default_rng(seed).integers(0, 256, (length, 2, 2, 3), dtype=np.uint8)
    height, width = size
    return blocks.repeat(height // 2, axis=1).repeat(width // 2, axis=2)


def episode_of(
    seed: int,
    length: int = 5,
    *,
    id: str | None = None,
    cameras: tuple[str, ...] = ("image_0",),
    action: bool = True,
    arrays: tuple[str, ...] = (),
    size: tuple[int, int] = SIZE,
    **fields: Any,
) -> Episode:
    """Make an episode that is another for each seed."""
    rng = np.random.default_rng(seed)
    fields = {"instructions": (f"put block {seed} down",), "fps": 5.0, **fields}
    instructions = fields["instructions"]
    return Episode(
        id=id or f"e{seed}",
        videos={
            camera: ArrayFrames(frames_of(10 * seed + number, length, size))
            for number, camera in enumerate(cameras)
        },
        actions=rng.normal(size=(length, 7)).astype(np.float32) if action else None,
        instruction=instructions[0] if instructions else None,
        arrays={key: rng.integers(0, 2**15, (length, 3)).astype(np.int32) for key in arrays},
        **fields,
    )


def assert_same(found: Episode, expected: Episode, *, lossless: bool = True) -> None:
    """Compare two episodes field by field, frames to a JPEG's precision unless lossless."""
    assert found.id == expected.id
    assert list(found.videos) == list(expected.videos)
    for camera, frames in expected.videos.items():
        if lossless:
            np.testing.assert_array_equal(found.videos[camera][:], frames[:])
        else:
            difference = found.videos[camera][:].astype(int) - frames[:].astype(int)
            assert np.abs(difference).mean() < 12
    for name in ("actions", "state"):
        mine, other = getattr(found, name), getattr(expected, name)
        assert (mine is None) == (other is None)
        if other is not None:
            np.testing.assert_array_equal(mine, other)
            assert mine.dtype == other.dtype
    assert list(found.arrays) == list(expected.arrays)
    for key, rows in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[key], rows)
        assert found.arrays[key].dtype == rows.dtype
    for name in ("instruction", "instructions", "outcome", "fps", "source", "notes", "scene"):
        assert getattr(found, name) == getattr(expected, name), name
    assert dict(found.info) == dict(expected.info)


def assert_no_remains(path: Path) -> None:
    """Look with zarr for what interrupted writers left, and for what diffusion_policy checks."""
    import zarr

    group, store = zarr.open_group(path, mode="r"), EpisodeStore.open(path)
    assert store.verify() == []
    ends = group["meta/episode_ends"][:]
    assert group["meta/episodes"].shape == ends.shape
    for key in store.keys:
        rows = group[f"data/{key}"][:]
        assert rows.shape[0] == (ends[-1] if len(ends) else 0), key
        empty = np.isnan(rows) if rows.dtype.kind == "f" else rows == 0
        for index, record in enumerate(store.records):
            if key not in record.keys and key not in record.cameras:
                start = store.start(index)
                assert empty[start : start + record.length].all(), (record.id, key)
