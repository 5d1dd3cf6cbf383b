"""Damaged, contradictory and hostile LeRobot data sets are refused with a sentence."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aid_robot.data import open_recording
from aid_robot.data.ingest.lerobot_files import fill
from aid_robot.errors import AIDRobotError, DataFormatError, TruncatedFileError
from tests.data.lerobot_writer import (
    Tiny,
    change_feature,
    change_info,
    read_episodes,
    write_episodes,
    write_lines,
    write_v2,
    write_v3,
)

DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.image_0/chunk-000/file-000.mp4"
FROM, TO = (f"videos/observation.images.image_0/{name}_timestamp" for name in ("from", "to"))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One data set of each version."""
    folder = tmp_path_factory.mktemp("lerobot")
    write_v2(folder / "2")
    write_v3(folder / "3")
    write_v3(folder / "images", Tiny(images=True))
    return folder


@pytest.fixture
def v2(sets: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sets / "2", tmp_path / "2"))


@pytest.fixture
def v3(sets: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sets / "3", tmp_path / "3"))


@pytest.fixture
def images(sets: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sets / "images", tmp_path / "images"))


@pytest.mark.parametrize(
    "template",
    [
        "{chunk_index.__class__.__init__.__globals__}/{file_index}",
        "{chunk_index[0]}/{file_index}",
        "{chunk_index!r}/{file_index}",
        "{chunk_index:{file_index}}",
        "{file_index:999999999d}",
        "{file_index:>99}",
        "{secret}",
        "{}",
        "{0}",
        "{file_index",
        "../../{file_index}",
        "/etc/{file_index}",
        "C:\\{file_index}",
        "a\\..\\..\\{file_index}",
        "~/\0{file_index}",
        "",
    ],
)
def test_paths_that_lead_elsewhere_are_refused(v3: Path, template: str) -> None:
    change_info(v3, data_path=template)
    with pytest.raises(DataFormatError, match=r"info\.json"):
        open_recording(v3)[0]


@given(template=st.text("{}:!.[]/d0123_abcefhiklnux\\~", max_size=40))
@settings(deadline=None)
def test_any_path_stays_inside(template: str) -> None:
    root = Path("/nowhere")
    with contextlib.suppress(DataFormatError):
        path = fill(root, template, chunk_index=3, file_index=5)
        assert path.is_relative_to(root)
        assert ".." not in path.parts


def test_keys_of_cameras_lead_nowhere(v3: Path) -> None:
    features = json.loads((v3 / "meta/info.json").read_text())["features"]
    features["../../secret"] = features.pop("observation.images.image_0")
    change_info(v3, features=features)
    rows = read_episodes(v3)
    for row in rows:
        for name in ("chunk_index", "file_index", "from_timestamp", "to_timestamp"):
            row[f"videos/../../secret/{name}"] = row[f"videos/observation.images.image_0/{name}"]
    write_episodes(v3, rows)
    with pytest.raises(DataFormatError, match="leads out"):
        open_recording(v3)[0]


