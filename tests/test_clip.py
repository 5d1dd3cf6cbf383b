"""A foresight is saved whole, read back as it was, and drawn so that frames can be told apart."""

from __future__ import annotations

import base64
import io
import pickle
import re
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from aid_robot.clip import Foresight
from aid_robot.clip_drawing import GIVEN, PREDICTED, RECORDED
from aid_robot.errors import (
    AIDRobotError,
    ConfigError,
    DataFormatError,
    FrameCountError,
    FrameRateError,
    SamplingError,
)


def make(
    samples: int = 1,
    frames: int = 6,
    size: tuple[int, int] = (32, 48),
    given_: int = 1,
    fps: float = 5.0,
    seed: int = 0,
    **fields: Any,
) -> Foresight:
    """Make a clip whose frame i has the grey level 10 + 20 * i, so that each can be told."""
    levels = (10 + 20 * np.arange(frames)).astype(np.uint8)
    clip = np.broadcast_to(levels[None, :, None, None, None], (samples, frames, *size, 3)).copy()
    defaults: dict[str, Any] = {"instruction": "put the carrot on the plate"}
    return Foresight(clip, fps, num_conditioning_frames=given_, seed=seed, **{**defaults, **fields})


def gif_frames(data: bytes) -> tuple[NDArray[np.uint8], list[int], int]:
    with Image.open(io.BytesIO(data)) as image:
        frames, durations = [], []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            frames.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"])
        return np.stack(frames), durations, image.info["loop"]


def video_frames(path: Path) -> tuple[NDArray[np.uint8], float]:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return np.stack(frames), float(container.streams.video[0].average_rate or 0)


def has(image: NDArray[np.uint8], colour: tuple[int, int, int], tolerance: int = 0) -> bool:
    off = np.abs(image.astype(int) - colour).max(axis=-1)
    return int((off <= tolerance).sum()) > 100


def test_counts() -> None:
    foresight = make(samples=3, frames=6, given_=2, fps=4.0)
    assert foresight.num_samples == 3
    assert len(foresight) == 6
    assert foresight.duration == 1.5
    assert foresight.predicted.shape == (3, 4, 32, 48, 3)
    np.testing.assert_array_equal(foresight.predicted[0, 0], foresight.frames[0, 2])
    assert "3 x 6 frames of 32x48 at 4 fps, 2 given" in repr(foresight)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"given_": 0}, FrameCountError),
        ({"given_": 6}, FrameCountError),
        ({"fps": 0.0}, FrameRateError),
        ({"fps": float("nan")}, FrameRateError),
        ({"size": (0, 8)}, DataFormatError),
    ],
)
def test_a_contradiction_is_refused(fields: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="expected"):
        make(**fields)


def test_a_float_clip_is_refused() -> None:
    with pytest.raises(DataFormatError, match="float32"):
        Foresight(np.zeros((1, 2, 8, 8, 3), np.float32), 5.0, "lift", 1)


def test_npz_gives_everything_back(tmp_path: Path) -> None:
    foresight = make(
        samples=2,
        given_=2,
        seed=2**40,
        states=("above the carrot", "done"),
        timings={"denoise": 1.25},
        model_id="tiny",
        settings={"steps": np.int64(10), "guidance": [1.0, np.float32(2.5)], "from": Path("x")},
    )
    loaded = Foresight.load(foresight.save(tmp_path / "new" / "folder" / "clip.npz"))
    np.testing.assert_array_equal(loaded.frames, foresight.frames)
    for name in ("fps", "instruction", "num_conditioning_frames", "states", "seed", "timings"):
        assert getattr(loaded, name) == getattr(foresight, name)
    assert loaded.settings == {"steps": 10, "guidance": [1.0, 2.5], "from": "x"}
    np.load(tmp_path / "new" / "folder" / "clip.npz", allow_pickle=False)["frames"]


@given(
    instruction=st.text(max_size=40),
    states=st.lists(st.text(max_size=10), max_size=3).map(tuple),
    fps=st.floats(0.01, 1e4),
    shape=st.tuples(st.integers(1, 3), st.integers(2, 4), st.integers(1, 5), st.integers(1, 5)),
    order=st.sampled_from(["C", "F"]),
)
def test_npz_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    instruction: str,
    states: tuple[str, ...],
    fps: float,
    shape: tuple[int, ...],
    order: Any,
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8, order=order)
    foresight = Foresight(frames, fps, instruction, 1, states)
    path = tmp_path_factory.getbasetemp() / "round_trip.npz"
    loaded = Foresight.load(foresight.save(path))
    np.testing.assert_array_equal(loaded.frames, frames)
    assert (loaded.fps, loaded.instruction, loaded.states) == (fps, instruction, states)


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_file_is_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    whole = bytearray(make(size=(4, 4)).save(folder / "whole.npz").read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = folder / "damaged.npz"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with suppress(DataFormatError):  # and nothing else
        assert Foresight.load(path).fps > 0


def npy(header_shape: tuple[int, ...], data: bytes) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": header_shape}
    )
    return stream.getvalue() + data


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_header_that_promises_more_than_the_file_holds(tmp_path: Path, compression: int) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("frames.npy", npy((1 << 40, 1, 1, 1, 3), bytes(100)))
        archive.writestr("meta.npy", npy((2,), b"{}"))
    with pytest.raises(DataFormatError, match=r"does not fit|compressed"):
        Foresight.load(path)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "evil.npz"
    np.savez(path, frames=np.array([{"a": 1}], object), meta=np.zeros(2, np.uint8))
    with pytest.raises(DataFormatError, match="not a foresight file"):
        Foresight.load(path)
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(DataFormatError, match="not a foresight file"):
        Foresight.load(path)


