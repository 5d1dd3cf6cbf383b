"""`aid-robot episodes`: list, filter, show, export, and tend a store."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aid_robot.cli import main
from aid_robot.commands.inputs import open_input
from aid_robot.data import ArrayFrames, Episode, VideoFrames, open_recording
from aid_robot.data.store import EpisodeStore
from aid_robot.evaluation.psnr import psnr
from tests.data.numbered_frames import number_of, numbered_frames
from tests.recordings import write_irasim


def episode(name: str, text: str, frames: int = 10, **fields: object) -> Episode:
    videos = {"image_0": ArrayFrames(numbered_frames(frames))}
    if "wrist" in str(fields.pop("cameras", "")):
        videos["wrist"] = ArrayFrames(numbered_frames(frames)[::-1].copy())
    rows = np.zeros((frames, 7), np.float32)
    texts = (text,) if text else ()
    return Episode(
        name,
        videos,
        actions=rows,
        instruction=text or None,
        instructions=texts,
        **{"fps": 5.0, **fields},  # type: ignore[arg-type]
    )


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with EpisodeStore.create(tmp_path / "s.zarr") as store:
        store.extend(
            [
                episode("lab/a", "put the carrot on the plate", outcome="success"),
                episode("lab/b", "open the drawer", 20, outcome="failure", cameras="wrist"),
                episode("sim/c", "lift the CARROT", 30, source="tabletop", notes=("odd",)),
                episode("sim/d", "", 4, fps=None),
            ]
        )
    return tmp_path / "s.zarr"


def episodes(*args: object) -> int:
    return main(["episodes", *map(str, args)])


def test_list_shows_every_episode(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert episodes(store) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == ["0", "10", "success", "lab/a:"]
    assert lines[1].endswith("put the carrot on the plate")
    assert lines[4].endswith("(no instruction)")
    assert lines[5] == "4 of 4 episodes, 64 frames, 0.00 hours"


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["--text", "carrot"], [0, 2]),
        (["--text", "carrot", "--min-frames", "11"], [2]),
        (["--outcome", "failure"], [1]),
        (["--source", "tabletop"], [2]),
        (["--source", "sim/"], [2, 3]),
        (["--camera", "wrist"], [1]),
        (["--limit", "2"], [0, 1]),
        (["--text", "carrot", "--limit", "1"], [0]),
        (["--text", "banana"], []),
    ],
)
def test_filters(
    store: Path, capsys: pytest.CaptureFixture[str], filters: list[str], expected: list[int]
) -> None:
    assert episodes(store, *filters, "--json") == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["index"] for record in records] == expected
    assert all({"id", "length", "instructions", "cameras"} <= set(record) for record in records)


def test_show_prints_what_is_known(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("2", "sim/c"):
        assert episodes(store, "show", name) == 0
        printed = capsys.readouterr().out
        assert "lift the CARROT" in printed
        assert "30 at 5 fps" in printed
        assert "image_0 64x48" in printed
        assert "note: odd" in printed
    assert episodes(store, "--json", "show", "1") == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "failure"
    assert episodes(store, "show", "9") == 2
    assert "0 to 3" in capsys.readouterr().err
    assert episodes(store, "show", "lab/x") == 2
    assert "did you mean" in capsys.readouterr().err


def test_show_draws_a_strip_and_a_video(store: Path, tmp_path: Path) -> None:
    sizes = []
    for number in (0, 1):
        path = tmp_path / f"strips/{number}.png"
        assert episodes(store, "show", number, "-o", path) == 0
        with Image.open(path) as strip:
            sizes.append(strip.size)
    # A row more for the second camera.
    assert sizes[1][1] > sizes[0][1] + 96
    assert episodes(store, "show", 1, "-o", tmp_path / "v.mp4") == 0
    assert episodes(store, "--camera", "wrist", "show", 1, "-o", tmp_path / "w.mp4") == 0
    for name, first in (("v.mp4", 0), ("w.mp4", 19)):
        video = VideoFrames(tmp_path / name)
        assert (len(video), video.rate, number_of(video[0])) == (20, 5, first)


def test_show_refuses_what_it_can_not_draw(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert episodes(store, "show", 0, "-o", tmp_path / "x.gif") == 2
    assert ".png" in capsys.readouterr().err
    assert episodes(store, "--camera", "wirst", "show", 1, "-o", tmp_path / "x.png") == 2
    assert "did you mean 'wrist'" in capsys.readouterr().err


def test_rerun_that_is_not_installed_names_the_command(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    assert episodes(store, "show", 0, "--rerun") == 2
    assert "aid-robot[rerun]" in capsys.readouterr().err


def test_rerun_file_holds_the_episode(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    path = tmp_path / "episode.rrd"
    assert episodes(store, "show", 1, "-o", path) == 0
    # 20 frames of two cameras.
    assert path.stat().st_size > 40 * 500


def test_export_and_back(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filters = ("--text", "carrot")
    for layout in ("lerobot", "mp4"):
        folder = tmp_path / layout
        assert episodes(store, *filters, "export", "--to", layout, "-o", folder) == 0
        assert "wrote 2 episodes" in capsys.readouterr().out
        read = open_recording(folder)
        assert [len(episode) for episode in read] == [10, 30]
        for exported, original in zip(read, (0, 2), strict=True):
            frames = EpisodeStore.open(store)[original].frames
            assert exported.instruction == EpisodeStore.open(store)[original].instruction
            assert psnr(np.asarray(exported.frames), np.asarray(frames)) > 28
    assert episodes(store, "--text", "banana", "export", "--to", "mp4", "-o", tmp_path / "x") == 2
    assert "filter" in capsys.readouterr().err


def test_other_recordings_are_listed_shown_and_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = write_irasim(tmp_path / "lab", episodes=3)
    assert episodes(recording, "--text", "drawer") == 0
    assert "1 of 3 episodes" in capsys.readouterr().out
    assert episodes(recording, "show", "train/1", "-o", tmp_path / "s.png") == 0
    assert episodes(recording, "export", "--to", "mp4", "-o", tmp_path / "videos") == 0
    for action in (["info"], ["verify"], ["drop", "0"], ["compact"], ["merge", "x"]):
        capsys.readouterr()
        assert episodes(recording, *action) == 2
        assert "aid-robot ingest" in capsys.readouterr().err


def test_info_and_verify(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert episodes(store, "info") == 0
    assert "64" in capsys.readouterr().out
    assert episodes(store, "--json", "info") == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 4
    assert episodes(store, "verify", "--deep") == 0
    assert "4 episodes, no problems" in capsys.readouterr().out
    shard = next(path for path in (store / "data/image_0").iterdir() if path.name != "zarr.json")
    data = bytearray(shard.read_bytes())
    data[len(data) // 4] ^= 0xFF
    shard.write_bytes(data)
    assert episodes(store, "verify", "--deep") == 1
    assert "1 problem" in capsys.readouterr().out


def test_drop_compact_and_merge(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert episodes(store, "drop", "0", "sim/d") == 0
    assert "2 episodes are left" in capsys.readouterr().out
    assert list(EpisodeStore.open(store).ids) == ["lab/b", "sim/c"]
    assert episodes(store, "compact") == 0
    assert list(EpisodeStore.open(store).ids) == ["lab/b", "sim/c"]
    with EpisodeStore.create(tmp_path / "other.zarr") as other:
        other.append(episode("x/e", "close the drawer"))
    assert episodes(store, "merge", tmp_path / "other.zarr") == 0
    assert "1 episodes of" in capsys.readouterr().out
    assert list(EpisodeStore.open(store).ids) == ["lab/b", "sim/c", "x/e"]
    assert episodes(store, "drop", "lab/zzz") == 2


def test_empty_store_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    EpisodeStore.create(tmp_path / "e.zarr").close()
    assert episodes(tmp_path / "e.zarr") == 0
    assert "0 of 0 episodes" in capsys.readouterr().out


def test_store_is_a_recording_for_every_command(store: Path, tmp_path: Path) -> None:
    recording = open_recording(store)
    assert (recording.format, len(recording)) == ("store", 4)
    assert recording["lab/b"].outcome == "failure"
    assert open_recording(store, fps=7)[0].fps == 7
    view = open_input(f"{store}#lab/b", camera="wrist").view(1, 5.0)
    assert number_of(view.frames[0]) == 19
