"""Every whole episode comes once, whatever stops a run, and what was left out is said."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from aid_robot.data.convert import run
from aid_robot.data.store import EpisodeStore
from aid_robot.data.video import write_video
from aid_robot.errors import AIDRobotError, ConfigError, StoreLockedError
from tests.data.convert.ingesting import assert_same, cut, ingest_here, write_videos
from tests.data.convert.kill_ingest import kill_loop
from tests.recordings import plain_frames, write_irasim


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_irasim(tmp_path_factory.mktemp("recordings") / "lab", episodes=5)


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


def test_new_store_has_an_empty_quarantine(tmp_path: Path) -> None:
    recording, target = write_irasim(tmp_path / "lab", episodes=2), tmp_path / "s.zarr"
    whole = cut(recording / "videos/train/1/rgb.mp4")
    assert ingest_here(recording, target).total.quarantined == 1
    (recording / "videos/train/1/rgb.mp4").write_bytes(whole)
    shutil.rmtree(target)
    assert ingest_here(recording, target).stored == 2


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
    # The second one, and the one that was prepared ahead by then.
    assert report.stored == 3
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
    done = kill_loop(tmp_path, kills=3)
    assert done.kills == 3
