"""A model's texture bitmap, looked up by numpy as OpenGL does it: repeated, mixed, in mipmaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import mujoco
import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]

_Geom = mujoco.mjtGeom
# Older versions project a picture on any shape from above.
_WRAPPED = tuple(int(part) for part in mujoco.__version__.split(".")[:2]) >= (3, 12)

# Of a cube's six faces in the order +x -x +y -y +z -z: the axis that each looks along, and the axes
# and signs of its s and t; OpenGL 4.6 specification, table 8.19.
_CUBE = (
    (0, (2, -1), (1, -1)),
    (0, (2, 1), (1, -1)),
    (1, (0, 1), (2, 1)),
    (1, (0, 1), (2, -1)),
    (2, (0, 1), (1, -1)),
    (2, (0, -1), (1, -1)),
)


@dataclass(frozen=True)
class Texture:
    """One bitmap, or six for a cube seen from within."""

    # The bitmap and its halves down to one texel, one after the other, (n, 3) in [0, 1].
    texels: npt.NDArray[np.float32]
    # Of each of these: where it starts, its height and width.
    levels: npt.NDArray[np.intp]  # (levels, 3)
    # A picture to lay on; else a cube's faces one below the other, not halved.
    flat: bool

    @classmethod
    def of_model(cls, model: Any, index: int) -> Texture:
        """Copy a texture out of a `mujoco.MjModel`."""
        height, width = int(model.tex_height[index]), int(model.tex_width[index])
        channels = int(model.tex_nchannel[index])
        start = int(model.tex_adr[index])
        data = model.tex_data[start : start + height * width * channels]
        image = data.reshape(height, width, channels).astype(np.float32) / 255
        image = np.ascontiguousarray(
            image[..., :3] if channels > 2 else image[..., :1].repeat(3, 2)
        )
        flat = bool(model.tex_type[index] == mujoco.mjtTexture.mjTEXTURE_2D)
        images = [image]
        while flat and max(images[-1].shape[:2]) > 1:
            rows, columns = (max(1, side // 2) for side in images[-1].shape[:2])
            images.append(cv2.resize(images[-1], (columns, rows), interpolation=cv2.INTER_AREA))
        starts = np.cumsum([0] + [i.shape[0] * i.shape[1] for i in images[:-1]])
        levels = [(start, *i.shape[:2]) for start, i in zip(starts, images, strict=True)]
        return cls(np.concatenate([i.reshape(-1, 3) for i in images]), np.array(levels), flat)

    @property
    def mean(self) -> FloatArray:
        """The colour of the whole."""
        return np.asarray(self.texels[-1], np.float64)

    def at(self, s: FloatArray, t: FloatArray, width: FloatArray) -> FloatArray:
        """Look up places (n,) where the picture spans 0 to 1 and repeats, as (n, 3).

        Args:
            s: Across.
            t: Down.
            width: Of the part of the picture that each place stands for.
        """
        texels = width * self.levels[0, 1:].max()
        level = np.log2(texels.clip(1)).round().astype(np.intp).clip(0, len(self.levels) - 1)
        start, height, across = self.levels[level].T
        return self._mixed(start, height, across, s * across - 0.5, t * height - 0.5, wrap=True)

    def around(self, direction: FloatArray) -> FloatArray:
        """Look up what a cube shows in directions (n, 3) of any length, as (n, 3)."""
        side = int(self.levels[0, 2])
        axis = np.abs(direction).argmax(axis=1)
        reach = np.take_along_axis(direction, axis[:, None], axis=1)[:, 0]
        face = 2 * axis + (reach < 0)
        s, t = np.empty(len(face)), np.empty(len(face))
        for number, (_, (s_axis, s_sign), (t_axis, t_sign)) in enumerate(_CUBE):
            on = face == number
            s[on] = s_sign * direction[on, s_axis]
            t[on] = t_sign * direction[on, t_axis]
        scale = 0.5 / np.abs(reach).clip(1e-12)
        sides = np.full(len(face), side)
        x, y = (s * scale + 0.5) * side - 0.5, (t * scale + 0.5) * side - 0.5
        return self._mixed(face * side * side, sides, sides, x, y, wrap=False)

    def _mixed(
        self,
        start: npt.NDArray[np.intp],
        height: npt.NDArray[np.intp],
        width: npt.NDArray[np.intp],
        x: FloatArray,
        y: FloatArray,
        *,
        wrap: bool,
    ) -> FloatArray:
        """Mix the four texels around each place."""
        left, top = np.floor(x), np.floor(y)
        right_share, low_share = (x - left)[:, None], (y - top)[:, None]
        columns = [left.astype(np.intp) + step for step in (0, 1)]
        rows = [top.astype(np.intp) + step for step in (0, 1)]
        if wrap:
            columns, rows = [c % width for c in columns], [r % height for r in rows]
        else:
            columns = [c.clip(0, width - 1) for c in columns]
            rows = [r.clip(0, height - 1) for r in rows]
        upper, lower = (
            self.texels[start + row * width + columns[0]] * (1 - right_share)
            + self.texels[start + row * width + columns[1]] * right_share
            for row in rows
        )
        return np.asarray(upper * (1 - low_share) + lower * low_share)


def cube_direction(model: Any, geom: int, local: FloatArray) -> FloatArray:
    """Say in what direction (n, 3) of its cube texture a geom shows at points in its frame."""
    uniform = model.mat_texuniform[model.geom_matid[geom]]
    return local if uniform else local / _unit_size(model, geom)


def picture_places(
    model: Any, geom: int, local: FloatArray
) -> tuple[FloatArray, FloatArray, float] | None:
    """Say where in its 2-d texture a geom shows at points (n, 3) in its frame.

    Returns:
        Places across and down, (n,) each, and how much of the picture a metre covers; None for a
        mesh with texture coordinates of its own.
    """
    kind = int(model.geom_type[geom])
    material = model.geom_matid[geom]
    size = _unit_size(model, geom)
    repeat = np.asarray(model.mat_texrepeat[material], np.float64)
    if kind == _Geom.mjGEOM_PLANE:
        # A side of length 0 stands for an endless one, where a repeat spans a metre.
        size = np.where(model.geom_size[geom] > 0, size, 1)
    scale = repeat * size[:2] if model.mat_texuniform[material] else repeat
    per_metre = float((0.5 * scale / size[:2]).max())
    unit = local / size
    endless = kind == _Geom.mjGEOM_PLANE and not model.geom_size[geom, :2].all()
    mesh = kind == _Geom.mjGEOM_MESH
    if mesh and model.mesh_texcoordadr[model.geom_dataid[geom]] >= 0:
        return None
    if mesh or endless or not _WRAPPED:
        # Seen from above, the middle of the picture in the middle.
        s, t = 0.5 * scale[0] * unit[:, 0] - 0.5, -0.5 * scale[1] * unit[:, 1] - 0.5
        return s, t, per_metre
    u, v = _wrapped(kind, unit, capped=float(size[0] / size[2]))
    return scale[0] * u, scale[1] * v, per_metre


def _wrapped(kind: int, unit: FloatArray, capped: float) -> tuple[FloatArray, FloatArray]:
    """Wrap a picture once around a shape, as MuJoCo does it since 3.12: (n,) each in [0, 1].

    Args:
        kind: The geom's type.
        unit: Points on it, scaled to reach from -1 to 1.
        capped: Of a capsule: the radius of its caps over half its length between them.
    """
    x, y, z = unit.T
    around = np.arctan2(y, x) / (2 * np.pi) % 1
    if kind in (_Geom.mjGEOM_SPHERE, _Geom.mjGEOM_ELLIPSOID):
        return around, np.arccos(z.clip(-1, 1)) / np.pi
    if kind == _Geom.mjGEOM_CYLINDER:
        side = np.abs(z) < 1 - 1e-6
        return np.where(side, around, (1 + x) / 2), np.where(side, (1 - z) / 2, (1 + y) / 2)
    if kind == _Geom.mjGEOM_CAPSULE:
        # The picture once more on each half ball.
        sunk = np.arccos(((np.abs(z) - 1) / capped).clip(0, 1)) * 2 / np.pi
        return around, np.where(np.abs(z) < 1, (1 - z) / 2, np.where(z > 0, sunk, 1 - sunk))
    face = np.abs(unit).argmax(axis=1) if kind == _Geom.mjGEOM_BOX else np.full(len(unit), 2)
    across = np.where(face == 0, y, x)
    up = np.where(face == 2, y, z)
    return (1 + across) / 2, (1 - up) / 2


def _unit_size(model: Any, geom: int) -> FloatArray:
    """Give the half sizes that MuJoCo scales a geom's unit shape by."""
    x, y, z = (float(value) for value in model.geom_size[geom])
    kind = int(model.geom_type[geom])
    if kind == _Geom.mjGEOM_SPHERE:
        return np.array([x, x, x])
    if kind in (_Geom.mjGEOM_CAPSULE, _Geom.mjGEOM_CYLINDER):
        return np.array([x, x, y])
    return np.maximum([x, y, z], 1e-9)
