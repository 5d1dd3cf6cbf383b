"""Every observation layout gives the same frame, of the right camera and time."""

from __future__ import annotations

import io
import subprocess
import sys
from collections import OrderedDict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from aid_robot.errors import (
    FrameCountError,
    InstructionError,
    ObservationError,
)
from aid_robot.observation import resize_frames, to_frames

RNG = np.random.default_rng(0)
FRAME = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)
SQUARE = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
OTHER = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)
HISTORY = RNG.integers(0, 256, (4, 24, 32, 3), dtype=np.uint8)
STATE = np.arange(7, dtype=np.float64)


def unit(frames: NDArray[np.uint8]) -> NDArray[Any]:
    return frames.astype(np.float32) / 255


def chw(frames: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(np.moveaxis(frames, -1, -3))


def encode(frame: NDArray[np.uint8], format: str = "PNG", **options: Any) -> bytes:
    data = io.BytesIO()
    Image.fromarray(frame).save(data, format=format, **options)
    return data.getvalue()


PNG = encode(FRAME)
BRIDGE_ENV = {"image_0": FRAME, "image_1": OTHER, "state": STATE}

# name: (observation, camera and layout expected); each shows FRAME.
LAYOUTS: dict[str, tuple[Any, str | None, str]] = {
    "bare": (FRAME, None, "frame"),
    "bare float": (unit(FRAME), None, "frame"),
    "bare float16": (unit(FRAME).astype(np.float16), None, "frame"),
    "history": (np.stack([OTHER, FRAME]), None, "history"),
    "batch of one history": (np.stack([OTHER, FRAME])[None], None, "history"),
    "list": ([OTHER, FRAME], None, "history"),
    "deque": (deque([OTHER, FRAME]), None, "history"),
    "tensor": (torch.from_numpy(FRAME), None, "frame"),
    "bfloat16 tensor": (torch.from_numpy(FRAME // 255).bfloat16(), None, "frame"),
    "pil": (Image.fromarray(FRAME), None, "frame"),
    "list of pil": ([Image.fromarray(OTHER), Image.fromarray(FRAME)], None, "history"),
    "encoded": (PNG, None, "frame"),
    "encoded array": (np.frombuffer(PNG, np.uint8), None, "frame"),
    "list of encoded": ([encode(OTHER), PNG], None, "history"),
    "bridge env": (BRIDGE_ENV, "image_0", "bridge_env"),
    "gymnasium dict": (OrderedDict(image=FRAME, state=STATE), "image", "bridge_env"),
    "gymnasium pixels": ({"pixels": FRAME, "agent_pos": STATE}, "pixels", "bridge_env"),
    "bridge env history": ({"image_0": np.stack([OTHER, FRAME])}, "image_0", "bridge_env"),
    "list of bridge env": ([{"image_0": OTHER}, BRIDGE_ENV], "image_0", "bridge_env"),
    "wrist comes first": ({"wrist_image": OTHER, "image": FRAME}, "image", "bridge_env"),
    "no preferred name": ({"image_hand": OTHER, "image_side": FRAME}, "image_side", "bridge_env"),
    "absent camera": ({"image_0": None, "image_1": FRAME}, "image_1", "bridge_env"),
    "widowx array": ({"image": np.zeros(3072, np.float32), "full_image": FRAME}, "full_image", ""),
    "widowx jpeg": ({"full_image": PNG, "image": np.zeros(3072, np.float32)}, "full_image", ""),
    "widowx cameras": ({"full_image": np.stack([FRAME, OTHER])}, "full_image[0]", "widowx"),
    "widowx one camera": ({"full_image": FRAME[None], "state": {}}, "full_image", "widowx"),
    "widowx non-square": (
        {"image_0": unit(chw(OTHER)).reshape(1, -1), "image_1": None, "full_image": FRAME[None]},
        "full_image",
        "widowx",
    ),
    "image features beside": (
        {"image_0": FRAME, "image_features": np.zeros(512, np.float32)},
        "image_0",
        "bridge_env",
    ),
    "widowx gym wrapper": ({"image_0": FRAME, "full_image": HISTORY[0]}, "image_0", "bridge_env"),
    "rlds step": (
        {
            "observation": {"image_0": FRAME, "image_3": OTHER, "state": STATE},
            "language_instruction": b"open the drawer",
            "action": STATE,
            "is_first": True,
        },
        "image_0",
        "rlds",
    ),
    "rlds step encoded": ({"observation": {"image_0": np.array(PNG, object)}}, "image_0", "rlds"),
    "rlds observation encoded": ({"image_0": PNG}, "image_0", "bridge_env"),
    "octo": ({"image_primary": FRAME[None], "image_wrist": OTHER[None]}, "image_primary", "octo"),
    "octo batch": (
        {"image_primary": np.stack([OTHER, FRAME])[None], "timestep_pad_mask": [[True, True]]},
        "image_primary",
        "octo",
    ),
    "lerobot": (
        {"observation.images.image_0": torch.from_numpy(chw(unit(FRAME))), "task": "lift"},
        "image_0",
        "lerobot",
    ),
    "lerobot one camera": ({"observation.image": chw(unit(FRAME))}, "image", "lerobot"),
    "lerobot history": (
        {"observation.images.top": chw(unit(np.stack([OTHER, FRAME])))},
        "top",
        "lerobot",
    ),
    "lerobot batch": (
        {"observation.images.top": chw(unit(FRAME))[None], "task": ["lift"]},
        "top",
        "lerobot",
    ),
    "lerobot robot": ({"observation.images.top": FRAME}, "top", "lerobot"),
    "simpler": (
        {"agent": {}, "image": {"3rd_view_camera": {"rgb": FRAME, "depth": FRAME[..., :1]}}},
        "3rd_view_camera",
        "simpler",
    ),
    "maniskill": (
        {"sensor_data": {"3rd_view_camera": {"rgb": torch.from_numpy(FRAME)[None]}}},
        "3rd_view_camera",
        "simpler",
    ),
    "openpi": (
        {"observation/image": FRAME, "observation/wrist_image": OTHER, "prompt": "lift"},
        "image",
        "openpi",
    ),
    "openpi droid": (
        {"observation/wrist_image_left": OTHER, "observation/exterior_image_1_left": FRAME},
        "exterior_image_1_left",
        "openpi",
    ),
    "openpi aloha": (
        {"images": {"cam_left_wrist": chw(OTHER), "cam_high": chw(FRAME)}, "state": STATE},
        "cam_high",
        "openpi",
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_rgb_frame(name: str) -> None:
    obs, camera, layout = LAYOUTS[name]
    observation = to_frames(obs)
    expected = FRAME // 255 * 255 if name == "bfloat16 tensor" else FRAME
    np.testing.assert_array_equal(observation.frames, expected[None])
    assert observation.frames.dtype == np.uint8
    assert observation.frames.flags.c_contiguous
    assert observation.camera == camera
    assert observation.layout == (layout or "widowx")


def test_flat_widowx_image_is_unflattened() -> None:
    obs = {"image": unit(chw(SQUARE)).reshape(-1), "state": STATE}
    observation = to_frames(obs)
    np.testing.assert_array_equal(observation.frames[0], SQUARE)
    assert (observation.layout, observation.camera) == ("widowx", "image")
    both = {"full_image": encode(FRAME), **obs}
    np.testing.assert_array_equal(to_frames(both, camera="image").frames[0], SQUARE)
    cameras = {"image": np.stack([unit(chw(SQUARE)).reshape(-1), np.zeros(3072, np.float32)])}
    np.testing.assert_array_equal(to_frames(cameras).frames[0], SQUARE)


def test_widowx_cameras_are_not_taken_for_a_history() -> None:
    obs = {"full_image": np.stack([FRAME, OTHER])}
    np.testing.assert_array_equal(to_frames(obs, camera="full_image[1]").frames[0], OTHER)
    with pytest.raises(FrameCountError):
        to_frames(obs, num_frames=2)


def test_frames_are_a_copy() -> None:
    frame = FRAME.copy()
    observation = to_frames(frame)
    frame[:] = 0  # what an env does that reuses its buffer
    np.testing.assert_array_equal(observation.frames[0], FRAME)


@pytest.mark.parametrize(
    ("obs", "camera", "expected"),
    [
        (BRIDGE_ENV, "image_1", OTHER),
        ({"observation.images.a": FRAME, "observation.images.b": OTHER}, "b", OTHER),
        (
            {"observation.images.a": FRAME, "observation.images.b": OTHER},
            "observation.images.b",
            OTHER,
        ),
        (LAYOUTS["openpi"][0], "observation/wrist_image", OTHER),
        (LAYOUTS["octo"][0], "image_wrist", OTHER),
    ],
)
def test_camera_chooses(obs: Any, camera: str, expected: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(to_frames(obs, camera=camera).frames[0], expected)


def test_unknown_camera_lists_those_found() -> None:
    with pytest.raises(ObservationError, match=r"'image_9'.*image_0, image_1"):
        to_frames(BRIDGE_ENV, camera="image_9")
    with pytest.raises(ObservationError, match="no named cameras"):
        to_frames(FRAME, camera="image_0")


def test_a_wrist_camera_is_never_the_default() -> None:
    with pytest.raises(ObservationError, match=r"wrist.*camera='image_wrist'"):
        to_frames({"image_wrist": FRAME})
    assert to_frames({"image_wrist": FRAME}, camera="image_wrist").camera == "image_wrist"


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"prompt": " lift the pot "}, "lift the pot"),
        ({"instruction": "lift"}, "lift"),
        ({"language_instruction": b"lift"}, "lift"),
        ({"language_instruction": np.array(b"lift", object)}, "lift"),
        ({"natural_language_instruction": np.bytes_(b"lift")}, "lift"),
        ({"task": ["lift"]}, "lift"),
        ({"task": {"language_instruction": ["lift"]}}, "lift"),
        ({"prompt": "", "task": "lift"}, "lift"),
        ({"language_instruction": b""}, None),
        ({"prompt": None}, None),
        ({}, None),
    ],
)
def test_instruction(extra: dict[str, Any], expected: str | None) -> None:
    assert to_frames({"image_0": FRAME, **extra}).instruction == expected
    assert to_frames({"observation": {"image_0": FRAME}, **extra}).instruction == expected


@pytest.mark.parametrize("value", [3, ["a", "b"], b"\xff\xfe", np.array([1.0, 2.0])])
def test_an_instruction_that_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(InstructionError, match="'task'"):
        to_frames({"image_0": FRAME, "task": value})


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"state": STATE}, STATE),
        ({"proprio": np.stack([STATE, STATE + 1])[None]}, STATE + 1),
        ({"state": torch.arange(7)}, STATE),
        ({"state": list(range(7))}, STATE),
        ({"state": {}}, None),
        ({"state": np.zeros(0)}, None),
    ],
)
def test_state_is_that_of_the_last_step(
    extra: dict[str, Any], expected: NDArray[np.float64] | None
) -> None:
    state = to_frames({"image_0": FRAME, **extra}).state
    if expected is None:
        assert state is None
    else:
        np.testing.assert_array_equal(state, expected.astype(np.float32))


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from(["array", "list", "env", "lerobot"]))
def test_the_newest_frames_are_taken_or_too_few_refused(given_: int, needed: int, how: str) -> None:
    history = np.arange(given_ * 16 * 18 * 3, dtype=np.uint32).reshape(given_, 16, 18, 3) % 251
    frames = history.astype(np.uint8)
    forms: dict[str, Any] = {
        "array": frames,
        "list": list(frames),
        "env": [{"image_0": frame} for frame in frames],
        "lerobot": {"observation.images.top": chw(unit(frames))},
    }
    if given_ < needed:
        with pytest.raises(FrameCountError, match=rf"needs {needed}.*history"):
            to_frames(forms[how], num_frames=needed)
    else:
        observation = to_frames(forms[how], num_frames=needed)
        np.testing.assert_array_equal(observation.frames, frames[-needed:])


