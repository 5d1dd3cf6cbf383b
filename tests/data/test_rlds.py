"""RLDS data sets are read whole, with what they really hold, or refused."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aid_robot.data import open_recording
from aid_robot.data.ingest.example import parse_example
from aid_robot.data.ingest.tfrecord import RecordFile
from aid_robot.errors import DataFormatError, TruncatedFileError
from tests.data.numbered_frames import number_of, numbered_frames
from tests.data.tfrecord_writer import (
    FeatureValues,
    checksum,
    crc32c,
    example,
    field,
    record,
    write_dataset,
    write_records,
)

STEPS = 6
BLACK = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1].tobytes()
SLOW_FILES = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def episode(first: int = 0, **changes: FeatureValues) -> dict[str, FeatureValues]:
    """One episode as `bridge_dataset` stores it, its frames numbered from `first`."""
    frames = numbered_frames(first + STEPS)[first:]
    images = [cv2.imencode(".png", frame[..., ::-1])[1].tobytes() for frame in frames]
    return {
        "steps/observation/image_1": images[::-1],
        "steps/observation/image_0": images,
        "steps/observation/image_3": [BLACK] * STEPS,
        "steps/observation/state": [0.25] * 7 * STEPS,
        "steps/action": [float(i) / 8 for i in range(7 * STEPS)],
        "steps/language_instruction": [b"put the carrot on the plate"] * STEPS,
        "steps/language_embedding": [0.5] * 512 * STEPS,
        "steps/is_last": [0] * (STEPS - 1) + [1],
        "episode_metadata/has_image_0": [0],
        "episode_metadata/file_path": [b"/lab/out.npy"],
    } | {key.replace("__", "/"): values for key, values in changes.items()}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two shards of train with 2 and 1 episodes, one of val with 1."""
    encoded = [example(episode(first)) for first in (0, 10, 20, 30)]
    folder = tmp_path / "bridge_dataset" / "1.0.0"
    return write_dataset(folder, {"train": [encoded[:2], encoded[2:3]], "val": [encoded[3:]]})


def single(tmp_path: Path, **changes: FeatureValues) -> Path:
    return write_records(tmp_path / "bridge.tfrecord", [example(episode(**changes))])


def test_dataset_is_read_in_order(dataset: Path) -> None:
    recording = open_recording(dataset)
    assert recording.format == "rlds"
    assert len(recording) == len(list(recording)) == 4
    assert [number_of(e.frames[0]) for e in recording] == [0, 10, 20, 30]
    assert number_of(recording[-1].frames[2]) == 32
    assert recording["bridge_dataset-train.tfrecord-00001-of-00002__0"].id == recording.ids[2]
    assert number_of(recording[2].frames[0]) == 20


def test_episode_holds_what_was_recorded(dataset: Path) -> None:
    e = open_recording(dataset)[1]
    assert list(e.videos) == ["image_0", "image_1"]
    assert [number_of(frame) for frame in e.frames] == list(range(10, 10 + STEPS))
    assert [number_of(frame) for frame in e.videos["image_1"]][::-1] == list(range(10, 10 + STEPS))
    assert e.actions is not None
    assert np.array_equal(e.actions, np.arange(7 * STEPS, dtype=np.float32).reshape(-1, 7) / 8)
    assert e.state is not None
    assert e.state.shape == (STEPS, 7)
    assert e.instruction == "put the carrot on the plate"
    assert e.instructions == (e.instruction,)
    assert e.fps == 5
    assert e.source.endswith("from /lab/out.npy")
    assert e.notes == ("camera image_3 is black and was left out",)


@pytest.mark.parametrize("parents", [1, 2])
def test_dataset_is_found_from_a_folder_above(dataset: Path, parents: int) -> None:
    assert len(open_recording(dataset.parents[parents - 1])) == 4


def test_two_versions_are_not_chosen_between(dataset: Path) -> None:
    write_dataset(dataset.parent / "2.0.0", {"train": [[example(episode())]]})
    with pytest.raises(DataFormatError, match=r"1\.0\.0, 2\.0\.0"):
        open_recording(dataset.parent)


def test_single_shard_is_read(tmp_path: Path) -> None:
    recording = open_recording(single(tmp_path))
    assert [number_of(frame) for frame in recording[0].frames] == list(range(STEPS))


def test_user_says_the_rate(tmp_path: Path) -> None:
    path = write_records(tmp_path / "lab.tfrecord", [example(episode())])
    assert open_recording(path)[0].fps is None
    assert open_recording(path, fps=10)[0].fps == 10


