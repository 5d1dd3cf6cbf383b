"""Pixels come through exactly; what could be read in two ways is refused with its remedy."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from aid_robot.errors import AIDRobotError, ObservationError
from aid_robot.observation import to_frames

RNG = np.random.default_rng(0)
FRAME = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)
SQUARE = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
HISTORY = RNG.integers(0, 256, (4, 24, 32, 3), dtype=np.uint8)


def unit(frames: NDArray[np.uint8]) -> NDArray[Any]:
    return frames.astype(np.float32) / 255


def chw(frames: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(np.moveaxis(frames, -1, -3))


def encode(frame: NDArray[np.uint8], format: str = "PNG", **options: Any) -> bytes:
    data = io.BytesIO()
    Image.fromarray(frame).save(data, format=format, **options)
    return data.getvalue()


PNG = encode(FRAME)

GREY = RNG.integers(0, 256, (24, 32), dtype=np.uint8)
NAN = unit(FRAME)
NAN[3, 3, 0] = np.nan

# name: (observation, words its message must have)
REFUSED: dict[str, tuple[Any, str]] = {
    "none": (None, "not connected"),
    "unknown keys": ({"camera": FRAME, "reward": 0.0}, r"\['camera', 'reward'\].*Known layouts"),
    "nearly a known key": ({"image0": FRAME}, "'image0': did you mean 'image_0'"),
    "empty dict": ({}, "Known layouts"),
    "only absent cameras": ({"image_0": None}, "holds no image"),
    "nested unknown": ({"observation": {"rgbb": FRAME}}, "rgbb"),
    "path": ("frame.png", r"PIL.Image.open"),
    "path object": (Path("frame.png"), "open it first"),
    "channels first": (chw(FRAME), r"np.transpose\(image, \(1, 2, 0\)\)"),
    "channels first history": (chw(HISTORY), r"\(0, 2, 3, 1\)"),
    "channels first env": ({"image_0": chw(FRAME)}, "channels come last"),
    "grey": (GREY, r"np.repeat\(image\[..., None\], 3, axis=-1\)"),
    "grey channel": (GREY[..., None], r"np.repeat\(image, 3, axis=-1\)"),
    "alpha": (np.dstack([FRAME, GREY]), r"image\[..., :3\]"),
    "two channels": (FRAME[..., :2], r"expected \(H, W, 3\)"),
    "number": (np.float32(0.5), r"shape \(\)"),
    "zero size": (np.zeros((0, 32, 3), np.uint8), "no pixels"),
    "no frames": (np.zeros((0, 24, 32, 3), np.uint8), "no pixels"),
    "too small": (FRAME[:8, :8], "8x8"),
    "transposed": (np.zeros((640, 3, 3), np.uint8), "order of the axes"),
    "empty list": ([], "empty list"),
    "batch": (np.stack([HISTORY, HISTORY]), "predict_many"),
    "parallel envs": (
        {"sensor_data": {"3rd_view_camera": {"rgb": HISTORY}}},
        "batch of 4",
    ),
    "int64": (FRAME.astype(np.int64), r"int64.*image.astype\(np.uint8\)"),
    "int64 out of range": (FRAME.astype(np.int64) * 9, r"scale them to 0..255"),
    "uint16": (FRAME.astype(np.uint16) * 257, r"uint16.*// 257"),
    "bool": (FRAME > 128, "mask"),
    "complex": (FRAME.astype(np.complex64), "complex64"),
    "nested lists": (FRAME.tolist(), r"astype\(np.uint8\)"),
    "ragged lists": ([[1, 2], [3]], "makes no array"),
    "objects": (np.array([FRAME, "x"], dtype=object), "np.stack"),
    "text array": (np.array(["a", "b"]), "dtype"),
    "nan": (NAN, "1 values that are NaN"),
    "inf": (np.where(np.isnan(NAN), np.inf, NAN), "infinite"),
    "float 0..255": (FRAME.astype(np.float32), r"\[0, 255\].*image / 255"),
    "float -1..1": (unit(FRAME) * 2 - 1, r"\(image \+ 1\) / 2"),
    "normalised": (unit(FRAME) * 5 - 2.1, "normalisation"),
    "stack of sizes": ({"image_0": [FRAME, SQUARE]}, "one size"),
    "corrupt": (b"\xff\xd8\xff" + bytes(200), "not an acceptable JPEG or PNG"),
    "not an image": ({"image_0": b"hello"}, "b'hello'"),
    "truncated png": (PNG[: len(PNG) // 2], "damaged PNG of 32x24"),
    "truncated jpeg": (encode(HISTORY[0], "JPEG")[:-300], "damaged JPEG"),
    "grey jpeg": (encode(GREY, "JPEG"), "mode 'L'.*convert"),
    "alpha png": (encode(np.dstack([FRAME, GREY])), "mode 'RGBA'"),
    "grey pil": (Image.fromarray(GREY), "mode 'L'"),
    "gif": (encode(FRAME, "GIF"), "JPEG or PNG"),
    "flat, not square": ({"image": np.zeros(1000, np.float32)}, "full_image"),
    "list of histories": ([np.stack([HISTORY, HISTORY])], "step 0 of the history"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_a_remedy(name: str) -> None:
    obs, words = REFUSED[name]
    with pytest.raises(ObservationError, match=words):
        to_frames(obs)


def test_jpeg_keeps_red_red() -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 200
    frame = to_frames({"image_0": encode(red, "JPEG", quality=95)}).frames[0]
    assert np.abs(frame.astype(int) - red).max() < 8


def test_a_decompression_bomb_is_refused_from_its_header() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    for side in (9_000, 60_000):
        header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
        bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))
        with pytest.raises(ObservationError, match=r"pixels|acceptable"):
            to_frames(bomb)


@settings(max_examples=300)
@given(st.data())
def test_damaged_bytes_give_frames_or_an_observation_error(data: st.DataObject) -> None:
    image = bytearray(data.draw(st.sampled_from([PNG, encode(FRAME, "JPEG")])))
    for _ in range(data.draw(st.integers(0, 4))):
        image[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
    cut = image[: data.draw(st.integers(0, len(image)))]
    try:
        frames = to_frames({"image_0": bytes(cut)}).frames
    except ObservationError:
        return
    assert frames.ndim == 4
    assert frames.shape[-1] == 3


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int16, np.float16, np.float32, np.float64, np.bool_]),
        hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=20),
        fill=st.just(0),
    )
)
def test_any_array_gives_frames_or_an_error_of_ours(array: NDArray[Any]) -> None:
    try:
        frames = to_frames(array).frames
    except AIDRobotError:
        return
    assert frames.shape == (1, *array.shape[-3:])
    assert frames.dtype == np.uint8


@given(st.sampled_from([np.float16, np.float32, np.float64]))
def test_uint8_survives_the_way_through_float(dtype: Any) -> None:
    values = np.arange(256 * 3, dtype=np.uint32).reshape(16, 16, 3).astype(np.uint8)
    np.testing.assert_array_equal(to_frames((values / 255).astype(dtype)).frames[0], values)


def test_float_a_little_beyond_its_range_is_clipped() -> None:
    frame = np.full((16, 16, 3), 1.0005, np.float32)
    frame[0] = -0.0005
    frames = to_frames(frame).frames[0]
    assert frames[0].max() == 0
    assert frames[1:].min() == 255
