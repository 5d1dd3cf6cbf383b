"""An ingest run brings every whole episode into the store once, and says what it left out."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from aid_robot.data import Episode, open_recording
from aid_robot.data.convert import Report, ingest, prepare, run
from aid_robot.data.store import EpisodeStore
from aid_robot.data.video import write_video
from aid_robot.errors import AIDRobotError, ConfigError, StoreLockedError
from aid_robot.evaluation.psnr import psnr
from aid_robot.observation import resize_frames
from tests.data.bridge_writer import states, write_raw
from tests.data.convert.kill_ingest import kill_loop
from tests.data.numbered_frames import number_of, numbered_frames
from tests.recordings import plain_frames, write_irasim


def ingest_here(*args: object, **options: object) -> Report:
    """Ingest without other processes and without a bar."""
    sources, target = args[:-1], args[-1]
    return ingest(list(sources), target, **{"workers": 0, "progress": False, **options})  # type: ignore[arg-type]


def write_videos(folder: Path, names: list[str], height: int = 48, width: int = 64) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        write_video(folder / f"{name}.mp4", plain_frames([40, 60, 80], height, width), 5)
    return folder


def cut(path: Path) -> bytes:
    """Cut a file in half, and return what it was."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return whole


def assert_same(stored: Episode, read: Episode) -> None:
    """All but the frames is as in the recording."""
    assert stored.instructions == read.instructions
    assert (stored.outcome, stored.fps, stored.scene) == (read.outcome, read.fps, read.scene)
    assert (stored.source, stored.notes) == (read.source, read.notes)
    assert list(stored.videos) == list(read.videos)
    for old, new in ((stored.actions, read.actions), (stored.state, read.state)):
        assert (old is None) == (new is None)
        assert old is None or np.array_equal(old, new)


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


def test_nothing_comes_twice_and_what_is_new_comes(tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "videos", ["a", "c"])
    target = tmp_path / "s.zarr"
    assert ingest_here(videos, videos, tmp_path / "." / "videos", target).total.episodes == 2
    again = ingest_here(videos, target)
    assert (again.total.episodes, again.total.skipped) == (0, 2)
    write_videos(videos, ["b"])
    grown = ingest_here(videos, target)
    assert (grown.total.episodes, grown.total.skipped) == (1, 2)
    assert list(EpisodeStore.open(target).ids) == ["videos/a", "videos/c", "videos/b"]


def test_limit_means_the_first_of_each_source(recording: Path, tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "videos", ["a", "b", "c"])
    for _ in range(2):
        ingest_here(recording, videos, tmp_path / "s.zarr", limit=2)
    ids = list(EpisodeStore.open(tmp_path / "s.zarr").ids)
    assert ids == ["lab/train/0", "lab/train/1", "videos/a", "videos/b"]


def test_sources_of_one_name_are_told_apart(tmp_path: Path) -> None:
    first = write_irasim(tmp_path / "1" / "lab", episodes=2)
    second = write_irasim(tmp_path / "2" / "lab", episodes=2, frames=6)
    target = tmp_path / "s.zarr"
    with pytest.raises(ConfigError, match="other="):
        ingest_here(first, second, target)
    assert not target.exists()
    ingest_here(first, target)
    with pytest.raises(ConfigError, match=r"6 frames instead of 8.*other="):
        ingest_here(second, target)
    ingest_here(f"other={second}", target)
    assert list(EpisodeStore.open(target).ids)[2:] == ["other/train/0", "other/train/1"]


def test_recording_that_was_moved_is_still_the_same(tmp_path: Path) -> None:
    target = tmp_path / "s.zarr"
    folder = write_irasim(tmp_path / "1" / "lab", episodes=3)
    ingest_here(folder, target, limit=2)
    moved = folder.rename(tmp_path / "lab")
    report = ingest_here(moved, target)
    assert (report.total.episodes, report.total.skipped) == (1, 2)


def test_source_that_was_changed_is_noted(tmp_path: Path) -> None:
    target = tmp_path / "s.zarr"
    videos = write_videos(tmp_path / "videos", ["a", "b", "c"])
    ingest_here(videos, target)
    write_video(videos / "c.mp4", plain_frames([200, 200, 200]), 5)
    (videos / "b.mp4").unlink()
    report = ingest_here(videos, target)
    assert (report.total.episodes, report.total.skipped) == (0, 2)
    notes = "\n".join(report.notes)
    assert "changed since it was ingested, see 'videos/c': other frames" in notes
    assert "1 episode of 'videos' that is no longer there" in notes
    assert len(EpisodeStore.open(target)) == 3


def test_damaged_episode_waits_in_quarantine_until_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording, target = write_irasim(tmp_path / "lab", episodes=4), tmp_path / "s.zarr"
    video = recording / "videos/train/1/rgb.mp4"
    whole = cut(video)
    actions = recording / "annotation/train/2.json"
    content = json.loads(actions.read_text())
    actions.write_text(json.dumps({**content, "action": content["action"][:3]}))

    report = ingest_here(recording, target)
    assert (report.total.episodes, report.total.quarantined) == (2, 2)
    assert [entry.id for entry in report.quarantined] == ["lab/train/1", "lab/train/2"]
    entry = report.quarantined[0]
    assert (entry.error, entry.source) == ("TruncatedFileError", str(recording))
    assert (entry.format, entry.index) == ("irasim", 1)
    assert "rgb.mp4" in entry.message
    assert "3 actions for 8 frames" in report.quarantined[1].message
    assert report.quarantine is not None
    assert len(report.quarantine.read_text().splitlines()) == 2

    video.write_bytes(whole)
    patient = ingest_here(recording, target)
    assert (patient.total.episodes, patient.total.quarantined) == (0, 2)
    retried = ingest_here(recording, target, retry=True)
    assert (retried.total.episodes, retried.total.quarantined) == (1, 1)
    assert [entry.id for entry in retried.quarantined] == ["lab/train/2"]
    assert len(report.quarantine.read_text().splitlines()) == 1
    actions.write_text(json.dumps(content))
    assert ingest_here(recording, target, retry=True).quarantined == []
    assert not report.quarantine.exists()
    assert sorted(EpisodeStore.open(target).ids) == [f"lab/train/{n}" for n in range(4)]