@pytest.mark.parametrize("text", [b"", b"  \n"])
def test_blank_instruction_is_none(tmp_path: Path, text: bytes) -> None:
    e = open_recording(single(tmp_path, steps__language_instruction=[text] * STEPS))[0]
    assert e.instruction is None
    assert e.instructions == ()
    assert any("instruction" in note for note in e.notes)


def test_what_is_not_bridge_is_left_out_with_a_note(tmp_path: Path) -> None:
    path = single(
        tmp_path,
        steps__action=[0.0] * 14 * STEPS,
        steps__is_last=[0] * STEPS,
        steps__observation__image_1=[b""] * STEPS,
        steps__observation__image_2=[b"raw pixels"] * STEPS,
    )
    e = open_recording(path)[0]
    assert e.actions is None
    assert list(e.videos) == ["image_0"]
    notes = "\n".join(e.notes)
    for expected in ("14 columns", "image_1 is empty", "image_2 holds neither", "cut before"):
        assert expected in notes


def test_depth_is_no_camera(tmp_path: Path) -> None:
    depth = cv2.imencode(".png", np.full((48, 64), 900, np.uint16))[1].tobytes()
    e = open_recording(single(tmp_path, steps__observation__depth_0=[depth] * STEPS))[0]
    assert list(e.videos) == ["image_0", "image_1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps__action": [0.0] * 9}, "9 numbers in steps/action"),
        ({"steps__action": [float("nan")] * 7 * STEPS}, "not finite"),
        ({"steps__observation__image_1": [BLACK[:-1], BLACK]}, "different lengths"),
        ({"steps__language_instruction": [b"\xff\xfe"] * STEPS}, "not UTF-8"),
    ],
)
def test_malformed_episode_is_refused(
    tmp_path: Path, changes: dict[str, FeatureValues], message: str
) -> None:
    with pytest.raises(DataFormatError, match=message):
        open_recording(single(tmp_path, **changes))[0]


def test_episode_without_cameras_is_refused(tmp_path: Path) -> None:
    path = write_records(tmp_path / "x.tfrecord", [example({"steps/action": [0.0] * 7})])
    with pytest.raises(DataFormatError, match="no camera"):
        open_recording(path)[0]


def shard_of(dataset: Path, name: str) -> Path:
    return next(dataset.glob(f"*{name}*"))


def test_split_that_was_not_copied_is_noted(dataset: Path) -> None:
    shard_of(dataset, "val").unlink()
    recording = open_recording(dataset)
    assert len(recording) == 3
    assert "split val" in recording.notes[0]


def test_shard_that_is_missing_is_named(dataset: Path) -> None:
    shard_of(dataset, "train.tfrecord-00001").unlink()
    with pytest.raises(TruncatedFileError, match=r"train\.tfrecord-00001-of-00002"):
        open_recording(dataset)


def test_shard_with_fewer_episodes_than_described_is_refused(dataset: Path) -> None:
    write_records(shard_of(dataset, "train.tfrecord-00000"), [example(episode())])
    with pytest.raises(TruncatedFileError, match=r"holds 1 episodes, but .* says 2"):
        open_recording(dataset)[0]


def describe(dataset: Path, **changes: object) -> None:
    file = dataset / "dataset_info.json"
    info = json.loads(file.read_text())
    info["splits"][0] |= {key: changes.pop(key) for key in list(changes) if key in SPLIT_KEYS}
    file.write_text(json.dumps(info | changes))


SPLIT_KEYS = ("shardLengths", "filepathTemplate", "name")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shardLengths": ["900000000000", "1"]}, "too few"),
        ({"shardLengths": ["-2", "1"]}, "whole numbers"),
        ({"shardLengths": "2"}, "whole numbers"),
        ({"filepathTemplate": "../{SPLIT}.{SHARD_X_OF_Y}"}, "leads out"),
        ({"filepathTemplate": "/etc/{SPLIT}"}, "leads out"),
        ({"fileFormat": "riegeli"}, "riegeli"),
        ({"splits": "train"}, "lacks"),
        ({"splits": [3]}, "expected an object"),
        ({"name": 3}, "expected an object with a name"),
    ],
)
def test_malformed_description_is_refused(
    dataset: Path, changes: dict[str, object], message: str
) -> None:
    describe(dataset, **changes)
    with pytest.raises(DataFormatError, match=message):
        open_recording(dataset)