def test_paths_of_images_lead_nowhere(images: Path) -> None:
    table = pq.read_table(images / DATA)
    key = "observation.images.image_0"
    column = table.column_names.index(key)
    elsewhere = [{"bytes": None, "path": "../../../etc/passwd"}] * len(table)
    values = pa.array(elsewhere, table.schema.field(column).type)
    pq.write_table(table.set_column(column, key, values), images / DATA)
    with pytest.raises(DataFormatError, match="leads out"):
        open_recording(images)[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebase_version": "v1.6"}, "codebase_version 'v1.6'; expected v2.0, v2.1 or v3.0"),
        ({"codebase_version": None}, "codebase_version None"),
        ({"fps": 0}, "fps 0; expected a positive number"),
        ({"fps": float("inf")}, "fps inf"),
        ({"fps": "5"}, "fps '5'"),
        ({"features": []}, "no 'features'"),
        ({"features": {"action": {"dtype": "float32"}}}, "expected 'dtype' and 'shape'"),
        ({"features": {"action": {"dtype": "float32", "shape": [-7]}}}, "whole numbers"),
        ({"chunks_size": 0}, "chunks_size 0"),
        ({"total_episodes": "3"}, "total_episodes '3'"),
        ({"video_path": None}, "is not a file; expected a video"),
        # The frames are then elsewhere than their times say.
        ({"fps": 10}, "which at 10 frames a second is not 12 frames"),
    ],
)
def test_wrong_descriptions_are_refused(v3: Path, changes: dict[str, Any], message: str) -> None:
    change_info(v3, **changes)
    with pytest.raises(DataFormatError, match=message):
        open_recording(v3)[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 11}, "12 rows, but meta/ says 11"),
        ({"episode_index": 7}, "no rows of episode 7"),
        ({"episode_index": 0}, "twice or has negative numbers"),
        ({"data/file_index": 3}, r"there is no .*file-003\.parquet"),
        ({"data/chunk_index": None}, "no data/chunk_index"),
        ({FROM: 4.0, TO: 6.4}, "frames 20 to 32 of .*, which has 24"),
        ({TO: 3.0}, "is not 12 frames"),
        ({FROM: 1.5, TO: 3.9}, "is not 12 frames"),
        ({FROM: float("nan")}, "is not 12 frames"),
        ({FROM: float("inf"), TO: float("inf")}, "is not 12 frames"),
        ({FROM: -2.4, TO: 0.0}, "is not 12 frames"),
    ],
)
def test_wrong_entries_are_refused(v3: Path, change: dict[str, Any], message: str) -> None:
    rows = read_episodes(v3)
    rows[1] |= change
    write_episodes(v3, rows)
    with pytest.raises(DataFormatError, match=message):
        list(open_recording(v3))


def test_a_file_at_another_rate_is_refused(v3: Path) -> None:
    """Times that fit the table may still not fit the file."""
    from tests.data.numbered_frames import encode, numbered_frames

    encode(v3 / VIDEO, numbered_frames(24), rate=15)
    with pytest.raises(DataFormatError, match="plays at 15 frames a second"):
        open_recording(v3)[1]


def test_lengths_that_differ_are_refused_in_v2(v2: Path) -> None:
    video = v2 / "videos/chunk-000/observation.images.image_0/episode_000000.mp4"
    shutil.copy(v2 / "videos/chunk-000/observation.images.image_0/episode_000001.mp4", video)
    with pytest.raises(DataFormatError, match=r"has 12 frames, but .* has 7 rows"):
        open_recording(v2)[0]
    assert len(open_recording(v2)[1]) == 12


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"episode_index": 0, "length": -1}], "length -1"),
        ([{"episode_index": True, "length": 7}], "episode_index True"),
        ([{"episode_index": 0, "length": 7, "tasks": [1]}], r"tasks \[1\]"),
        ([{"episode_index": 0, "length": 7}] * 2, "1 episodes twice"),
        ([], "no episodes"),
    ],
)
def test_wrong_lines_are_refused_in_v2(v2: Path, rows: list[Any], message: str) -> None:
    write_lines(v2 / "meta/episodes.jsonl", rows)
    with pytest.raises(DataFormatError, match=message):
        open_recording(v2)[0]


def replaced(file: Path, key: str, values: pa.Array) -> None:
    table = pq.read_table(file)
    pq.write_table(table.set_column(table.column_names.index(key), key, values), file)


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("task_index", [9] * 24, "has the task 9"),
        ("task_index", [[0]] * 24, "expected whole numbers"),
        ("episode_index", [0.0] * 24, "expected whole numbers"),
        ("episode_index", [0, 1] * 12, "in several places"),
        ("action", [[1.0] * 6] * 24, r"shape \(6,\) a frame, but .* says \(7,\)"),
        ("action", [[1.0] * 7] * 23 + [[1.0]], "lists of 7 and of 1 values|lists of 1 and"),
        ("action", [[1.0] * 7] * 23 + [None], "lacks 1 values"),
        ("action", [[None] * 7] * 24, "expected numbers|lacks"),
        ("action", [["left"] * 7] * 24, "expected numbers"),
        ("action", [[float("nan")] * 7] * 24, "not finite"),
    ],
)
def test_wrong_columns_are_refused(v3: Path, key: str, values: list[Any], message: str) -> None:
    replaced(v3 / DATA, key, pa.array(values))
    with pytest.raises(DataFormatError, match=message):
        open_recording(v3)[2]


