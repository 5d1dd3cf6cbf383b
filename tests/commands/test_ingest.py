"""`aid-robot ingest`: what a user types, the table that comes back, and the exit status."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from aid_robot.cli import main
from aid_robot.data.store import EpisodeStore
from aid_robot.data.video import write_video
from tests.recordings import plain_frames, write_irasim


def ingest(*args: object) -> int:
    return main(["ingest", *map(str, args), "--workers", "0"])


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write_irasim(tmp_path / "lab", episodes=4)


def test_table_says_what_was_done(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "clip.mp4", plain_frames([40] * 25), 5)
    store = tmp_path / "s.zarr"
    assert ingest(recording, tmp_path / "clip.mp4", "-o", store, "--limit", 3) == 0
    printed = capsys.readouterr()
    rows = [line.split() for line in printed.out.splitlines()]
    assert rows[0][:4] == ["source", "format", "episodes", "frames"]
    assert rows[1][:4] == ["lab", "irasim", "3", "24"]
    assert rows[2][:4] == ["clip", "video_csv", "1", "25"]
    assert rows[3][:3] == ["total", "4", "49"]
    assert "episodes/s" in printed.out
    assert "note, 3 x: 7 actions for 8 frames: the last frame got a still one" in printed.out
    assert printed.err == ""
    assert ingest(recording, "-o", store) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert (row[2], row[-2]) == ("1", "3")


def test_quarantine_is_loud_and_strict_fails(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (recording / "videos/train/1/rgb.mp4").write_bytes(b"")
    store = tmp_path / "s.zarr"
    assert ingest(recording, "-o", store) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1].split()[-1] == "1"
    assert "1 episode is in quarantine" in printed.err
    assert "s.zarr.quarantine.jsonl" in printed.err
    assert "--retry" in printed.err
    assert "lab/train/1: TruncatedFileError" in printed.err
    assert ingest(recording, "-o", store, "--strict") == 1
    (recording / "videos/train/1/rgb.mp4").write_bytes(
        (recording / "videos/train/0/rgb.mp4").read_bytes()
    )
    assert ingest(recording, "-o", store, "--strict", "--retry") == 0
    assert len(EpisodeStore.open(store)) == 4


def test_nothing_readable_is_a_failure(recording: Path, tmp_path: Path) -> None:
    for video in recording.rglob("rgb.mp4"):
        video.write_bytes(b"")
    assert ingest(recording, "-o", tmp_path / "s.zarr") == 1


def test_frames_as_asked_for(recording: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    options = ("--size", "24x32", "--codec", "png", "--cameras", "front=image_0", "--fps", 10)
    assert ingest(f"kitchen={recording}", "-o", store, *options) == 0
    opened = EpisodeStore.open(store)
    assert opened.cameras == {"front": (24, 32)}
    assert opened[0].id == "kitchen/train/0"
    assert opened[0].fps == 10
    assert ingest(recording, "-o", tmp_path / "square.zarr", "--size", 32) == 0
    assert EpisodeStore.open(tmp_path / "square.zarr").cameras == {"image_0": (32, 32)}


@pytest.mark.parametrize(
    "option",
    [
        ("--size", "0"),
        ("--size", "big"),
        ("--size", "64x"),
        ("--cameras", "a,a"),
        ("--cameras", "=a"),
        ("--quality", "101"),
        ("--workers", "-1"),
        ("--limit", "0"),
    ],
)
def test_option_that_makes_no_sense_is_refused(
    recording: Path, tmp_path: Path, option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["ingest", str(recording), "-o", str(tmp_path / "s.zarr"), *option])
    assert end.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_mistake_is_one_line_that_says_what_to_do(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "clip.mp4", plain_frames([40] * 5, 32, 32), 5)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    store = tmp_path / "s.zarr"
    mistakes = [
        ((tmp_path / "none", "-o", store), "check the path"),
        ((recording, tmp_path / "clip.mp4", "-o", store), "--size 256"),
        ((recording, "-o", store, "--format", "rdls"), "did you mean 'rlds'"),
        ((recording, "-o", tmp_path / "other"), "not empty"),
    ]
    for args, hint in mistakes:
        assert ingest(*args) == 2, args
        error = capsys.readouterr().err
        assert error.startswith("aid-robot: error: ")
        assert error.count("\n") == 1, error
        assert hint in error, error
    assert not store.exists()
    assert (tmp_path / "other" / "file").read_text() == "mine"


def test_full_disk_keeps_what_was_committed_and_the_next_run_goes_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(4):
        frames = rng.integers(0, 256, (20, 64, 64, 3), np.uint8)
        write_video(tmp_path / f"v{number}.mp4", frames, 5)
    command = [
        *(sys.executable, "-m", "aid_robot.cli", "ingest", *map(str, tmp_path.glob("v*.mp4"))),
        *("-o", str(tmp_path / "s.zarr"), "--workers", "0"),
    ]

    def allow_small_files_only() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    full = subprocess.run(
        command, capture_output=True, text=True, check=False, preexec_fn=allow_small_files_only
    )
    assert full.returncode == 1, full.stderr
    assert full.stderr.startswith("aid-robot: error: ")
    assert "make room" in full.stderr
    assert EpisodeStore.open(tmp_path / "s.zarr").verify(deep=True) == []
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert len(EpisodeStore.open(tmp_path / "s.zarr")) == 4


def test_interrupt_of_all_processes_leaves_a_whole_store(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    video = write_video(tmp_path / "v.mp4", plain_frames(list(range(40, 120, 4))), 5)
    for number in range(500):
        os.link(video, tmp_path / "videos" / f"{number}.mp4")
    store = tmp_path / "s.zarr"
    command = [
        *(sys.executable, "-m", "aid_robot.cli", "ingest", str(tmp_path / "videos")),
        *("-o", str(store), "--size", "400", "--workers", "2"),
    ]
    # A terminal sends Ctrl-C to all processes of the group.
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while process.poll() is None and not (store / "data").is_dir():
            time.sleep(0.01)
        # The workers are starting, or at work.
        time.sleep(1)
        os.killpg(process.pid, signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert error == "interrupted: run the same command again to go on\n"
    assert out.startswith("source")
    opened = EpisodeStore.open(store)
    assert len(opened) < 500
    assert all(len(episode) == 20 for episode in opened)
    assert not (tmp_path / "s.zarr.spool").exists()