def test_compressed_file_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecord"
    path.write_bytes(b"\x1f\x8b\x08" + bytes(40))
    with pytest.raises(DataFormatError, match="compressed"):
        open_recording(path)


def test_checksum_is_the_published_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283


@given(records=st.lists(st.binary(max_size=60), min_size=1, max_size=5), data=st.data())
@SLOW_FILES
def test_records_are_read_back_in_any_order(
    tmp_path: Path, records: list[bytes], data: st.DataObject
) -> None:
    file = RecordFile(write_records(tmp_path / "x.tfrecord", records))
    assert len(file) == len(records)
    for index in data.draw(st.permutations(range(len(records)))):
        assert file.read(index) == records[index]


@given(records=st.lists(st.binary(max_size=60), min_size=1, max_size=4), data=st.data())
@SLOW_FILES
def test_cut_file_is_refused(tmp_path: Path, records: list[bytes], data: st.DataObject) -> None:
    content = b"".join(map(record, records))
    whole = {len(b"".join(map(record, records[:count]))) for count in range(len(records) + 1)}
    size = data.draw(st.integers(1, len(content) - 1).filter(lambda size: size not in whole))
    path = tmp_path / "x.tfrecord"
    path.write_bytes(content[:size])
    with pytest.raises(TruncatedFileError, match=r"x\.tfrecord ends within record"):
        len(RecordFile(path))


@given(records=st.lists(st.binary(max_size=60), min_size=1, max_size=4), data=st.data())
@SLOW_FILES
def test_flipped_bit_is_noticed(tmp_path: Path, records: list[bytes], data: st.DataObject) -> None:
    content = bytearray(b"".join(map(record, records)))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "x.tfrecord"
    path.write_bytes(content)
    file = RecordFile(path)
    with pytest.raises(TruncatedFileError, match=r"x\.tfrecord"):
        [file.read(index) for index in range(len(file))]


def test_length_beyond_the_file_is_refused(tmp_path: Path) -> None:
    # With a right checksum, as a hostile file would have it.
    length = struct.pack("<Q", 1 << 62)
    (tmp_path / "x.tfrecord").write_bytes(length + checksum(length) + bytes(40))
    with pytest.raises(TruncatedFileError, match=r"x\.tfrecord"):
        open_recording(tmp_path / "x.tfrecord")


floats = st.floats(width=32, allow_nan=False)
integers = st.integers(-(1 << 63), (1 << 63) - 1)
values = st.one_of(
    st.lists(st.binary(max_size=20), min_size=1, max_size=6),
    st.lists(floats, min_size=1, max_size=6),
    st.lists(integers, min_size=1, max_size=6),
)
features = st.dictionaries(st.text(max_size=8), values, max_size=4)


@given(written=features, packed=st.booleans())
def test_example_is_read_back(written: dict[str, FeatureValues], packed: bool) -> None:
    read = parse_example(example(written, packed=packed), "test")
    assert set(read) == set(written)
    for key, wanted in written.items():
        got = read[key]
        assert [bytes(v) if isinstance(v, memoryview) else v for v in got] == list(wanted)


@given(written=features, number=st.integers(4, 2000), content=st.binary(max_size=12))
def test_unknown_fields_are_skipped(
    written: dict[str, FeatureValues], number: int, content: bytes
) -> None:
    extended = field(number, content) + example(written) + field(number, content)
    assert set(parse_example(extended, "test")) == set(written)


@given(message=st.binary(max_size=80))
def test_any_bytes_parse_or_are_refused(message: bytes) -> None:
    with contextlib.suppress(DataFormatError):
        parse_example(message, "test")


@given(written=features, data=st.data())
def test_damaged_example_parses_or_is_refused(
    written: dict[str, FeatureValues], data: st.DataObject
) -> None:
    message = bytearray(example(written))
    for _ in range(data.draw(st.integers(0, 3))):
        if message:
            message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    del message[data.draw(st.integers(0, len(message))) :]
    with contextlib.suppress(DataFormatError):
        parse_example(bytes(message), "test")


@given(data=st.data())
@SLOW_FILES
def test_damaged_episode_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    # With right checksums: what a broken writer would produce.
    message = bytearray(example(episode(steps__language_embedding=[])))
    for _ in range(data.draw(st.integers(1, 3))):
        message[data.draw(st.integers(0, len(message) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "x.tfrecord"
    with contextlib.suppress(DataFormatError):
        parse_example(bytes(message), "test")
        write_records(path, [bytes(message)])
        e = open_recording(path)[0]
        assert e.frames[:].shape == e.frames.shape
