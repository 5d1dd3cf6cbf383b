"""Our stores are ordinary zarr, for reading and for writing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from aid_robot.data.store import EpisodeStore
from aid_robot.errors import StoreError
from tests.data.store.episodes import assert_same, episode_of

EPISODES = [
    episode_of(1, 7, cameras=("image_0", "wrist"), arrays=("joints",)),
    episode_of(2, 5, action=False),
]


@pytest.fixture(params=["jpeg", "png"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    with EpisodeStore.create(
        tmp_path / "s.zarr", codec=request.param, shard_frames=4, attributes={"robot": "WidowX"}
    ) as store:
        store.extend(EPISODES)
    return tmp_path / "s.zarr"


def test_zarr_reads_what_we_wrote(path: Path) -> None:
    store = EpisodeStore.open(path)
    group = zarr.open_group(path, mode="r")
    assert group.attrs["robot"] == "WidowX"
    ends = group["meta/episode_ends"][:]
    assert ends.tolist() == [7, 12]
    start = 0
    for number, end in enumerate(ends):
        episode = store[number]
        for camera, frames in episode.videos.items():
            np.testing.assert_array_equal(group[f"data/{camera}"][start:end], frames[:])
        if episode.actions is not None:
            np.testing.assert_array_equal(group["data/action"][start:end], episode.actions)
        for key, rows in episode.arrays.items():
            np.testing.assert_array_equal(group[f"data/{key}"][start:end], rows)
        record = json.loads(group["meta/episodes"][number : number + 1][0])
        assert record["id"] == episode.id
        start = end
    # What an episode lacks is empty, and all arrays end with the last episode.
    assert np.isnan(group["data/action"][7:]).all()
    assert not group["data/wrist"][7:].any()
    assert {array.shape[0] for _, array in group["data"].arrays()} == {12}
    assert group["data/image_0"].metadata.dimension_names == ("time", "y", "x", "channel")


def test_we_read_what_zarr_wrote(path: Path) -> None:
    group = zarr.open_group(path, mode="r+")
    black = np.zeros((16, 24, 3), np.uint8)
    group["data/image_0"][3] = black + 200
    group["data/action"][2:4, 0] = 5
    group["data/joints"][:7] = 9
    store = EpisodeStore.open(path)
    assert abs(store.clip(0, 3, 1)[0].astype(int) - 200).max() < 2
    np.testing.assert_array_equal(store.clip(0, 2, 1), EpisodeStore.open(path)[0].frames[2:3])
    actions = store[0].actions
    assert actions is not None
    assert EPISODES[0].actions is not None
    assert actions[2:4, 0].tolist() == [5, 5]
    np.testing.assert_array_equal(actions[:, 1:], EPISODES[0].actions[:, 1:])
    assert (store[0].arrays["joints"] == 9).all()
    with EpisodeStore.open(path, "a") as writer:
        writer.append(episode_of(3, 6, arrays=("joints",)))
        assert writer.verify(deep=True) == []
        assert_same(writer[2], episode_of(3, 6, arrays=("joints",)), lossless=False)


def test_zarr_makes_arrays_of_frames_by_our_codecs(tmp_path: Path) -> None:
    from aid_robot.data.store.zarr_codecs import Jpeg, Png

    frames = EPISODES[0].frames[:]
    for number, codec in enumerate((Png(), Jpeg(level=100, subsampling="444"))):
        array = zarr.create_array(
            tmp_path / str(number),
            shape=frames.shape,
            dtype="uint8",
            chunks=(1, *frames.shape[1:]),
            serializer=codec,
            compressors=None,
        )
        array[:] = frames
        found = zarr.open_array(tmp_path / str(number), mode="r")[:]
        assert np.abs(found.astype(int) - frames).max() <= (2 if number else 0)
        assert np.abs(found.astype(int) - frames).mean() < 1
    with pytest.raises(StoreError, match="expected one RGB frame"):
        zarr.create_array(
            tmp_path / "two", shape=(4, 8, 8, 3), dtype="uint8", chunks=(2, 8, 8, 3),
            serializer=Png(), compressors=None,
        )[:] = 1  # fmt: skip


def test_an_array_that_someone_added_is_left_alone(path: Path) -> None:
    group = zarr.open_group(path, mode="r+")
    group["data"].create_array("mine", data=np.arange(12))
    other = episode_of(3, 4)
    other = type(other)(**{**other.__dict__, "arrays": {"mine": np.arange(4)}})
    with EpisodeStore.open(path, "a") as store:
        assert "mine" not in store.keys
        with pytest.raises(StoreError, match="data/mine was made by another program"):
            store.append(other)
        store.append(episode_of(4, 4))
    assert zarr.open_group(path, mode="r")["data/mine"][:].tolist() == list(range(12))


def test_imagecodecs_has_the_same_jpeg_and_png(path: Path) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    metadata = json.loads((path / "data" / "image_0" / "zarr.json").read_text())
    sharding = metadata["codecs"][0]["configuration"]
    name = sharding["codecs"][0]["name"].removeprefix("imagecodecs_")
    data = EpisodeStore.open(path).column("image_0").chunks([2])[0]
    assert data is not None
    if name == "jpeg":
        # The parameters mean the same there.
        level, subsampling = (
            sharding["codecs"][0]["configuration"][k] for k in ("level", "subsampling")
        )
        frame = EPISODES[0].frames[2]
        theirs = imagecodecs.jpeg8_encode(frame, level=level, subsampling=subsampling)
        assert abs(len(theirs) - len(data) + 4) < 0.05 * len(theirs)
        found = imagecodecs.jpeg8_decode(bytes(data[:-4]))
        # Either decoder may round otherwise.
        assert np.abs(found.astype(int) - EpisodeStore.open(path).clip(0, 2, 1)[0]).max() <= 3
    else:
        found = imagecodecs.png_decode(bytes(data[:-4]))
        np.testing.assert_array_equal(found, EPISODES[0].frames[2])


def test_reading_a_local_store_needs_no_zarr(path: Path) -> None:
    code = (
        "import sys; from aid_robot.data.store import EpisodeStore;"
        "s = EpisodeStore.open(sys.argv[1]); s.clip(0, 0); s[0]; s.info();"
        "print('zarr' in sys.modules, 'torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[3]
    shown = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
    )
    assert shown.stdout.split() == ["False", "False"]
