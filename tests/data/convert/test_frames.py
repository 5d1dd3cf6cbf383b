"""Frames arrive as they were recorded, in the size, codec and cameras that were asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aid_robot.data import open_recording
from aid_robot.data.convert import prepare, run
from aid_robot.data.store import EpisodeStore
from aid_robot.errors import ConfigError
from aid_robot.evaluation.psnr import psnr
from aid_robot.observation import resize_frames
from tests.data.bridge_writer import states, write_raw
from tests.data.convert.ingesting import assert_same, ingest_here, write_videos
from tests.data.numbered_frames import number_of, numbered_frames
from tests.recordings import write_irasim


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_irasim(tmp_path_factory.mktemp("recordings") / "lab", episodes=5)


@pytest.mark.parametrize("codec", ["jpeg", "png"])
def test_every_episode_arrives_as_it_was_recorded(
    recording: Path, tmp_path: Path, codec: str
) -> None:
    report = ingest_here(recording, tmp_path / "s.zarr", codec=codec)
    store = EpisodeStore.open(tmp_path / "s.zarr")
    read = open_recording(recording)
    assert list(store.ids) == [f"lab/{id}" for id in read.ids]
    for episode, original in zip(store, read, strict=True):
        assert_same(episode, original)
        if codec == "png":
            assert np.array_equal(episode.frames, original.frames)
        else:
            assert psnr(np.asarray(episode.frames), np.asarray(original.frames)) > 40
        assert episode.info["ingested_from"] == {"path": str(recording), "format": "irasim"}
    total = report.total
    assert (total.episodes, total.frames, total.seconds) == (5, 40, 8.0)
    assert (total.skipped, total.quarantined, report.stored) == (0, 0, 5)
    assert report.notes["no instruction, or only blanks"] == 1
    assert store.verify(deep=True) == []
    # Nothing is left beside the store.
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


def test_jpegs_of_the_right_size_are_kept_byte_for_byte(tmp_path: Path) -> None:
    folder = write_raw(tmp_path / "raw")
    ingest_here(tmp_path / "raw", tmp_path / "s.zarr")
    episode = EpisodeStore.open(tmp_path / "s.zarr")[0]
    images = [(folder / f"images0/im_{n}.jpg").read_bytes() for n in range(len(episode))]
    assert [episode.frames.encoded(n) for n in range(len(episode))] == images
    original = open_recording(tmp_path / "raw")[0]
    assert_same(episode, original)
    assert np.array_equal(episode.frames, original.frames)


def test_jpeg_with_damage_inside_is_quarantined(tmp_path: Path) -> None:
    folder = write_raw(tmp_path / "raw")
    write_raw(tmp_path / "raw", "traj1")
    image = folder / "images0" / "im_3.jpg"
    data = bytearray(image.read_bytes())
    # It ends as a whole one does.
    del data[len(data) // 2 : -2]
    image.write_bytes(data)
    report = ingest_here(tmp_path / "raw", tmp_path / "s.zarr")
    assert report.stored == 1
    assert [entry.error for entry in report.quarantined] == ["TruncatedFileError"]
    assert "frame 3" in report.quarantined[0].message


def test_jpeg_with_stray_bytes_is_kept_as_an_image(tmp_path: Path) -> None:
    folder = write_raw(tmp_path / "raw")
    image = folder / "images0" / "im_3.jpg"
    data = image.read_bytes()
    original = np.asarray(open_recording(tmp_path / "raw")[0].frames)
    image.write_bytes(data[:-2] + b"stray" + data[-2:])
    assert ingest_here(tmp_path / "raw", tmp_path / "s.zarr").quarantined == []
    frames = EpisodeStore.open(tmp_path / "s.zarr")[0].frames
    assert np.array_equal(np.delete(frames, 3, axis=0), np.delete(original, 3, axis=0))
    assert psnr(frames[3], original[3]) > 35


def test_frames_are_squashed_to_a_size_which_later_runs_take_over(
    recording: Path, tmp_path: Path
) -> None:
    target = tmp_path / "s.zarr"
    ingest_here(recording, target, size=(32, 40), codec="png", limit=2)
    ingest_here(recording, target)
    store = EpisodeStore.open(target)
    assert store.cameras == {"image_0": (32, 40)}
    for episode, original in zip(store, open_recording(recording), strict=True):
        expected = resize_frames(np.asarray(original.frames), (32, 40))
        assert np.array_equal(episode.frames, expected)


def test_sources_of_different_sizes_are_refused_before_anything_is_written(
    recording: Path, tmp_path: Path
) -> None:
    videos = write_videos(tmp_path / "videos", ["a"], height=32)
    target = tmp_path / "s.zarr"
    with pytest.raises(ConfigError, match=r"64x32 in .*videos, but 64x48 in .*lab.*--size 256"):
        ingest_here(recording, videos, target)
    assert not target.exists()
    ingest_here(recording, target)
    with pytest.raises(ConfigError, match=r"64x48 in the store.*--size 48x64"):
        ingest_here(videos, target)
    ingest_here(videos, target, size=(48, 64))
    assert EpisodeStore.open(target)["videos/a"].frames.size == (48, 64)


def test_episode_of_another_size_is_quarantined_with_the_remedy(tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "videos", ["a", "c"])
    write_videos(videos, ["b"], height=32)
    report = ingest_here(videos, tmp_path / "s.zarr")
    assert [entry.id for entry in report.quarantined] == ["videos/b"]
    assert "--size" in report.quarantined[0].message
    assert list(EpisodeStore.open(tmp_path / "s.zarr").ids) == ["videos/a", "videos/c"]


def test_cameras_are_chosen_and_renamed_and_may_be_missing(tmp_path: Path) -> None:
    frames = numbered_frames(6)
    cameras = {0: frames, 1: frames[::-1].copy(), 2: frames}
    write_raw(tmp_path / "raw", "traj0", cameras=cameras)
    write_raw(tmp_path / "raw", "traj1", cameras={0: frames})
    write_raw(tmp_path / "raw", "traj2", cameras={2: frames})
    chosen = (("wrist", "image_1"), ("image_0", "image_0"))
    report = ingest_here(tmp_path / "raw", tmp_path / "s.zarr", cameras=chosen)
    store = EpisodeStore.open(tmp_path / "s.zarr")
    assert [list(episode.videos) for episode in store] == [["wrist", "image_0"], ["image_0"]]
    assert number_of(store[0].videos["wrist"][0]) == 5
    assert number_of(store[0].videos["image_0"][0]) == 0
    assert "none of the cameras image_1, image_0" in report.quarantined[0].message


def test_still_start_is_cut_off_where_asked(tmp_path: Path) -> None:
    write_raw(tmp_path / "raw", obs={"full_state": states(still=3)})
    kept = ingest_here(tmp_path / "raw", tmp_path / "kept.zarr")
    cut_off = ingest_here(tmp_path / "raw", tmp_path / "cut.zarr", trim_static=True)
    still = kept.total.frames - cut_off.total.frames
    assert still > 0
    episodes = [EpisodeStore.open(tmp_path / name)[0] for name in ("kept.zarr", "cut.zarr")]
    assert np.array_equal(episodes[0].frames[still:], episodes[1].frames)
    assert episodes[0].state is not None
    assert episodes[1].state is not None
    assert np.array_equal(episodes[0].state[still:], episodes[1].state)
    assert any("cut off" in note for note in episodes[1].notes)
    # The same run again sees no change.
    again = ingest_here(tmp_path / "raw", tmp_path / "cut.zarr", trim_static=True)
    assert not any("changed" in note for note in again.notes)


def test_frames_of_long_episodes_wait_in_files(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest_here(recording, tmp_path / "memory.zarr")
    monkeypatch.setattr(prepare, "SPOOL_BYTES", 1000)
    seen: list[int] = []
    append = run._append

    def look(store: EpisodeStore, item: run.Item, result: run.Result) -> run.Result:
        seen.append(len(list((tmp_path / "file.zarr.spool").iterdir())))
        return append(store, item, result)

    monkeypatch.setattr(run, "_append", look)
    ingest_here(recording, tmp_path / "file.zarr")
    # Never more than those that are prepared ahead.
    assert seen == [2, 2, 2, 2, 1]
    stores = [EpisodeStore.open(tmp_path / name) for name in ("memory.zarr", "file.zarr")]
    for first, second in zip(*stores, strict=True):
        assert np.array_equal(first.frames, second.frames)
    assert not (tmp_path / "file.zarr.spool").exists()


def test_store_keeps_the_codec_that_it_was_made_with(recording: Path, tmp_path: Path) -> None:
    target = tmp_path / "s.zarr"
    ingest_here(recording, target, codec="png", limit=1)
    with pytest.raises(ConfigError, match="codec png"):
        ingest_here(recording, target, codec="jpeg")
    ingest_here(recording, target, limit=2)
    assert np.array_equal(EpisodeStore.open(target)[1].frames, open_recording(recording)[1].frames)
    ingest_here(recording, tmp_path / "q.zarr", quality=80, limit=1)
    with pytest.raises(ConfigError, match="quality 80"):
        ingest_here(recording, tmp_path / "q.zarr", quality=90)


@pytest.mark.bridge
@pytest.mark.parametrize(
    ("source", "episodes", "decibel"),
    # JPEG's halved colour costs most where small things are of strong colours.
    [
        ("irasim", 6, 40),
        ("raw", 2, None),
        ("rlds", 25, None),
        ("demos", 14, 32),
        ("rollouts", 22, 35),
    ],
)
def test_recorded_bridge_layouts_arrive_whole(
    bridge_dir: Path, tmp_path: Path, source: str, episodes: int, decibel: int | None
) -> None:
    read = open_recording(bridge_dir / source)
    assert len(read) == episodes
    report = ingest_here(bridge_dir / source, tmp_path / "small.zarr", size=(48, 64), limit=8)
    assert (report.stored, report.quarantined) == (min(8, episodes), [])
    small = EpisodeStore.open(tmp_path / "small.zarr")
    for stored, original in zip(small, read, strict=False):
        assert len(stored) == len(original)
        assert_same(stored, original)
    stores = {}
    for codec in ("png", "jpeg"):
        ingest_here(bridge_dir / source, tmp_path / codec, codec=codec, limit=1)
        stores[codec] = EpisodeStore.open(tmp_path / codec)[0]
    for camera, frames in read[0].videos.items():
        recorded = np.asarray(frames)
        assert np.array_equal(stores["png"].videos[camera], recorded)
        jpeg = np.asarray(stores["jpeg"].videos[camera])
        if decibel is None:
            assert np.array_equal(jpeg, recorded)
        else:
            assert psnr(jpeg, recorded) > decibel
