"""Workers: processes that may die, and a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from aid_robot.data.convert import Failure, PreparedEpisode, Settings, ingest, run
from aid_robot.data.convert.sources import Source, find_sources
from aid_robot.data.convert.workers import Processes, RayTasks
from aid_robot.data.store import EpisodeStore
from aid_robot.data.video import write_video
from aid_robot.errors import ConfigError, DataFormatError, MissingDependencyError
from tests.recordings import plain_frames, write_irasim


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return find_sources([str(write_irasim(tmp_path / "lab", episodes=4))])[0]


@pytest.fixture
def long_source(tmp_path: Path) -> Source:
    """A recording that keeps a worker busy for half a minute."""
    write_video(tmp_path / "long.mp4", plain_frames([40, 60] * 1500, 16, 16), 5)
    return find_sources([str(tmp_path / "long.mp4")])[0]


SLOW = Settings(size=(320, 320), codec="png")


def kill_worker() -> None:
    """Kill the process that is started next, or was started last."""
    for _ in range(1000):
        if children := multiprocessing.active_children():
            assert children[0].pid is not None
            os.kill(children[0].pid, signal.SIGKILL)
            return
        time.sleep(0.01)
    raise AssertionError("no worker was started")


def test_death_of_a_process_costs_the_episode_in_its_hands(
    source: Source, long_source: Source
) -> None:
    workers = Processes(1, SLOW)
    try:
        # Once this is done the process is there.
        assert isinstance(workers.submit(source, 0).result(60), PreparedEpisode)
        hopeless, next_one = workers.submit(long_source, 0), workers.submit(source, 1)
        kill_worker()
        failure = hopeless.result(60)
        assert isinstance(failure, Failure)
        assert failure.kind == "WorkerDied"
        assert "SIGKILL" in failure.message
        assert "--retry" in failure.message
        whole = next_one.result(60)
        assert isinstance(whole, PreparedEpisode)
        assert whole.episode.id == "lab/train/1"
    finally:
        workers.close()
    assert not multiprocessing.active_children()


def test_process_that_dies_as_it_starts_is_replaced(source: Source) -> None:
    workers = Processes(1, Settings())
    try:
        first = workers.submit(source, 0)
        kill_worker()
        assert isinstance(first.result(60), PreparedEpisode)
    finally:
        workers.close()


def test_processes_that_can_not_start_end_the_run(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom aid_robot.data.convert import ingest\n"
        "ingest([sys.argv[1]], sys.argv[2], workers=1, progress=False)\n"
    )
    write_irasim(tmp_path / "lab", episodes=3)
    command = [sys.executable, script, tmp_path / "lab", tmp_path / "s.zarr"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "ConfigError" in done.stderr
    assert "__main__" in done.stderr
    assert not (tmp_path / "s.zarr.quarantine.jsonl").exists()
    assert len(EpisodeStore.open(tmp_path / "s.zarr")) == 0


def test_run_goes_on_after_a_process_died(
    source: Source, long_source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = write_irasim(tmp_path / "more", episodes=2)
    append = run._append

    def kill_in_the_long_one(store: EpisodeStore, item: run.Item, result: run.Result) -> run.Result:
        if item.id == "lab/train/3":
            kill_worker()
        return append(store, item, result)

    monkeypatch.setattr(run, "_append", kill_in_the_long_one)
    report = ingest(
        [source.path, long_source.path, more],
        tmp_path / "s.zarr",
        size=SLOW.size,
        codec="png",
        workers=1,
        progress=False,
    )
    assert [(entry.id, entry.error) for entry in report.quarantined] == [
        ("long/long", "WorkerDied")
    ]
    assert report.stored == 6


def test_close_does_not_wait_for_what_was_begun(source: Source, long_source: Source) -> None:
    workers = Processes(1, SLOW)
    assert isinstance(workers.submit(source, 0).result(60), PreparedEpisode)
    future = workers.submit(long_source, 0)
    while not future.running():
        time.sleep(0.01)
    started = time.monotonic()
    workers.close()
    assert time.monotonic() - started < 10
    assert isinstance(future.result(), Failure)
    assert not multiprocessing.active_children()


def test_error_of_a_worker_comes_back_in_words(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"no video")
    source = Source("v", tmp_path / "v.mp4", "video_csv")
    workers = Processes(1, Settings())
    try:
        failure = workers.submit(source, 0).result(20)
    finally:
        workers.close()
    assert isinstance(failure, Failure)
    assert failure.kind == "DataFormatError"
    assert "v.mp4" in failure.message


@pytest.mark.slow
def test_ray_cluster_gives_what_this_process_gives(source: Source, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    damaged = source.path / "videos/train/2/rgb.mp4"
    damaged.write_bytes(damaged.read_bytes()[:200])
    elsewhere = Source("gone", tmp_path / "gone", "irasim")
    with pytest.raises(DataFormatError, match="share"):
        RayTasks("local", None, Settings(), [elsewhere])
    assert not ray.is_initialized()
    report = ingest([source.path], tmp_path / "ray.zarr", ray="local", progress=False)
    assert not ray.is_initialized()
    assert [entry.error for entry in report.quarantined] == ["TruncatedFileError"]
    ingest([source.path], tmp_path / "here.zarr", workers=0, progress=False)
    there, here = (EpisodeStore.open(tmp_path / f"{name}.zarr") for name in ("ray", "here"))
    assert list(there.ids) == list(here.ids)
    for first, second in zip(there, here, strict=True):
        assert np.array_equal(first.frames, second.frames)


@pytest.mark.slow
def test_ray_address_where_nothing_is_says_so(source: Source, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match=r"no Ray cluster at '127\.0\.0\.1:9'"):
        ingest([source.path], tmp_path / "s.zarr", ray="127.0.0.1:9", progress=False)
    assert not (tmp_path / "s.zarr").exists()


def test_ray_that_is_not_installed_names_the_command(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"aid-robot\[ray\]"):
        ingest([source.path], tmp_path / "s.zarr", ray="local", progress=False)
