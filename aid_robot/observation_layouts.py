"""Where the camera image is: every observation layout a control loop may hand over.

| layout       | what it looks like                                                               |
|--------------|----------------------------------------------------------------------------------|
| `frame`      | `(H, W, 3)`, a PIL image, JPEG or PNG bytes                                      |
| `history`    | `(K, H, W, 3)`, oldest first                                                     |
| `bridge_env` | Gymnasium Dict, Bridge env, RLDS observation: `{"image_0": ..., "state": ...}`   |
| `octo`       | `{"image_primary": (T, H, W, 3), "timestep_pad_mask": (T,)}`, batch of one too   |
| `widowx`     | `WidowXClient.get_observation()`: `{"full_image": ..., "image": flat float CHW}` |
| `rlds`       | a step: `{"observation": {...}, "language_instruction": b"..."}`                 |
| `lerobot`    | `{"observation.images.image_0": (3, H, W) float, "task": "..."}`                 |
| `openpi`     | `{"observation/image": ..., "prompt": "..."}`, `{"images": {"cam_high": ...}}`   |
| `simpler`    | SimplerEnv, ManiSkill: `{"image": {"3rd_view_camera": {"rgb": ...}}}`            |

Other keys beside these are left alone.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aid_robot.errors import InstructionError, ObservationError
from aid_robot.observation_pixels import MIN_SIDE, as_array

# The default camera is the first of these, else the first that is not on the wrist. Bridge's
# image_0 is the fixed over-the-shoulder camera that every episode has.
CAMERA_PREFERENCE = (
    "image_0",
    "image_primary",
    "full_image",
    "full_image[0]",
    "3rd_view_camera",
    "overhead_camera",
    "exterior_image_1_left",
    "image",
    "image[0]",
    "pixels",
    "cam_high",
    "base_0_rgb",
)
_WRIST = re.compile(r"wrist|hand|gripper|digit", re.IGNORECASE)
_NOT_RGB = re.compile(r"depth|mask|embed|segment", re.IGNORECASE)

INSTRUCTION_KEYS = (
    "prompt",
    "instruction",
    "language_instruction",
    "natural_language_instruction",
    "task",
)
STATE_KEYS = ("state", "proprio", "observation.state", "observation/state")
_PAD_MASKS = ("timestep_pad_mask", "pad_mask")

Keys = Mapping[str, object]


@dataclass(frozen=True, eq=False)
class View:
    """One camera of an observation, its pixels as they were handed over."""

    # What `camera=` selects; None where there is only one image and no name.
    name: str | None
    pixels: object
    # Names the pixels in messages.
    where: str
    # The layout also allows (..., 3, H, W).
    channels_first: bool = False
    # A fourth axis counts environments, not time.
    parallel: bool = False
    # (T,), False where a history is padded.
    real: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class Recognised:
    """An observation taken apart, before any pixel is looked at."""

    layout: str
    views: tuple[View, ...]
    instruction: str | None = None
    state: NDArray[np.float32] | None = None


def recognise(obs: object) -> Recognised:
    """Tell which layout an observation has, and find its cameras, instruction and state."""
    if obs is None:
        raise ObservationError(
            "the observation is None: WidowXClient.get_observation() returns None while the robot "
            "is not connected; call it again until it returns a dict"
        )
    if isinstance(obs, Mapping):
        return _recognise_mapping({key: obs[key] for key in obs if isinstance(key, str)})
    pixels = as_array(obs, "the observation")
    layout = "history" if pixels.ndim > 3 else "frame"
    return Recognised(layout, (View(None, pixels, "the observation"),))


def choose_camera(found: Recognised, camera: str | None) -> View:
    """Pick the camera that was asked for, else the first of `CAMERA_PREFERENCE`; never a wrist."""
    views = {view.name: view for view in found.views if view.name is not None}
    if not views:
        if camera is not None:
            raise ObservationError(
                f"camera={camera!r} was asked for, but a bare {found.layout} has no named cameras: "
                "leave camera out, or pass the dict that holds it"
            )
        return found.views[0]
    listed = ", ".join(views)
    if camera is not None:
        short = re.sub(r"^observation([./])(images\1)?", "", camera)
        if short not in views:
            raise ObservationError(
                f"there is no camera {camera!r} in this {found.layout} observation: choose one of "
                + listed
            )
        return views[short]
    for name in CAMERA_PREFERENCE:
        if name in views:
            return views[name]
    for name, view in views.items():
        if not _WRIST.search(name):
            return view
    raise ObservationError(
        f"the only cameras in this {found.layout} observation are on the wrist ({listed}), and the "
        f"model expects a fixed view: pass camera={next(iter(views))!r} if this is meant"
    )


def _recognise_mapping(obs: Keys) -> Recognised:
    for layout, find in _LAYOUTS:
        views = tuple(view for view in find(obs) if view.pixels is not None)
        if views:
            return Recognised(layout, views, _instruction(obs), _state(obs))
    inner = obs.get("observation")
    if isinstance(inner, Mapping):
        found = recognise(inner)
        return replace(found, layout="rlds", instruction=_instruction(obs) or found.instruction)
    raise ObservationError(_unknown(obs))


def _lerobot(obs: Keys) -> Iterator[View]:
    for key, value in obs.items():
        name = re.sub(r"^observation\.(images\.)?", "", key)
        if key.startswith("observation.image") and not _NOT_RGB.search(name):
            yield View(name, value, f"observation[{key!r}]", channels_first=True)


def _openpi(obs: Keys) -> Iterator[View]:
    for key, value in obs.items():
        name = key.removeprefix("observation/")
        if name != key and re.search(r"image|rgb", name) and not _NOT_RGB.search(name):
            yield View(name, value, f"observation[{key!r}]", channels_first=True)
    images = obs.get("images")
    if isinstance(images, Mapping):
        for name, value in images.items():
            yield View(str(name), value, f"observation['images'][{name!r}]", channels_first=True)


def _simpler(obs: Keys) -> Iterator[View]:
    for key in ("image", "sensor_data"):
        cameras = obs.get(key)
        for name, camera in cameras.items() if isinstance(cameras, Mapping) else ():
            if isinstance(camera, Mapping):
                where = f"observation[{key!r}][{name!r}]['rgb']"
                yield View(name, camera.get("rgb"), where, parallel=key == "sensor_data")


def _octo(obs: Keys) -> Iterator[View]:
    if "image_primary" not in obs and not any(key in obs for key in _PAD_MASKS):
        return
    for view in _bridge_env(obs):
        yield replace(view, real=_real_frames(obs, str(view.name)))


def _widowx(obs: Keys) -> Iterator[View]:
    """Take full_image first; its leading axis and that of the flat image count cameras."""
    full = obs.get("full_image")
    others = {view.name or "": view.pixels for view in _bridge_env(obs) if view.pixels is not None}
    others.pop("full_image", None)
    flat = {key: value for key, value in others.items() if _is_flat(value)}
    if len(flat) < len(others):
        return  # a Gymnasium wrapper of the client: its full_image is one more camera
    if full is not None:
        pixels = as_array(full, "observation['full_image']")
        yield from _per_camera("full_image", pixels)
    for key, value in flat.items():
        pixels = as_array(value, f"observation[{key!r}]")
        side = math.isqrt(pixels.shape[-1] // 3)
        if 3 * side * side == pixels.shape[-1]:
            square = pixels.reshape(*pixels.shape[:-1], 3, side, side)
            yield from _per_camera(key, np.moveaxis(square, -3, -1))
        elif full is None:
            raise ObservationError(
                f"observation[{key!r}] holds {pixels.shape[-1]} numbers, which is no square RGB "
                "image (3 * side * side): pass 'full_image' (env parameter return_full_image)"
            )


def _bridge_env(obs: Keys) -> Iterator[View]:
    for key, value in obs.items():
        named = key in ("image", "pixels", "full_image", "wrist_image") or key.startswith("image_")
        if named and not _NOT_RGB.search(key) and not isinstance(value, Mapping):
            yield View(key, value, f"observation[{key!r}]")


_LAYOUTS: tuple[tuple[str, Callable[[Keys], Iterator[View]]], ...] = (
    ("lerobot", _lerobot),
    ("openpi", _openpi),
    ("simpler", _simpler),
    ("octo", _octo),
    ("widowx", _widowx),
    ("bridge_env", _bridge_env),
)


def _per_camera(key: str, pixels: NDArray[Any]) -> Iterator[View]:
    if pixels.ndim < 4 or len(pixels) == 1:
        yield View(key, pixels, f"observation[{key!r}]")
        return
    for index, camera in enumerate(pixels):
        yield View(f"{key}[{index}]", camera, f"observation[{key!r}][{index}]")


def _is_flat(value: object) -> bool:
    shape: tuple[int, ...] = tuple(getattr(value, "shape", ()))
    dtype = str(getattr(value, "dtype", ""))
    return "float" in dtype and (len(shape) == 1 or (len(shape) == 2 and shape[0] < MIN_SIDE))


def _real_frames(obs: Keys, camera: str) -> NDArray[np.bool_] | None:
    masks = [obs[key] for key in _PAD_MASKS if key in obs]
    per_camera = obs.get("pad_mask_dict")
    if isinstance(per_camera, Mapping) and camera in per_camera:
        masks.append(per_camera[camera])
    arrays = [as_array(mask, "the pad mask").astype(bool).reshape(-1) for mask in masks]
    if len({array.size for array in arrays}) > 1:
        raise ObservationError(
            f"the pad masks of {camera!r} have lengths {[array.size for array in arrays]}, "
            "expected one entry a frame in each"
        )
    return np.logical_and.reduce(arrays) if arrays else None


def _instruction(obs: Keys) -> str | None:
    """Return the first instruction that is not blank; a blank one is normal in Bridge."""
    for key in INSTRUCTION_KEYS:
        text = _text(obs[key], key) if key in obs else None
        if text:
            return text
    return None


def _text(value: object, key: str) -> str | None:
    if hasattr(value, "numpy"):
        value = value.numpy()
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):  # Octo's task
        return _instruction({str(name): value[name] for name in value})
    if isinstance(value, list | tuple) and len(value) == 1:
        return _text(value[0], key)
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise InstructionError(
                f"observation[{key!r}] is {value[:40]!r}, which is not UTF-8 text ({error.reason}):"
                " pass the instruction as str"
            ) from error
    if value is None or isinstance(value, str):
        return value and value.strip()
    raise InstructionError(
        f"observation[{key!r}] is {str(value)[:60]!r} ({type(value).__name__}), expected one "
        "instruction as text: pass a str, or leave the key out"
    )


def _state(obs: Keys) -> NDArray[np.float32] | None:
    for key in STATE_KEYS:
        value = obs.get(key)
        # A WidowX server without a robot sends an empty dict.
        if value is None or isinstance(value, Mapping):
            continue
        state = np.atleast_1d(as_array(value, f"observation[{key!r}]"))
        if state.size:
            last: NDArray[np.float32] = state.reshape(-1, state.shape[-1])[-1].astype(np.float32)
            return last
    return None


def _unknown(obs: Keys) -> str:
    examples = (
        *("image_0", "image", "pixels", "image_primary", "full_image", "observation"),
        *("observation.images.image_0", "observation/image", "sensor_data", "images"),
    )
    close = {key: difflib.get_close_matches(key, examples, n=1, cutoff=0.75) for key in obs}
    hints = [f"{key!r}: did you mean {match[0]!r}?" for key, match in close.items() if match]
    empty = [key for key, match in close.items() if match == [key]]
    if empty:
        hints = [
            f"{key!r} is there but holds no image ({type(obs[key]).__name__})" for key in empty
        ]
    names = ", ".join(["frame", "history", "rlds", *(name for name, _ in _LAYOUTS)])
    return (
        f"no camera image found under the keys {sorted(obs)}. {' '.join([*hints, ''])}"
        f"Known layouts: {names} (see aid_robot.observation_layouts); or pass the image itself, "
        "uint8 (H, W, 3)"
    )