def test_line_that_a_kill_cut_off_costs_nothing(tmp_path: Path) -> None:
    recording, target = write_irasim(tmp_path / "lab", episodes=3), tmp_path / "s.zarr"
    cut(recording / "videos/train/1/rgb.mp4")
    report = ingest_here(recording, target)
    assert report.quarantine is not None
    cut(report.quarantine)
    again = ingest_here(recording, target)
    assert [entry.id for entry in again.quarantined] == ["lab/train/1"]
    assert again.stored == 2


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


def test_processes_give_what_this_process_gives(recording: Path, tmp_path: Path) -> None:
    cut_off = tmp_path / "lab"
    shutil.copytree(recording, cut_off)
    cut(cut_off / "videos/train/2/rgb.mp4")
    stores = []
    for count in (0, 2):
        report = ingest_here(cut_off, tmp_path / f"{count}.zarr", workers=count)
        assert [entry.index for entry in report.quarantined] == [2]
        stores.append(EpisodeStore.open(tmp_path / f"{count}.zarr"))
    assert list(stores[0].ids) == list(stores[1].ids)
    for here, there in zip(*stores, strict=True):
        assert_same(here, there)
        assert np.array_equal(here.frames, there.frames)


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


def test_interrupt_commits_what_is_whole_and_the_next_run_goes_on(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = run._append
    taken: list[str] = []

    def interrupted(store: EpisodeStore, item: run.Item, result: run.Result) -> run.Result:
        taken.append(item.id)
        if len(taken) == 2:
            signal.raise_signal(signal.SIGINT)
        return append(store, item, result)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(run, "_append", interrupted)
    report = ingest_here(recording, tmp_path / "s.zarr")
    assert report.interrupted
    assert signal.getsignal(signal.SIGINT) is before
    # The second one and what was prepared by then.
    assert 2 <= report.stored < 5
    assert EpisodeStore.open(tmp_path / "s.zarr").verify(deep=True) == []
    rest = ingest_here(recording, tmp_path / "s.zarr")
    assert not rest.interrupted
    assert (rest.total.skipped, rest.stored) == (report.stored, 5)


def test_second_interrupt_stops_at_once_and_harms_nothing(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = run._append

    def interrupted(store: EpisodeStore, item: run.Item, result: run.Result) -> run.Result:
        if item.index == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return append(store, item, result)

    monkeypatch.setattr(run, "_append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ingest_here(recording, tmp_path / "s.zarr")
    monkeypatch.undo()
    assert ingest_here(recording, tmp_path / "s.zarr").stored == 5
    assert EpisodeStore.open(tmp_path / "s.zarr").verify(deep=True) == []


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


def test_store_that_another_process_writes_to_is_left_alone(
    recording: Path, tmp_path: Path
) -> None:
    with (
        EpisodeStore.create(tmp_path / "s.zarr"),
        pytest.raises(StoreLockedError, match="is being written"),
    ):
        ingest_here(recording, tmp_path / "s.zarr")


def test_store_at_a_url(recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"memory://{tmp_path.name}/remote.zarr"
    damaged = tmp_path / "lab"
    shutil.copytree(recording, damaged)
    cut(damaged / "videos/train/0/rgb.mp4")
    report = ingest_here(damaged, url)
    assert (report.stored, len(report.quarantined)) == (4, 1)
    assert report.quarantine == tmp_path / "remote.zarr.quarantine.jsonl"
    assert ingest_here(damaged, url).total.skipped == 4


def test_store_is_a_source_too(recording: Path, tmp_path: Path) -> None:
    ingest_here(recording, tmp_path / "a.zarr")
    ingest_here(tmp_path / "a.zarr", tmp_path / "b.zarr")
    a, b = (EpisodeStore.open(tmp_path / name) for name in ("a.zarr", "b.zarr"))
    assert list(b.ids) == [f"a/{id}" for id in a.ids]
    for old, new in zip(a, b, strict=True):
        assert_same(old, new)
        assert old.frames.encoded(0) == new.frames.encoded(0)


@pytest.mark.parametrize(
    ("source", "message"),
    [("nowhere", "check the path"), ("x=nowhere", "check the path"), (".", "no recording")],
)
def test_source_that_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AIDRobotError, match=message):
        ingest_here(source, tmp_path / "s.zarr")
    with pytest.raises(AIDRobotError, match="did you mean 'irasim'"):
        ingest_here(source, tmp_path / "s.zarr", format="iarsim")
    assert not (tmp_path / "s.zarr").exists()


def test_killed_runs_lose_and_repeat_nothing(tmp_path: Path) -> None:
    done = kill_loop(tmp_path, kills=4)
    assert done.kills == 4


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
    report = ingest_here(bridge_dir / source, tmp_path / "small.zarr", size=(48, 64))
    assert (report.stored, report.quarantined) == (episodes, [])
    small = EpisodeStore.open(tmp_path / "small.zarr")
    for stored, original in zip(small, read, strict=True):
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