def test_missing_columns_and_files_are_named(v3: Path) -> None:
    change_feature(v3, "observation.effort", dtype="float32", shape=[6])
    with pytest.raises(DataFormatError, match=r"no column observation\.effort"):
        open_recording(v3)[0]
    (v3 / "meta/tasks.parquet").unlink()
    with pytest.raises(DataFormatError, match=r"there is no .*tasks\.parquet"):
        open_recording(v3)


def test_a_few_bytes_do_not_fill_the_memory(v3: Path) -> None:
    """Runs of equal values are packed into nothing: the file's own word for its size is checked."""
    count = 80_000_000
    zeros = pa.Array.from_buffers(pa.bool_(), count, [None, pa.py_buffer(bytes(count // 8))])
    bomb = pa.table(
        {"episode_index": pa.array([0]), "action": pa.ListArray.from_arrays([0, count], zeros)}
    )
    pq.write_table(bomb, v3 / DATA)
    assert (v3 / DATA).stat().st_size < 2e6
    with pytest.raises(DataFormatError, match="would unpack to 640000008"):
        open_recording(v3)[0]


def test_a_repeated_text_takes_memory_once(v3: Path) -> None:
    text = "x" * 2**20
    texts = pa.DictionaryArray.from_arrays(np.zeros(3000, np.int32), [text])
    tasks = pa.table({"task_index": np.arange(3000) % 3, "task": texts})
    pq.write_table(tasks, v3 / "meta/tasks.parquet", store_schema=False)
    usual, counting = pa.default_memory_pool(), pa.system_memory_pool()
    pa.set_memory_pool(counting)
    try:
        assert open_recording(v3)[0].instruction == text
    finally:
        pa.set_memory_pool(usual)
    assert counting.max_memory() < 100 * 2**20


def test_sidecars_of_another_set_are_refused(v3: Path) -> None:
    line = {
        "episode_index": 0, "frames": 7, "id": "a", "instructions": [], "outcome": None, "fps": 5,
        "source": "", "scene": "", "notes": [], "info": {}, "arrays": {}, "columns": [],
        "cameras": {"image_0": "observation.images.image_0"}, "actions": "action", "state": None,
    }  # fmt: skip
    file = v3 / "meta/aid_robot.jsonl"
    write_lines(file, [line])
    assert open_recording(v3).ids == ["a", "episode_000001", "episode_000002"]
    for change, message in (
        ({"frames": 8}, "the data set was changed since"),
        ({"cameras": {"front": "observation.images.front"}}, "lacks observation.images.front"),
        ({"outcome": "won"}, "outcome 'won'; expected demo, success, failure or null"),
        ({"fps": "5"}, "fps '5'"),
        ({"id": None}, "id None"),
        ({"info": [1]}, r"info \[1\]"),
    ):
        write_lines(file, [line | change])
        with pytest.raises(DataFormatError, match=message):
            open_recording(v3)[0]
    write_lines(file, [line, line | {"episode_index": 1}])
    with pytest.raises(DataFormatError, match="twice"):
        open_recording(v3)


def read_all(folder: Path) -> None:
    for episode in open_recording(folder, "lerobot"):
        assert len(episode.frames[:]) == len(episode)


@pytest.mark.parametrize("file", [DATA, EPISODES, "meta/tasks.parquet", VIDEO])
def test_cut_off_files_are_refused(v3: Path, file: str) -> None:
    content = (v3 / file).read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 400):
        (v3 / file).write_bytes(content[:size])
        with pytest.raises(TruncatedFileError, match=r"copy it again|record or copy"):
            read_all(v3)


@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_any_damage_is_read_or_refused(sets: Path, data: st.DataObject) -> None:
    """No other exception, whatever the text of the descriptions is."""
    folder = sets / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sets / data.draw(st.sampled_from(["2", "images"])), folder)
    texts = [file for file in sorted(folder.rglob("meta/*")) if file.suffix in (".json", ".jsonl")]
    file = data.draw(st.sampled_from(texts))
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.sampled_from(b'0123456789-"[]{},:.e/\\nul\xff'))
    file.write_bytes(bytes(content))
    with contextlib.suppress(AIDRobotError):
        read_all(folder)
