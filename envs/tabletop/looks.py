"""How a scene looks: named colours, tables and backdrops, light; each drawn by a generator.

A texture is a bitmap, written into the MuJoCo model that every renderer reads it from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import cv2
import mujoco
import numpy as np
import numpy.typing as npt

from aid_robot.errors import SimulationError

UInt8Array: TypeAlias = npt.NDArray[np.uint8]
FloatArray: TypeAlias = npt.NDArray[np.float64]
RGB: TypeAlias = tuple[float, float, float]
Table: TypeAlias = Literal["wood", "plain", "checker", "cloth"]

# What language calls a colour, and its RGB in [0, 1]. Far enough apart to be told from each other
# after `vary_color` under every light that `random_light` draws.
NAMED_COLORS: dict[str, RGB] = {
    "red": (0.80, 0.09, 0.09),
    "green": (0.13, 0.52, 0.16),
    "blue": (0.08, 0.30, 0.82),
    "yellow": (0.93, 0.80, 0.10),
    "orange": (0.96, 0.45, 0.06),
    "purple": (0.50, 0.17, 0.62),
    "white": (0.93, 0.93, 0.91),
    "black": (0.07, 0.07, 0.08),
    "brown": (0.36, 0.19, 0.09),
    "pink": (0.98, 0.56, 0.72),
}

_WOODS: tuple[RGB, ...] = (
    (0.76, 0.60, 0.42),  # oak
    (0.83, 0.70, 0.52),  # birch
    (0.58, 0.42, 0.29),  # teak
    (0.67, 0.55, 0.44),  # ash
)
# Muted, so that an object of any named colour stands out.
_PAINTS: tuple[RGB, ...] = (
    (0.74, 0.74, 0.72),
    (0.60, 0.63, 0.66),
    (0.78, 0.72, 0.62),
    (0.52, 0.58, 0.55),
    (0.62, 0.69, 0.74),
    (0.70, 0.64, 0.66),
    (0.45, 0.47, 0.50),
)


@dataclass(frozen=True)
class Light:
    """A sun, and the light that comes from all around.

    Strengths are RGB in [0, 1]; a white surface that faces the sun gets their sum.
    """

    # The way that light travels, of length 1.
    direction: tuple[float, float, float]
    diffuse: RGB
    ambient: RGB
    specular: RGB
    # Light from the camera's side, which fills shadows.
    fill: RGB


# From behind the robot, over its left shoulder.
DEFAULT_LIGHT = Light(
    direction=(0.30, -0.40, -0.866),
    diffuse=(0.44, 0.44, 0.43),
    ambient=(0.34, 0.34, 0.35),
    specular=(0.20, 0.20, 0.20),
    fill=(0.20, 0.20, 0.20),
)


def vary_color(rgb: Sequence[float], rng: np.random.Generator, amount: float = 0.035) -> RGB:
    """Shift a colour a little; it keeps its name with the default amount."""
    shade = rng.uniform(1 - 2 * amount, 1 + 2 * amount)
    red, green, blue = np.clip(np.asarray(rgb) * shade + rng.uniform(-amount, amount, 3), 0, 1)
    return float(red), float(green), float(blue)


def random_light(rng: np.random.Generator) -> Light:
    """Draw a sun 45 to 75 degrees high, from either side, warm to cool.

    It shines 30 to 110 degrees away from x, where the robot faces: neither does the arm's shadow
    lie along the table, nor is all in shade that its cameras see.
    """
    azimuth = math.radians(rng.choice((-1, 1)) * rng.uniform(30, 110))
    elevation = math.radians(rng.uniform(45, 75))
    warmth = rng.uniform(-0.05, 0.05)
    tint = np.array([1 + warmth, 1.0, 1 - warmth])
    sun = rng.uniform(0.36, 0.50)
    ambient = rng.uniform(0.30, 0.38)
    fill = rng.uniform(0.15, 0.22)
    return Light(
        direction=(
            math.cos(elevation) * math.cos(azimuth),
            math.cos(elevation) * math.sin(azimuth),
            -math.sin(elevation),
        ),
        diffuse=_rgb(sun * tint),
        ambient=_rgb(ambient / tint),  # the sky is cool where the sun is warm
        specular=_rgb(rng.uniform(0.1, 0.25) * tint),
        fill=_rgb(np.full(3, fill)),
    )


def table_texture(
    rng: np.random.Generator, size: int = 128, kind: Table | None = None
) -> UInt8Array:
    """Paint a table top as (size, size, 3) RGB, of a random kind where none is named."""
    kind = kind or rng.choice(get_args(Table), p=(0.4, 0.2, 0.15, 0.25))
    if kind == "wood":
        return _bytes(_wood(rng, size))
    if kind == "plain":
        return _bytes(_paint(rng) * (1 + 0.025 * _noise(rng, size, (12, 12)))[..., None])
    if kind == "checker":
        return _bytes(_checker(rng, size))
    if kind == "cloth":
        return _bytes(_cloth(rng, size))
    raise SimulationError(
        f"no table looks like {kind!r}; expected one of {', '.join(get_args(Table))}"
    )


def backdrop_texture(rng: np.random.Generator, size: int = 128) -> UInt8Array:
    """Paint a floor or wall as (size, size, 3) RGB: a pale, blurred, uneven tone."""
    tone = _paint(rng) * rng.uniform(0.75, 1.1)
    shade = 0.06 * _noise(rng, size, (3, 3)) + 0.02 * _noise(rng, size, (14, 14))
    return _bytes(tone * (1 + shade)[..., None])


def set_texture(model: Any, name: str, pixels: UInt8Array) -> None:
    """Write a bitmap over a model's 2-d texture; renderers see it after `refresh()`.

    Args:
        model: A compiled `mujoco.MjModel`.
        name: Of the texture.
        pixels: (H, W, 3), just as large as the texture that the model was compiled with.
    """
    index = _id(model, mujoco.mjtObj.mjOBJ_TEXTURE, "texture", name)
    shape = (model.tex_height[index], model.tex_width[index], model.tex_nchannel[index])
    if pixels.shape != shape or pixels.dtype != np.uint8:
        raise SimulationError(
            f"texture {name!r} takes uint8 of shape {tuple(map(int, shape))}, got {pixels.dtype} "
            f"of shape {pixels.shape}: paint it in that size"
        )
    start = model.tex_adr[index]
    model.tex_data[start : start + pixels.size] = pixels.ravel()


def set_light(model: Any, name: str, light: Light) -> None:
    """Set a model's directional light by its name, and its headlight to the rest of the light.

    The light has to be the world's own, not a moving body's.
    """
    index = _id(model, mujoco.mjtObj.mjOBJ_LIGHT, "light", name)
    # GL sees shadows from where the light stands, within `shadowclip` extents around its axis.
    distance = 1.5 * model.stat.extent
    model.light_pos[index] = model.stat.center - distance * np.asarray(light.direction)
    model.light_dir[index] = light.direction
    model.light_diffuse[index] = light.diffuse
    model.light_specular[index] = light.specular
    # GL leaves out a light as a whole where its shadow falls, with its ambient part.
    model.light_ambient[index] = 0
    model.vis.headlight.ambient[:] = light.ambient
    model.vis.headlight.diffuse[:] = light.fill
    model.vis.headlight.specular[:] = 0


def _id(model: Any, kind: mujoco.mjtObj, word: str, name: str) -> int:
    index = int(mujoco.mj_name2id(model, kind, name))
    if index < 0:
        raise SimulationError(f"the model has no {word} named {name!r}: check the name")
    return index


def _rgb(values: FloatArray) -> RGB:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _bytes(values: FloatArray) -> UInt8Array:
    pixels: UInt8Array = (values * 255).round().clip(0, 255).astype(np.uint8)
    return pixels


def _paint(rng: np.random.Generator) -> FloatArray:
    color = np.asarray(_PAINTS[rng.integers(len(_PAINTS))])
    return np.asarray(color * rng.uniform(0.85, 1.1) + rng.uniform(-0.03, 0.03, 3))


def _noise(rng: np.random.Generator, size: int, cells: tuple[int, int]) -> FloatArray:
    """Draw smooth noise in about [-1, 1] with so many cells down and across."""
    grid = rng.uniform(-1, 1, cells)
    return np.asarray(cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC), np.float64)


def _wood(rng: np.random.Generator, size: int) -> FloatArray:
    tone = np.asarray(_WOODS[rng.integers(len(_WOODS))]) * rng.uniform(0.9, 1.08)
    # Grain runs along x: the field changes fast across it and slowly along it.
    field = _noise(rng, size, (5, 3)) + 0.15 * _noise(rng, size, (size // 3, 5))
    rings = np.sin(2 * math.pi * field * rng.uniform(2.0, 3.5))
    shade = 0.055 * rings + 0.04 * _noise(rng, size, (size // 2, 6))
    planks = int(rng.integers(1, 6))
    if planks > 1:
        rows = np.arange(size) * planks // size
        shade += rng.uniform(-0.07, 0.07, planks)[rows][:, None]
        seam = np.diff(rows, prepend=0) > 0
        shade[seam] -= 0.25
    image = tone * (1 + shade)[..., None]
    return np.asarray(image if rng.random() < 0.5 else image.transpose(1, 0, 2))


def _checker(rng: np.random.Generator, size: int) -> FloatArray:
    cells = int(rng.integers(5, 11))
    index = np.arange(size) * cells // size
    odd = ((index[:, None] + index[None]) % 2).astype(np.float64)
    tone = _paint(rng)
    # Squares in strong contrast would look like things on the table.
    image = tone * (1 - rng.uniform(0.1, 0.22) * odd)[..., None]
    return np.asarray(image * (1 + 0.02 * _noise(rng, size, (16, 16)))[..., None])


def _cloth(rng: np.random.Generator, size: int) -> FloatArray:
    at = np.arange(size)
    weave = 0.03 * ((at[:, None] + at[None]) % 2) + 0.03 * _noise(rng, size, (size // 2, size // 2))
    image = _paint(rng) * (1 + weave + 0.04 * _noise(rng, size, (4, 4)))[..., None]
    if rng.random() < 0.6:
        stripe = _paint(rng)
        width, gap = int(rng.integers(2, 6)), int(rng.integers(14, 30))
        along = (at * 128 // size % gap < width).astype(np.float64)
        across = along if rng.random() < 0.5 else np.zeros(size)
        amount = 0.5 * (along[:, None] + across[None])[..., None]
        image = image * (1 - amount) + stripe * amount
    return np.asarray(image)
