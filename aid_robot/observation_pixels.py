"""How pixels become frames: arrays, tensors, PIL images, encoded bytes in, checked RGB uint8 out.

Nothing is guessed and nothing is corrected in silence: whatever could be read in two ways is
refused with the one line that makes it unambiguous. Only blue-red order cannot be seen from the
numbers: OpenCV's BGR images must be turned round by the caller.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aid_robot.errors import ObservationError

# An encoded image whose header promises more is refused before it is decoded.
MAX_PIXELS = 64_000_000
# Below this no object of a scene can be made out; nearly always a transposed array.
MIN_SIDE = 16
# Resizing and half precision leave [0, 1] by about this much.
RANGE_TOLERANCE = 1e-3

_ENCODED = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


def as_array(value: object, where: str) -> NDArray[Any]:
    """Return the pixels of an array, tensor, PIL image, encoded image or list of these.

    Shape, dtype and range stay as they are: `as_history` and `to_uint8` check them. `where` names
    the value in error messages.
    """
    if isinstance(value, np.ndarray):
        return _from_numpy(value, where)
    if isinstance(value, bytes | bytearray | memoryview):
        return decode_image(bytes(value), where)
    if isinstance(value, Image.Image):
        return _from_pil(value, where)
    if isinstance(value, str | os.PathLike):
        raise ObservationError(
            f"{where} is the text or path {str(value)!r}, expected pixels: open it first, for "
            "example with PIL.Image.open(path).convert('RGB')"
        )
    if isinstance(value, Sequence):
        return _from_sequence(value, where)
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # torch
        tensor = value.detach().cpu()
        # numpy has no bfloat16.
        return np.asarray((tensor.float() if "bfloat16" in str(tensor.dtype) else tensor).numpy())
    if hasattr(value, "numpy"):  # TensorFlow; a string tensor gives bytes
        return as_array(value.numpy(), where)
    return _from_numpy(_to_numpy(value, where), where)


def as_history(
    pixels: NDArray[Any], where: str, *, channels_first: bool = False, parallel: bool = False
) -> NDArray[Any]:
    """View pixels as (T, H, W, 3), oldest first, whatever their dtype.

    A leading batch axis must have one entry. `channels_first` also takes (..., 3, H, W), for
    layouts that define it; `parallel` says that a fourth axis counts environments, not time.
    """
    shape = pixels.shape
    if pixels.size == 0:
        raise ObservationError(f"{where} has shape {shape} and holds no pixels: pass (H, W, 3)")
    if pixels.ndim == 5 or (pixels.ndim == 4 and parallel):
        if len(pixels) != 1:
            raise ObservationError(
                f"{where} has shape {shape}, a batch of {len(pixels)}; expected one observation: "
                "pick one (for example [0]), or hand a list of observations to predict_many"
            )
        pixels = pixels[0]
    if channels_first and pixels.ndim in (3, 4) and _is_channels_first(pixels.shape):
        pixels = np.moveaxis(pixels, -3, -1)
    if pixels.ndim == 3:
        pixels = pixels[None]
    if pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ObservationError(
            f"{where} has shape {shape}, expected (H, W, 3) or a history (K, H, W, 3): "
            + _remedy_for_shape(shape)
        )
    if min(pixels.shape[1:3]) < MIN_SIDE:
        raise ObservationError(
            f"{where} has shape {shape}: frames of {pixels.shape[1]}x{pixels.shape[2]} are below "
            f"{MIN_SIDE} pixels; check the order of the axes, expected (H, W, 3)"
        )
    return pixels


def to_uint8(frames: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Copy frames to contiguous uint8; float must be in [0, 1], other dtypes are refused."""
    if frames.dtype == np.uint8:
        return np.array(frames, order="C")
    if not np.issubdtype(frames.dtype, np.floating):
        raise ObservationError(
            f"{where} has dtype {frames.dtype}, expected uint8, or float in [0, 1]: "
            + _remedy_for_dtype(frames)
        )
    low, high = float(frames.min()), float(frames.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int(np.size(frames) - np.isfinite(frames).sum())
        raise ObservationError(
            f"{where} has {bad} values that are NaN or infinite of {frames.size}: drop this frame "
            "or take another from the camera"
        )
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise ObservationError(
            f"{where} has {frames.dtype} values from {low:.4g} to {high:.4g}, expected [0, 1]: "
            + _remedy_for_range(low, high)
        )
    # Rounded, not cut off: k / 255 must come back as k.
    scaled: NDArray[np.float32] = np.clip(frames.astype(np.float32), 0.0, 1.0) * 255.0
    return np.rint(scaled).astype(np.uint8, order="C")


def decode_image(data: bytes, where: str) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG into (H, W, 3) RGB; EXIF rotation is not applied, as in TFDS.

    Pillow reads the size from the header before it decodes, and refuses a truncated file; its
    pixels equal OpenCV's.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=["JPEG", "PNG"])
    # OSError: damaged header; SyntaxError and ValueError: a broken PNG chunk.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ObservationError(
            f"{where} holds {len(data)} bytes (starting {data[:8]!r}) that are not an acceptable "
            "JPEG or PNG: pass an encoded image or an array (H, W, 3)"
        ) from error
    with image:
        return _from_pil(image, where)


