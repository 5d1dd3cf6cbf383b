"""Workers: processes that may die, and a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from aid_robot.data.convert import Failure, PreparedEpisode, Settings, ingest
from aid_robot.data.convert.sources import Source, find_sources
from aid_robot.data.convert.workers import Processes, RayTasks
from aid_robot.data.store import EpisodeStore
from aid_robot.data.video import write_video
from aid_robot.errors import ConfigError, DataFormatError, MissingDependencyError
from tests.recordings import plain_frames, write_irasim


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return find_sources([str(write_irasim(tmp_path / "lab", episodes=4))])[0]


def only_child() -> multiprocessing.process.BaseProcess:
    """Wait until there is a worker process."""
    for _ in range(500):
        if children := multiprocessing.active_children():
            return children[0]
        time.sleep(0.01)
    raise AssertionError("no worker was started")


def test_death_of_a_process_costs_the_episode_in_its_hands(source: Source) -> None:
    workers = Processes(1, Settings())
    try:
        first = workers.submit(source, 0)
        second = workers.submit(source, 1)
        child = only_child()
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        failure = first.result(20)
        assert isinstance(failure, Failure)
        assert failure.kind == "WorkerDied"
        assert "SIGKILL" in failure.message
        assert "--retry" in failure.message
        whole = second.result(20)
        assert isinstance(whole, PreparedEpisode)
        assert whole.episode.id == "lab/train/1"
    finally:
        workers.close()
    assert not multiprocessing.active_children()


def test_run_goes_on_after_a_process_died(source: Source, tmp_path: Path) -> None:
    def kill_one() -> None:
        child = only_child()
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    report = ingest([source.path], tmp_path / "s.zarr", workers=2, progress=False)
    killer.join()
    assert [entry.error for entry in report.quarantined] == ["WorkerDied"]
    assert report.stored == 3
    healed = ingest([source.path], tmp_path / "s.zarr", workers=0, retry=True, progress=False)
    assert (healed.quarantined, healed.stored) == ([], 4)


def test_close_does_not_wait_for_what_was_begun(tmp_path: Path) -> None:
    write_video(tmp_path / "long.mp4", plain_frames([40, 60] * 1500, 16, 16), 5)
    source = find_sources([str(tmp_path / "long.mp4")])[0]
    workers = Processes(1, Settings(size=(1024, 1024), codec="png"))
    future = workers.submit(source, 0)
    only_child()
    started = time.monotonic()
    workers.close()
    assert time.monotonic() - started < 5
    assert not isinstance(future.result(), PreparedEpisode)
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