def test_a_missing_file_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Foresight.load(tmp_path / "none.npz")


@pytest.mark.parametrize("fps", [5.0, 7.0, 3.0])
def test_gif_loops_in_time(tmp_path: Path, fps: float) -> None:
    foresight = make(frames=8, fps=fps)
    frames, durations, loop = gif_frames(foresight.save(tmp_path / "clip.gif").read_bytes())
    assert loop == 0
    assert frames.shape == (8, 96, 144, 3)  # enlarged to 96 pixels
    assert abs(sum(durations) - 1000 * foresight.duration) <= 5
    assert max(durations) - min(durations) <= 10
    levels = frames.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(levels, 10 + 20 * np.arange(8), atol=3)


def test_gif_keeps_the_colours_of_borders(tmp_path: Path) -> None:
    frames, _, _ = gif_frames(make(samples=2).save(tmp_path / "two.gif").read_bytes())
    assert has(frames[0], GIVEN)
    assert not has(frames[0], PREDICTED)
    for frame in frames[1:]:
        assert has(frame, PREDICTED)
        assert not has(frame, GIVEN)
    assert has(frames[0], (255, 255, 255))


def test_mp4_of_one_sample_is_its_bare_frames(tmp_path: Path) -> None:
    foresight = make(samples=2)
    frames, fps = video_frames(foresight.save(tmp_path / "clip.mp4", sample=1, scale=1))
    assert fps == 5
    assert frames.shape == (6, 32, 48, 3)
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), 10 + 20 * np.arange(6), atol=4)


@pytest.mark.parametrize("samples", [1, 2, 3, 5, 8])
def test_mp4_shows_truth_beside_every_sample(tmp_path: Path, samples: int) -> None:
    foresight = make(samples=samples)
    frames, _ = video_frames(foresight.save(tmp_path / "clip.mp4", truth=foresight.frames[0]))
    assert len(frames) == 6
    assert frames.shape[1] % 2 == frames.shape[2] % 2 == 0
    tile = 96 * 144
    assert frames.shape[1] * frames.shape[2] > tile * (samples + 1)
    assert has(frames[0], GIVEN, 40)
    assert has(frames[5], PREDICTED, 40)


def columns_of(strip: NDArray[np.uint8], row: int, rows: int) -> list[int]:
    """Read the grey levels of the tiles of a row; see `make`."""
    height = strip.shape[0]
    line = strip[height - (rows - row) * 104 + 50]
    levels = [int(v[0]) for v in line if v[0] == v[1] == v[2] and v[0] % 20 == 10 and v[0] < 250]
    return sorted({level for level in levels if levels.count(level) > 100})


def test_strip_shows_every_frame_where_there_is_room() -> None:
    strip = np.asarray(make(frames=6).strip())
    assert columns_of(strip, 0, 1) == [10, 30, 50, 70, 90, 110]
    assert has(strip, GIVEN)
    assert has(strip, PREDICTED)
    assert not has(strip, RECORDED)


@pytest.mark.parametrize("columns", [2, 3, 5])
def test_strip_has_first_and_last_frame(columns: int) -> None:
    levels = columns_of(np.asarray(make(frames=11).strip(columns)), 0, 1)
    assert len(levels) == columns
    assert (levels[0], levels[-1]) == (10, 210)


def test_strip_puts_truth_above_and_marks_where_it_ends() -> None:
    foresight = make(frames=6)
    longer = make(frames=9, size=(64, 96)).frames[0]  # of another size, and too long
    strip = np.asarray(foresight.strip(truth=longer))
    assert columns_of(strip, 0, 2) == columns_of(strip, 1, 2) == [10, 30, 50, 70, 90, 110]
    assert has(strip, RECORDED)
    short = np.asarray(foresight.strip(truth=longer[:3]))
    assert columns_of(short, 0, 2) == [10, 30, 50]
    assert columns_of(short, 1, 2) == [10, 30, 50, 70, 90, 110]
    assert has(short, (236, 236, 236))


def test_png_is_the_strip(tmp_path: Path) -> None:
    foresight = make(samples=3)
    with Image.open(foresight.save(tmp_path / "STRIP.PNG", sample=2)) as image:
        assert image.size == foresight.strip(sample=2).size
    assert foresight.strip().height > 2 * foresight.strip(sample=0).height