def _from_pil(image: Image.Image, where: str) -> NDArray[np.uint8]:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ObservationError(
            f"{where} declares {width}x{height} pixels, more than {MAX_PIXELS // 10**6} million: "
            "resize it before it is sent"
        )
    if image.mode != "RGB":
        raise ObservationError(
            f"{where} is an image of mode {image.mode!r}, expected RGB: use image.convert('RGB')"
        )
    try:
        return np.array(image, np.uint8)
    # Damage inside the pixel data surfaces only now, as one of these.
    except (OSError, SyntaxError, ValueError) as error:
        raise ObservationError(
            f"{where} is a damaged {image.format or 'image'} of {width}x{height} ({error}): "
            "drop it, or check how it is transmitted"
        ) from error


def _from_numpy(array: NDArray[Any], where: str) -> NDArray[Any]:
    if array.dtype.kind in "SO" and array.size and isinstance(array.flat[0], bytes):
        return as_array(array.item() if array.ndim == 0 else array.tolist(), where)
    if array.dtype == np.uint8 and array.ndim <= 2 and array.size in array.shape:
        data = array.tobytes()  # what cv2.imencode returns
        if data.startswith(_ENCODED):
            return decode_image(data, where)
    if array.dtype.kind not in "biufc":
        raise ObservationError(
            f"{where} has dtype {array.dtype}, expected pixels: make one uint8 array of it, for "
            "example np.stack(frames), where all frames have one size"
        )
    return array


def _from_sequence(value: Sequence[object], where: str) -> NDArray[Any]:
    if not value:
        raise ObservationError(f"{where} is an empty list, expected at least one frame")
    if isinstance(value[0], list | tuple | int | float):
        return _from_numpy(_to_numpy(value, where), where)
    frames = [as_array(frame, f"{where}[{index}]") for index, frame in enumerate(value)]
    shapes = {frame.shape for frame in frames}
    dtypes = {frame.dtype for frame in frames}
    if len(shapes) > 1 or len(dtypes) > 1:
        raise ObservationError(
            f"{where} mixes frames of shapes {sorted(shapes)} and dtypes "
            f"{sorted(map(str, dtypes))}: bring all frames to one size and dtype"
        )
    return np.stack(frames)


def _to_numpy(value: object, where: str) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ObservationError(
            f"{where} is a {type(value).__name__} that makes no array ({error}): pass a uint8 "
            "array (H, W, 3)"
        ) from error


def _is_channels_first(shape: tuple[int, ...]) -> bool:
    return shape[-3] == 3 and shape[-1] != 3


def _remedy_for_shape(shape: tuple[int, ...]) -> str:
    if len(shape) in (3, 4) and _is_channels_first(shape):
        order = (1, 2, 0) if len(shape) == 3 else (0, 2, 3, 1)
        return f"channels come last, use np.transpose(image, {order})"
    if len(shape) in (3, 4) and shape[-1] == 4:
        return "drop the alpha channel with image[..., :3]"
    if len(shape) in (3, 4) and shape[-1] == 1:
        return "repeat the grey channel with np.repeat(image, 3, axis=-1)"
    if len(shape) == 2:
        return "make grey RGB with np.repeat(image[..., None], 3, axis=-1)"
    return "pass one RGB image, or frames stacked oldest first"


def _remedy_for_dtype(frames: NDArray[Any]) -> str:
    if frames.dtype == np.bool_:
        return "a mask is no camera image; pass the RGB key"
    if frames.dtype == np.uint16:
        return (
            f"values reach {frames.max()}; use (image // 257).astype(np.uint8) if it is 16-bit "
            "colour; depth cannot be used"
        )
    if np.issubdtype(frames.dtype, np.integer) and frames.min() >= 0 and frames.max() <= 255:
        return "use image.astype(np.uint8)"
    if np.issubdtype(frames.dtype, np.integer):
        return f"values run from {frames.min()} to {frames.max()}, scale them to 0..255 first"
    return "convert it to uint8"


def _remedy_for_range(low: float, high: float) -> str:
    if low >= -1 - RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE:
        return "if it is in [-1, 1], use (image + 1) / 2"
    if low >= -RANGE_TOLERANCE and high <= 255 * (1 + RANGE_TOLERANCE):
        return "if it is in [0, 255], use image / 255, or image.astype(np.uint8)"
    return "undo the normalisation (multiply by its std, add its mean) first"