@pytest.mark.parametrize(
    "mask", [[0, 1, 1, 1], [[False, True, True, True]], np.array([0.0, 1, 1, 1])]
)
@pytest.mark.parametrize("key", ["timestep_pad_mask", "pad_mask"])
def test_octo_padding_is_no_history(mask: Any, key: str) -> None:
    obs = {"image_primary": HISTORY, key: mask}
    np.testing.assert_array_equal(to_frames(obs, num_frames=3).frames, HISTORY[1:])
    with pytest.raises(FrameCountError, match="3 frames besides 1 of padding"):
        to_frames(obs, num_frames=4)


def test_octo_masks_a_camera_by_itself() -> None:
    missing = {"image_primary": [0, 0, 0, 0]}
    obs = {"image_primary": HISTORY, "pad_mask": [1, 1, 1, 1], "pad_mask_dict": missing}
    with pytest.raises(FrameCountError, match="0 frames"):
        to_frames(obs)
    with pytest.raises(ObservationError, match="one entry a frame"):
        to_frames({"image_primary": HISTORY, "pad_mask": [1, 1]})


def test_a_history_keeps_to_one_size_and_camera() -> None:
    with pytest.raises(ObservationError, match="one size"):
        to_frames([FRAME, SQUARE], num_frames=2)
    with pytest.raises(ObservationError, match="camera="):
        to_frames([{"image_1": FRAME}, {"image_0": FRAME}], num_frames=2)


