"""What is exported to LeRobot comes back whole, and is what LeRobot itself expects."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aid_robot.data import ArrayFrames, Episode, open_recording
from aid_robot.data.container import read_index
from aid_robot.data.writers import lerobot_files, write_lerobot
from tests.data.mixed_episodes import LENGTHS, assert_same, episode, mixed_episodes, numbers
from tests.data.numbered_frames import number_of, numbered_frames


def assert_whole(folder: Path, episodes: list[Episode]) -> None:
    recording = open_recording(folder)
    assert recording.ids == [episode.id for episode in episodes]
    start = 0
    for read, written in zip(recording, episodes, strict=True):
        assert_same(read, written)
        expected = list(range(start, start + len(written)))
        assert numbers(read.frames) == expected
        if "wrist" in read.videos:
            assert numbers(255 - read.videos["wrist"][:]) == expected
        start += len(written)


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_episodes_come_back_whole(tmp_path: Path, codec: str) -> None:
    episodes = mixed_episodes()
    folder = write_lerobot(iter(episodes), tmp_path / "set", fps=5, codec=codec, progress=False)
    assert folder == tmp_path / "set"
    assert_whole(folder, episodes)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="no scheduling policies here")
def test_av1_leaves_the_process_at_its_ordinary_priority(tmp_path: Path) -> None:
    # As root, the encoder makes threads real-time ones, and whatever they start with them.
    write_lerobot(mixed_episodes(), tmp_path / "set", fps=5, codec="av1", progress=False)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_files_are_rolled_at_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lerobot_files, "VIDEO_MIB", 0.004)
    monkeypatch.setattr(lerobot_files, "DATA_MIB", 0.01)
    monkeypatch.setattr(lerobot_files, "CHUNK_FILES", 2)
    folder = write_lerobot(mixed_episodes(), tmp_path / "set", fps=5, progress=False)
    assert len(list(folder.glob("videos/observation.images.image_0/chunk-001/*.mp4"))) > 1
    assert len(list(folder.glob("data/*/*.parquet"))) > 3
    assert_whole(folder, mixed_episodes())
    assert by_hand(folder) == list(range(sum(LENGTHS)))


def by_hand(folder: Path) -> list[int]:
    """Read as LeRobot does, by times, and check what it relies on; return the frames' numbers."""
    info = json.loads((folder / "meta/info.json").read_text())
    table = pa.concat_tables(
        pq.read_table(path) for path in sorted(folder.glob("data/*/*.parquet"))
    )
    rows = table.to_pylist()
    cameras = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    assert table.column_names == [key for key in info["features"] if key not in cameras]
    assert not any(column.null_count for column in table.columns)
    entries = [
        entry
        for path in sorted(folder.glob("meta/episodes/*/*.parquet"))
        for entry in pq.read_table(path).to_pylist()
    ]
    assert len(entries) == info["total_episodes"]
    assert len(rows) == info["total_frames"]
    texts = pq.read_table(folder / "meta/tasks.parquet").to_pydict()
    assert texts["task_index"] == list(range(info["total_tasks"]))
    for key in cameras:
        # LeRobot's tools rely on that order, and go on writing behind the last.
        names = [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
        places = [[entry[name] for name in names] for entry in entries]
        assert all(first < second for first, second in pairwise(places))
    seen = []
    for entry in entries:
        assert not [name for name, value in entry.items() if value is None]
        part = rows[entry["dataset_from_index"] : entry["dataset_to_index"]]
        assert len(part) == entry["length"]
        data = info["data_path"].format(
            chunk_index=entry["data/chunk_index"], file_index=entry["data/file_index"]
        )
        assert entry["episode_index"] in pq.read_table(folder / data)["episode_index"].to_pylist()
        videos = {key: shown(folder, info, entry, key) for key in cameras}
        for place, row in enumerate(part):
            assert row["episode_index"] == entry["episode_index"]
            assert (row["frame_index"], row["index"]) == (place, len(seen))
            assert entry["tasks"] == [texts["task"][row["task_index"]]]
            for key, (start, times, frames) in videos.items():
                far = np.abs(times - (start + row["timestamp"]))
                assert far.min() < 1e-4
                if key == "observation.images.image_0":
                    seen.append(number_of(frames[far.argmin()]))
    return seen


def shown(
    folder: Path, info: dict[str, Any], entry: dict[str, Any], key: str
) -> tuple[float, np.ndarray, list[np.ndarray]]:
    place = {name: entry[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
    with av.open(str(folder / info["video_path"].format(video_key=key, **place))) as video:
        assert video.streams.video[0].average_rate == info["fps"]
        assert video.streams.video[0].pix_fmt == "yuv420p"
        frames = [(f.time, f.to_ndarray(format="rgb24")) for f in video.decode(video=0)]
    assert frames[0][1].shape == tuple(info["features"][key]["shape"])
    start, stop = (entry[f"videos/{key}/{name}_timestamp"] for name in ("from", "to"))
    assert stop - start == pytest.approx(entry["length"] / info["fps"])
    return start, np.array([time for time, _ in frames]), [frame for _, frame in frames]


def test_files_are_what_lerobot_expects(tmp_path: Path) -> None:
    folder = write_lerobot(mixed_episodes(), tmp_path / "set", fps=5, progress=False)
    assert by_hand(folder) == list(range(sum(LENGTHS)))
    info = json.loads((folder / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert info["splits"] == {"train": "0:7"}
    assert type(info["fps"]) is int
    assert info["features"]["action"]["names"][0] == "x"
    assert info["features"]["touch"] == {"dtype": "float32", "shape": [2, 3], "names": None}
    assert info["features"]["done"] == {"dtype": "bool", "shape": [1], "names": None}
    # LeRobot's own `index` is another.
    assert info["features"]["index_2"]["dtype"] == "uint8"
    assert info["features"]["observation.images.wrist"]["info"]["video.codec"] == "h264"
    # What LeRobot asks to be fixed in size.
    table = pq.read_table(folder / "data/chunk-000/file-000.parquet")
    assert table.schema.field("action").type == pa.list_(pa.float32(), 7)
    assert np.isnan(table["observation.state"].to_pylist()[0]).all()
    pandas = json.loads(pq.read_schema(folder / "meta/tasks.parquet").metadata[b"pandas"])
    assert pandas["index_columns"] == ["task"]


def test_episodes_begin_with_keyframes(tmp_path: Path) -> None:
    folder = write_lerobot(mixed_episodes(), tmp_path / "set", fps=5, progress=False)
    index = read_index(folder / "videos/observation.images.image_0/chunk-000/file-000.mp4")
    keyframes = {keyframe.number for keyframe in index.keyframes}
    assert {0, *np.cumsum(LENGTHS)[:-1].tolist()} <= keyframes
    # And so often that any frame is reached by decoding two.
    assert max(np.diff([*sorted(keyframes), index.count])) <= 2


def test_lacking_cameras_are_black_for_lerobot(tmp_path: Path) -> None:
    folder = write_lerobot(mixed_episodes(), tmp_path / "set", fps=5, progress=False)
    key = "observation.images.wrist"
    table = pq.read_table(folder / "meta/episodes/chunk-000/file-000.parquet")
    info = json.loads((folder / "meta/info.json").read_text())
    for entry in table.to_pylist():
        start, times, frames = shown(folder, info, entry, key)
        first = int(np.abs(times - start).argmin())
        mine = frames[first : first + entry["length"]]
        assert len(mine) == entry["length"]
        is_black = entry["episode_index"] in (0, 1, 4)
        assert (np.mean(mine) < 5) == is_black
        assert entry[f"stats/{key}/count"] == [0 if is_black else entry["length"]]


def test_another_robots_actions_keep_their_name(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).random((7, 6)).astype(np.float32)
    made = episode(0, 0, 7, actions=None, arrays={"action": rows})
    folder = write_lerobot([made], tmp_path / "set", progress=False)
    assert_whole(folder, [made])
    info = json.loads((folder / "meta/info.json").read_text())
    assert info["features"]["action"]["shape"] == [6]
    # Beside an episode's own actions they get another.
    both = replace(made, actions=np.zeros((7, 7), np.float32))
    assert_whole(write_lerobot([both], tmp_path / "both", progress=False), [both])


def test_an_odd_side_grows(tmp_path: Path) -> None:
    frames = numbered_frames(3)[:, :47, :63]
    made = episode(0, 0, 3, videos={"image_0": ArrayFrames(frames)})
    folder = write_lerobot([made], tmp_path / "set", progress=False)
    read = open_recording(folder)[0].frames[:]
    assert read.shape == (3, 48, 64, 3)
    assert np.abs(read[:, :47, :63].astype(int) - frames).mean() < 8


TEXT = st.text(max_size=20)
ARRAYS = st.dictionaries(
    TEXT,
    st.sampled_from(
        [
            np.arange(2),
            np.array([[True], [False]]),
            np.array([[0.5, np.nan], [np.inf, 1]], np.float16),
            np.arange(12, dtype=">i2").reshape(2, 3, 2),
            np.arange(2, dtype=np.uint64) + 2**63,
        ]
    ),
    max_size=3,
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=5,
)


@given(
    name=TEXT,
    texts=st.lists(TEXT.filter(str.strip), max_size=3, unique=True).map(tuple),
    cameras=st.lists(TEXT, min_size=1, max_size=2, unique=True),
    arrays=ARRAYS,
    info=st.dictionaries(TEXT, JSON, max_size=2),
)
@settings(deadline=None, max_examples=25)
def test_any_names_and_facts_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    texts: tuple[str, ...],
    cameras: list[str],
    arrays: dict[str, np.ndarray],
    info: dict[str, Any],
) -> None:
    frames = ArrayFrames(np.full((2, 16, 16, 3), 90, np.uint8))
    made = episode(
        0, 0, 2, id=name, videos=dict.fromkeys(cameras, frames), arrays=arrays, info=info,
        instruction=texts[0] if texts else None, instructions=texts, scene=name, source=name,
    )  # fmt: skip
    folder = write_lerobot([made], tmp_path_factory.mktemp("any") / "set", progress=False)
    read = open_recording(folder)[0]
    for key, rows in made.arrays.items():
        assert np.array_equal(read.arrays[key], rows, equal_nan=rows.dtype.kind == "f")
    bare = {"arrays": {}, "videos": {"image_0": frames}}
    assert_same(replace(read, **bare), replace(made, **bare))
    assert list(read.arrays) == list(made.arrays)
    assert list(read.videos) == cameras


def test_lerobot_itself_reads_an_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the lerobot package")
    lerobot = pytest.importorskip("lerobot.datasets.lerobot_dataset", reason="needs lerobot")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    episodes = mixed_episodes()
    folder = write_lerobot(episodes, tmp_path / "set", fps=5, progress=False)
    read = lerobot.LeRobotDataset("ours/set", root=folder, video_backend="pyav")
    assert len(read) == sum(LENGTHS)
    place = 0
    for number, written in enumerate(episodes):
        for frame in range(len(written)):
            row = read[place]
            assert (row["episode_index"], row["frame_index"]) == (number, frame)
            image = row["observation.images.image_0"].permute(1, 2, 0).numpy() * 255
            assert number_of(image.round().astype(np.uint8)) == place
            assert row["task"] == (written.instruction or "")
            if written.actions is not None:
                assert row["action"].numpy() == pytest.approx(written.actions[frame])
            place += 1


@pytest.mark.bridge
def test_recorded_bridge_comes_back(tmp_path: Path, bridge_dir: Path) -> None:
    rlds = open_recording(bridge_dir / "rlds" / "bridge_dataset" / "1.0.0")
    irasim = open_recording(bridge_dir / "irasim")
    for name, episodes in (("rlds", list(rlds)), ("irasim", list(islice(irasim, 2)))):
        read = open_recording(write_lerobot(episodes, tmp_path / name, progress=False))
        for got, expected in zip(read, episodes, strict=True):
            assert_same(got, expected)
            for camera, frames in expected.videos.items():
                error = got.videos[camera][:].astype(float) - frames[:]
                assert 10 * np.log10(255**2 / (error**2).mean()) > 33
