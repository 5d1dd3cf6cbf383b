"""Frames come out exact, in order and in RGB, or not at all."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import signal
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aid_robot.data import (
    ArrayFrames,
    EncodedFrames,
    Episode,
    FrameWindow,
    VideoFrames,
    write_video,
)
from aid_robot.errors import (
    AIDRobotError,
    DataFormatError,
    FrameRateError,
    TruncatedFileError,
)
from tests.data.numbered_frames import HEIGHT, WIDTH, encode, number_of, numbered_frames

COUNT = 60
OPEN_GOP = "open-gop=1:b-adapt=0:scenecut=0"


@pytest.fixture(scope="module", autouse=True)
def quiet_ffmpeg() -> None:
    av.logging.set_level(av.logging.PANIC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def video(folder: Path) -> Path:
    """Keyframes every 12 frames, B-frames, index at the start."""
    return encode(
        folder / "video.mp4", numbered_frames(COUNT), g="12", bf="3", movflags="faststart"
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("one_keyframe.mp4", {}),
        ("b_frames.mp4", {"g": "12", "bf": "3"}),
        ("open_gop.mp4", {"g": "12", "bf": "3", "x264_params": OPEN_GOP}),
        ("b_frames.mkv", {"g": "12", "bf": "3"}),
        ("b_frames.avi", {"g": "12", "bf": "2"}),
        ("fragmented.mp4", {"g": "12", "movflags": "frag_keyframe+empty_moov"}),
        ("mpeg4.mp4", {"codec": "mpeg4", "g": "12", "b": "400000"}),
    ],
)
def test_video_is_frame_exact_in_any_order(
    tmp_path: Path, name: str, options: dict[str, str]
) -> None:
    frames = VideoFrames(encode(tmp_path / name, numbered_frames(COUNT), **options))
    assert frames.shape == (COUNT, HEIGHT, WIDTH, 3)
    in_order = list(frames)
    assert [number_of(frame) for frame in in_order] == list(range(COUNT))
    for index in random.Random(0).sample(range(COUNT), COUNT):
        assert np.array_equal(frames[index], in_order[index])


def test_frames_are_indexed_like_an_array(video: Path) -> None:
    frames = VideoFrames(video)
    array = np.asarray(frames)
    assert array.shape == frames.shape
    assert array.dtype == np.uint8
    for key in (7, -1, slice(3, 20, 4), slice(None, None, -7), slice(50, 900), [1, 59, 5, 5, -60]):
        assert np.array_equal(frames[key], array[key])
    assert frames[np.array([4, 2])].shape == (2, HEIGHT, WIDTH, 3)
    assert frames[[]].shape == (0, HEIGHT, WIDTH, 3)
    assert frames[5:5].shape == (0, HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("index", [COUNT, -COUNT - 1, [0, COUNT]])
def test_index_out_of_range_raises(video: Path, index: int | list[int]) -> None:
    with pytest.raises(IndexError, match=str(COUNT)):
        VideoFrames(video)[index]


@pytest.mark.parametrize("index", ["3", 3.0, [0.5], [[1, 2]], [True, False]])
def test_index_of_another_type_raises(video: Path, index: object) -> None:
    with pytest.raises(TypeError):
        VideoFrames(video)[index]  # type: ignore[call-overload]


def test_what_is_handed_out_may_be_written_to(video: Path) -> None:
    array = numbered_frames(4)
    for frames in (VideoFrames(video), ArrayFrames(array)):
        first = frames[3]
        first[:] = 0
        assert number_of(frames[3]) == 3


def test_threads_share_a_video(video: Path) -> None:
    frames = VideoFrames(video)
    wanted = random.Random(1).choices(range(COUNT), k=80)
    with ThreadPoolExecutor(4) as pool:
        assert [number_of(frame) for frame in pool.map(frames.read, wanted)] == wanted


def test_two_loops_do_not_disturb_each_other(video: Path) -> None:
    frames = VideoFrames(video)
    pairs = zip(frames, frames, strict=True)
    assert all(number_of(a) == number_of(b) == i for i, (a, b) in enumerate(pairs))


def test_video_can_be_sent_to_another_process(video: Path) -> None:
    frames = VideoFrames(video)
    assert number_of(frames[5]) == 5
    assert number_of(pickle.loads(pickle.dumps(frames))[6]) == 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_process_reads_on_without_moving_the_parent(video: Path) -> None:
    frames = VideoFrames(video)
    assert number_of(frames[2]) == 2
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if [number_of(frames[i]) for i in (40, 3, 30)] == [40, 3, 30] else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert [number_of(frames[i]) for i in (3, 4, 41)] == [3, 4, 41]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_videos_that_were_read_hold_no_open_files(video: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    videos = [VideoFrames(video) for _ in range(20)]
    assert all(len(frames[:]) == COUNT for frames in videos)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


def test_sideways_video_is_turned_upright(tmp_path: Path, video: Path) -> None:
    # The matrix of a phone held upright, in the track's header.
    content = bytearray(video.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 4 + 20 + 16
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, HEIGHT << 16, 0, 1 << 30)
    content[matrix : matrix + 36] = turned
    sideways = tmp_path / "sideways.mp4"
    sideways.write_bytes(content)
    frames = VideoFrames(sideways)
    assert frames.shape == (COUNT, WIDTH, HEIGHT, 3)
    read, reference = cv2.VideoCapture(str(sideways)).read()  # turns videos upright too
    assert read
    assert np.abs(frames[0].astype(int) - reference[..., ::-1]).mean() < 3


def test_cut_video_says_how_much_of_it_is_there(tmp_path: Path, video: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[:-40])
    with pytest.raises(TruncatedFileError, match=rf"cut\.mp4: 5\d frames .* declares {COUNT}"):
        len(VideoFrames(cut))


@pytest.mark.parametrize("name", ["index_at_end.mp4", "video.mkv"])
def test_cut_video_is_refused_wherever_it_was_cut(tmp_path: Path, name: str) -> None:
    content = encode(tmp_path / name, numbered_frames(COUNT), g="12").read_bytes()
    cut = tmp_path / f"cut_{name}"
    for size in [0, 5, *range(40, int(0.9 * len(content)), 701)]:
        cut.write_bytes(content[:size])
        with pytest.raises(DataFormatError, match=f"cut_{name}"):
            list(VideoFrames(cut))


def test_mp4_without_its_index_is_called_truncated(tmp_path: Path) -> None:
    whole = encode(tmp_path / "whole.mp4", numbered_frames(COUNT))
    content = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: content.index(b"moov") - 4])
    with pytest.raises(TruncatedFileError, match="0 frames can be read"):
        len(VideoFrames(tmp_path / "cut.mp4"))


@given(data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damaged_video_is_read_or_refused(tmp_path: Path, video: Path, data: st.DataObject) -> None:
    content = bytearray(video.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    frames = VideoFrames(damaged)
    with contextlib.suppress(AIDRobotError):
        assert all(frame.shape == (*frames.size, 3) for frame in frames)
        assert frames[len(frames) // 2].shape == (*frames.size, 3)


def test_frames_after_damage_are_read_from_the_next_keyframe(tmp_path: Path, video: Path) -> None:
    with av.open(str(video)) as container:
        keys = [(p.pos, p.size) for p in container.demux(video=0) if p.size and p.is_keyframe]
    content = bytearray(video.read_bytes())
    start, size = keys[1]  # frame 12
    content[start + 40 : start + size] = random.Random(0).randbytes(size - 40)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    frames = VideoFrames(damaged)
    assert number_of(frames[5]) == 5
    with pytest.raises(TruncatedFileError, match=r"damaged\.mp4"):
        frames[14]
    assert number_of(frames[40]) == 40


@pytest.mark.parametrize("content", [b"hello, this is no video at all", b"\x89PNG\r\n\x1a\n"])
def test_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    other = tmp_path / "other.mp4"
    other.write_bytes(content)
    with pytest.raises(DataFormatError, match=r"other\.mp4"):
        len(VideoFrames(other))
    with pytest.raises(DataFormatError, match=r"absent\.mp4"):
        len(VideoFrames(tmp_path / "absent.mp4"))


def png(frame: np.ndarray) -> bytes:
    return cv2.imencode(".png", frame[..., ::-1])[1].tobytes()


def jpeg(frame: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def test_encoded_images_are_decoded_to_rgb() -> None:
    array = numbered_frames(9)
    assert np.array_equal(EncodedFrames([png(frame) for frame in array], "test")[:], array)
    lossy = EncodedFrames([jpeg(frame) for frame in array], "test")
    assert [number_of(frame) for frame in lossy] == list(range(9))
    assert np.abs(lossy[:].astype(int) - array).mean() < 12
    grey = EncodedFrames([cv2.imencode(".png", array[3, ..., 0])[1].tobytes()], "test")
    assert np.array_equal(grey[0], array[3, ..., :1].repeat(3, axis=-1))


@given(cut=st.floats(0, 1, exclude_max=True), encoder=st.sampled_from([png, jpeg]))
@settings(max_examples=60, deadline=None)
def test_cut_image_is_whole_or_refused(cut: float, encoder: type) -> None:
    encoded = encoder(numbered_frames(6)[5])
    whole = EncodedFrames([encoded], "test")[0]
    cut_off = encoded[: int(cut * len(encoded))]
    with contextlib.suppress(TruncatedFileError):
        # Only its end mark may be missing.
        assert np.array_equal(EncodedFrames([cut_off], "test")[0], whole)


def test_image_that_claims_to_be_huge_is_refused() -> None:
    encoded = bytearray(png(numbered_frames(1)[0]))
    encoded[16:24] = struct.pack(">II", 100_000, 100_000)
    with pytest.raises(DataFormatError):
        EncodedFrames([bytes(encoded)], "test")[0]


def test_depth_image_is_no_camera_frame() -> None:
    depth = cv2.imencode(".png", np.full((4, 4), 900, np.uint16))[1].tobytes()
    with pytest.raises(DataFormatError, match="8-bit"):
        EncodedFrames([depth], "test")[0]


def test_images_of_different_sizes_are_refused() -> None:
    frames = EncodedFrames(
        [png(np.zeros((4, 6, 3), np.uint8)), png(np.zeros((6, 4, 3), np.uint8))], "x"
    )
    with pytest.raises(DataFormatError, match="4x6, but others are 6x4"):
        frames[:]


def test_encoded_images_can_be_sent_to_another_process() -> None:
    array = numbered_frames(3)
    frames = EncodedFrames([memoryview(png(frame)) for frame in array], "test")
    assert np.array_equal(pickle.loads(pickle.dumps(frames))[:], array)


def test_window_is_part_of_a_video(video: Path) -> None:
    window = FrameWindow(VideoFrames(video), 20, 30)
    assert [number_of(frame) for frame in window] == list(range(20, 30))
    assert number_of(window[-1]) == 29
    with pytest.raises(DataFormatError, match="0 to 60"):
        FrameWindow(VideoFrames(video), 20, 61)


@pytest.mark.parametrize("array", [np.zeros((4, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8)])
def test_array_of_another_kind_is_refused(array: np.ndarray) -> None:
    with pytest.raises(DataFormatError, match="uint8"):
        ArrayFrames(array)


def test_episode_checks_that_its_parts_fit() -> None:
    frames = ArrayFrames(numbered_frames(5))
    episode = Episode("e", {"image_0": frames, "image_1": frames}, np.zeros((5, 7), np.float32))
    assert len(episode) == 5
    assert episode.camera == "image_0"
    assert episode.frames is frames
    with pytest.raises(DataFormatError, match="actions"):
        Episode("e", {"image_0": frames}, np.zeros((4, 7), np.float32))
    with pytest.raises(DataFormatError, match="different lengths"):
        Episode("e", {"image_0": frames, "image_1": FrameWindow(frames, 0, 3)})
    with pytest.raises(DataFormatError, match="no camera"):
        Episode("e", {})


@pytest.mark.parametrize("name", ["out.mp4", "out.mov", "out.mkv"])
def test_written_video_is_read_back(tmp_path: Path, name: str) -> None:
    array = numbered_frames(20)
    frames = VideoFrames(write_video(tmp_path / name, array, 5))
    assert frames.shape == array.shape
    assert frames.rate == pytest.approx(5)
    assert np.abs(frames[:].astype(int) - array).mean() < 12
    assert [number_of(frame) for frame in frames] == list(range(20))
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_written_colours_are_those_that_other_readers_see(tmp_path: Path) -> None:
    colours = np.array([[210, 40, 30], [30, 170, 60], [40, 60, 200]], np.uint8)
    picture = np.repeat(colours[None], 48, axis=0).repeat(32, axis=1)
    path = write_video(tmp_path / "out.mp4", [picture] * 3, 29.97)
    read, bgr = cv2.VideoCapture(str(path)).read()
    assert read
    for frame in (bgr[..., ::-1], VideoFrames(path)[0]):
        assert np.abs(frame[24, 16::32].astype(int) - colours).max() <= 6


def test_odd_sizes_are_grown_by_their_edge(tmp_path: Path) -> None:
    array = numbered_frames(4)[:, :47, :63]
    frames = VideoFrames(write_video(tmp_path / "odd.mp4", array, 5))
    assert frames.size == (48, 64)
    assert np.abs(frames[0][:47, :63].astype(int) - array[0]).mean() < 12


def test_failed_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "out.mp4", numbered_frames(5), 5)
    before = path.read_bytes()

    def failing():
        yield from numbered_frames(3)
        raise RuntimeError("camera unplugged")

    with pytest.raises(RuntimeError, match="unplugged"):
        write_video(path, failing(), 5)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_killed_writing_leaves_no_video(tmp_path: Path) -> None:
    script = (
        "import os, sys, numpy as np\n"
        "from aid_robot.data import write_video\n"
        "def frames():\n"
        "    for i in range(90):\n"
        "        yield np.full((48, 64, 3), i, np.uint8)\n"
        "    os._exit(9)\n"
        "write_video(sys.argv[1], frames(), 5)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, tmp_path / "out.mp4"], check=False)
    assert killed.returncode == 9
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(
    ("name", "frames", "fps", "error"),
    [
        ("out.gif", numbered_frames(2), 5.0, DataFormatError),
        ("absent/out.mp4", numbered_frames(2), 5.0, DataFormatError),
        ("out.mp4", [], 5.0, DataFormatError),
        ("out.mp4", numbered_frames(2) / 255, 5.0, DataFormatError),
        (
            "out.mp4",
            [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 6, 3), np.uint8)],
            5.0,
            DataFormatError,
        ),
        ("out.mp4", numbered_frames(2), 0.0, FrameRateError),
        ("out.mp4", numbered_frames(2), float("nan"), FrameRateError),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, name: str, frames: np.ndarray, fps: float, error: type[AIDRobotError]
) -> None:
    with pytest.raises(error):
        write_video(tmp_path / name, frames, fps)
    assert list(tmp_path.iterdir()) == []