@pytest.mark.parametrize("num_frames", [0, -1])
def test_num_frames_is_positive(num_frames: int) -> None:
    with pytest.raises(FrameCountError, match="at least 1"):
        to_frames(FRAME, num_frames=num_frames)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([(24, 32, 3), (2, 24, 32, 3)]))
def test_resize_keeps_leading_axes_and_flat_colour(
    height: int, width: int, shape: tuple[int, ...]
) -> None:
    frames = np.full(shape, (10, 130, 250), np.uint8)
    resized = resize_frames(frames, (height, width))
    assert resized.shape == (*shape[:-3], height, width, 3)
    assert (resized == (10, 130, 250)).all()


def test_resize_of_the_same_size_changes_nothing() -> None:
    np.testing.assert_array_equal(resize_frames(HISTORY, (24, 32)), HISTORY)


def test_shrinking_averages_over_area_even_where_the_other_axis_grows() -> None:
    stripes = np.zeros((16, 32, 3), np.uint8)
    stripes[:, ::2] = 200  # finer than the target can show
    for height in (8, 16, 24):
        assert set(np.unique(resize_frames(stripes, (height, 16)))) == {100}


@pytest.mark.parametrize(
    ("frames", "size"),
    [(unit(FRAME), (8, 8)), (FRAME[0], (8, 8)), (FRAME, (0, 8)), (FRAME[:0], (8, 8))],
)
def test_resize_refuses(frames: Any, size: tuple[int, int]) -> None:
    with pytest.raises(ObservationError, match="expected"):
        resize_frames(frames, size)


def test_import_loads_no_torch() -> None:
    code = "import sys, aid_robot.observation, aid_robot.clip; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.bridge
def test_recorded_images_are_read(bridge_dir: Path) -> None:
    recorded = sorted((bridge_dir / "raw").rglob("im_*.jpg"))[:2]
    steps = [{"observation": {"image_0": path.read_bytes()}} for path in recorded]
    observation = to_frames(steps, num_frames=2)
    assert observation.frames.shape == (2, 240, 320, 3)
    with Image.open(recorded[1]) as image:
        np.testing.assert_array_equal(observation.frames[1], np.asarray(image))