def test_a_long_or_foreign_instruction_changes_no_size() -> None:
    short = make(instruction="lift").strip().size
    assert make(instruction="lift the pot " * 100).strip().size == short
    assert make(instruction="把胡萝卜放在盘子上\n🥕").strip().size == short


def test_scale_is_chosen_or_given() -> None:
    assert make(size=(256, 256)).strip().width > 6 * 256
    assert make(size=(256, 256)).strip().width < 7 * 270
    assert make(size=(32, 32)).strip(scale=5).height > make(size=(32, 32)).strip().height


def test_an_unknown_suffix_lists_those_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'clip.avi'.*\.mp4, \.gif, \.png, \.npz"):
        make().save(tmp_path / "clip.avi")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"sample": 2}, SamplingError),
        ({"sample": -1}, SamplingError),
        ({"scale": 0}, ConfigError),
        ({"truth": np.zeros((6, 32, 48, 3), np.float32)}, DataFormatError),
        ({"truth": np.zeros((0, 32, 48, 3), np.uint8)}, DataFormatError),
        ({"truth": np.zeros((32, 48, 3), np.uint8)}, DataFormatError),
    ],
)
@pytest.mark.parametrize("name", ["clip.png", "clip.gif", "clip.mp4"])
def test_a_refused_save_leaves_no_file(
    tmp_path: Path, name: str, arguments: dict[str, Any], error: type[AIDRobotError]
) -> None:
    with pytest.raises(error, match="expected"):
        make(samples=2).save(tmp_path / name, **arguments)
    assert not list(tmp_path.iterdir())


def test_npz_takes_no_options(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave out"):
        make().save(tmp_path / "clip.npz", sample=0)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = make().save(tmp_path / "clip.npz")
    before = path.read_bytes()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OSError):
        make().save(tmp_path / "folder.png")
    with pytest.raises(TypeError):
        make(settings={(1, 2): "a key that JSON cannot hold"}).save(path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.npz", "folder.png"]


def test_notebooks_show_a_gif_and_escape_the_text() -> None:
    shown = make(instruction="<script>alert('x')</script>", frames=4)._repr_html_()
    assert "<script>" not in shown
    data = re.search(r"data:image/gif;base64,([^\"]+)", shown)
    assert data is not None
    frames, _, _ = gif_frames(base64.b64decode(data[1]))
    assert len(frames) == 4


def follow(before: Foresight, instruction: str, level: int, **fields: Any) -> Foresight:
    """Make the clip of the next step: it starts with the last frames of `before`."""
    given_ = before.num_conditioning_frames
    made = np.full((before.num_samples, 3, *before.frames.shape[2:]), level, np.uint8)
    frames = np.concatenate([before.frames[:, -given_:], made], axis=1)
    return Foresight(frames, before.fps, instruction, given_, **fields)


@pytest.mark.parametrize("given_", [1, 2])
def test_chain_drops_the_repeated_frames_and_keeps_the_steps(given_: int) -> None:
    first = make(2, 6, given_=given_, instruction="open", states=("a",), timings={"denoise": 1.0})
    second = follow(
        first, "put", 201, states=("b", "c"), seed=7, timings={"denoise": 2.0, "decode": 0.5}
    )
    third = follow(second, "close", 202)
    joined = Foresight.chain([first, second, third])
    np.testing.assert_array_equal(
        joined.frames,
        np.concatenate([first.frames, second.predicted, third.predicted], axis=1),
    )
    assert joined.instruction == "open -> put -> close"
    assert joined.states == ("a", "b", "c")
    assert joined.timings == {"denoise": 3.0, "decode": 0.5}
    assert joined.settings["plan"] == [
        {"instruction": "open", "seed": 0, "start": 0, "stop": 6},
        {"instruction": "put", "seed": 7, "start": 6, "stop": 9},
        {"instruction": "close", "seed": 0, "start": 9, "stop": 12},
    ]
    for way in (first.concat(second).concat(third), first.concat(second.concat(third))):
        np.testing.assert_array_equal(way.frames, joined.frames)
        assert way.settings["plan"] == joined.settings["plan"]


def test_a_joined_plan_survives_the_file(tmp_path: Path) -> None:
    joined = make(instruction="open").concat(follow(make(), "put", 201))
    assert Foresight.load(joined.save(tmp_path / "plan.npz")).settings == joined.settings


def test_chain_refuses_clips_that_do_not_follow() -> None:
    first = make()
    with pytest.raises(ConfigError, match="does not start with the last 1"):
        first.concat(make())
    with pytest.raises(ConfigError, match="model_id"):
        first.concat(follow(first, "put", 201, model_id="other"))
    with pytest.raises(ConfigError, match="at least one"):
        Foresight.chain([])
    assert Foresight.chain([first]).instruction == first.instruction
