"""Pictures by casting rays into MuJoCo's geoms and shading in numpy: no graphics library needed.

Lights, materials and textures follow MuJoCo's OpenGL renderer: the fixed-function lighting of each
pixel, a light left out where its shadow falls. Left out
are reflections, fog and transparency, and a mesh's own texture coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import mujoco
import numpy as np
import numpy.typing as npt

from aid_robot.envs.tabletop.render import Renderer, UInt8Array
from aid_robot.envs.tabletop.textures import Texture, cube_direction, picture_places
from aid_robot.errors import SimulationError

FloatArray: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

# Where an edge crosses a pixel, it is the mean of these places in it: a rotated grid.
_SUBPIXELS = ((0.375, 0.125), (0.875, 0.375), (0.125, 0.625), (0.625, 0.875))
# Normals that differ by more make an edge.
_SMOOTH_COSINE = 0.9
# What is nearer to the light than a point by more than this, in metres, puts it in shadow.
_SHADOW_SLACK = 1e-3
# A sun stands so many extents away: its rays are parallel to within a degree or so.
_SUN_EXTENTS = 50.0
_DEFAULT_RGBA = np.array([0.5, 0.5, 0.5, 1.0], np.float32)


@dataclass(frozen=True)
class _View:
    """A camera: where it is, and how a pixel's place turns into a direction."""

    position: FloatArray
    rotation: FloatArray  # (3, 3), columns right, up, back
    center: float
    bottom: float
    half_width: float
    height: float
    near: float
    far: float

    def rays(self, rows: FloatArray, columns: FloatArray) -> FloatArray:
        """Point at places in the picture, (n,) in [0, 1] from its top left, as (n, 3) units."""
        local = np.stack(
            [
                self.center + self.half_width * (2 * columns - 1),
                self.bottom + self.height * (1 - rows),
                np.full(len(rows), -self.near),
            ],
            axis=1,
        )
        local /= np.linalg.norm(local, axis=1, keepdims=True)
        return np.asarray(local @ self.rotation.T)


@dataclass(frozen=True)
class _Hits:
    """What each of n rays meets first."""

    geom: npt.NDArray[np.int32]  # -1 where it meets nothing
    distance: FloatArray
    normal: FloatArray  # (n, 3)
    lit: BoolArray  # (n, lights): not in that light's shadow


class RayRenderer(Renderer):
    """Draws anywhere, in any thread; the same state gives the same bytes."""

    name = "rays"

    def __init__(self, model: Any, height: int, width: int, shadows: bool = True) -> None:
        super().__init__(model, height, width)
        self._shadows = shadows
        self._option = mujoco.MjvOption()
        # Never drawn: MuJoCo works out the lights and the camera's frustum in it.
        self._scene = mujoco.MjvScene(model, 0)
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._grid = np.indices((height, width)).reshape(2, -1).astype(np.float64)
        self._size = np.array([[height], [width]], np.float64)
        self._load_textures()

    def _load_textures(self) -> None:
        self._textures: list[Texture] = [
            Texture.of_model(self.model, i) for i in range(self.model.ntex)
        ]
        sky = np.flatnonzero(self.model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX)
        self._sky = self._textures[sky[0]] if len(sky) else None

    def _draw(self, data: Any, camera: int) -> UInt8Array:
        self._camera.fixedcamid = camera
        mujoco.mjv_updateScene(self.model, data, self._option, None, self._camera, 0, self._scene)
        view = self._view(data, camera)
        rows, columns = (self._grid + 0.5) / self._size
        rays = view.rays(rows, columns)
        hits = self._trace(data, view, rays)
        colors = self._shade(data, view, rays, hits)
        edge = self._edges(hits)
        if edge.any():
            colors[edge] = self._smoothed(data, view, self._grid[:, edge])
        pixels = (colors * 255).round().clip(0, 255).astype(np.uint8)
        return np.asarray(pixels.reshape(self.height, self.width, 3))

    def _view(self, data: Any, camera: int) -> _View:
        left, right = self._scene.camera
        if left.orthographic:
            raise SimulationError(
                f"camera {self.model.camera(camera).name!r} is orthographic, and rays start at one "
                "point: make it a perspective camera, or draw with OpenGL"
            )
        height = left.frustum_top - left.frustum_bottom
        return _View(
            position=data.cam_xpos[camera].copy(),
            rotation=data.cam_xmat[camera].reshape(3, 3).copy(),
            center=(left.frustum_center + right.frustum_center) / 2,
            bottom=left.frustum_bottom,
            half_width=left.frustum_width or 0.5 * height * self.width / self.height,
            height=height,
            near=left.frustum_near,
            far=left.frustum_far,
        )

    def _smoothed(self, data: Any, view: _View, pixels: FloatArray) -> FloatArray:
        """Colour pixels (2, n), rows and columns, by the mean of several places in each."""
        places = (pixels[:, None] + np.array(_SUBPIXELS).T[:, :, None]).reshape(2, -1)
        rows, columns = places / self._size
        rays = view.rays(rows, columns)
        colors = self._shade(data, view, rays, self._trace(data, view, rays))
        return np.asarray(colors.reshape(len(_SUBPIXELS), -1, 3).mean(axis=0))

    def _cast(
        self, data: Any, origin: FloatArray, rays: FloatArray, normals: FloatArray | None = None
    ) -> tuple[npt.NDArray[np.int32], FloatArray]:
        """Find the first geom along each ray, and how many of its lengths away."""
        count = len(rays)
        geom = np.full(count, -1, np.int32)
        distance = np.full(count, -1.0)
        mujoco.mj_multiRay(
            self.model,
            data,
            origin,
            np.ascontiguousarray(rays).ravel(),
            self._option.geomgroup,
            True,
            -1,
            geom,
            distance,
            None if normals is None else normals.reshape(-1),
            count,
            mujoco.mjMAXVAL,
        )
        return geom, distance

    def _trace(self, data: Any, view: _View, rays: FloatArray) -> _Hits:
        normal = np.zeros_like(rays)
        geom, distance = self._cast(data, view.position, rays, normal)
        lights = self._scene.lights[: self._scene.nlight]
        lit = np.ones((len(rays), len(lights)), np.bool_)
        met = np.flatnonzero(geom >= 0)
        if self._shadows and len(met):
            points = view.position + rays[met] * distance[met, None]
            for index, light in enumerate(lights):
                if light.castshadow:
                    lit[met, index] = self._lit(data, light, points, normal[met])
        return _Hits(geom, distance, normal, lit)

    def _lit(self, data: Any, light: Any, points: FloatArray, normals: FloatArray) -> BoolArray:
        """Say which points no geom hides from a light; those that face away don't count."""
        origin = np.array(light.pos, np.float64)
        if light.type == mujoco.mjtLightType.mjLIGHT_DIRECTIONAL:
            distance = _SUN_EXTENTS * self.model.stat.extent
            origin = self.model.stat.center - distance * np.array(light.dir, np.float64)
        rays = points - origin
        length = np.linalg.norm(rays, axis=1)
        lit = np.einsum("ij,ij->i", rays, normals) < 0
        facing = np.flatnonzero(lit)
        if len(facing):
            _, reached = self._cast(data, origin, rays[facing])
            lit[facing] = (1 - reached) * length[facing] < _SHADOW_SLACK
        return np.asarray(lit)

    def _edges(self, hits: _Hits) -> BoolArray:
        """Mark pixels that differ from the one beside or below in geom, normal or shadow."""
        shape = (self.height, self.width)
        geom = hits.geom.reshape(shape)
        normal = hits.normal.reshape(*shape, 3)
        lit = hits.lit.reshape(*shape, -1)
        edge = np.zeros(shape, np.bool_)
        for one, other in (
            ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
            ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
        ):
            cosine = np.einsum("ijk,ijk->ij", normal[one], normal[other])
            bent = (cosine < _SMOOTH_COSINE) & (geom[one] >= 0)
            shaded = (lit[one] != lit[other]).any(axis=-1)
            differs = (geom[one] != geom[other]) | bent | shaded
            edge[one] |= differs
            edge[other] |= differs
        return edge.ravel()

    def _shade(self, data: Any, view: _View, rays: FloatArray, hits: _Hits) -> FloatArray:
        """Colour what the rays meet, as (n, 3) in [0, 1]."""
        colors = np.zeros_like(rays)
        missed = hits.geom < 0
        if self._sky is not None and missed.any():
            x, y, z = rays[missed].T
            colors[missed] = self._sky.around(np.stack([x, z, -y], axis=1))
        met = np.flatnonzero(~missed)
        if len(met):
            colors[met] = self._shade_met(data, view, rays[met], hits, met)
        return colors

    def _shade_met(
        self, data: Any, view: _View, rays: FloatArray, hits: _Hits, met: npt.NDArray[np.intp]
    ) -> FloatArray:
        geom, normal, lit = hits.geom[met], hits.normal[met], hits.lit[met]
        points = view.position + rays * hits.distance[met, None]
        materials = _Materials.of_model(self.model)
        base = materials.rgb[geom]
        specular = materials.specular[geom]
        shininess = materials.shininess[geom] * 128
        # GL caps the light of its two passes before it multiplies by the texture.
        steady = base * materials.emission[geom, None]
        shadowed = np.zeros_like(base)
        for index, light in enumerate(self._scene.lights[: self._scene.nlight]):
            towards, strength = _falling(light, points)
            cosine = np.einsum("ij,ij->i", normal, towards).clip(0)
            share = base * (light.ambient + cosine[:, None] * light.diffuse)
            if light.specular.any():
                shines = np.flatnonzero((cosine > 0) & (specular > 0))
                halfway = towards[shines] - rays[shines]
                halfway /= np.linalg.norm(halfway, axis=1, keepdims=True).clip(1e-9)
                gloss = np.einsum("ij,ij->i", normal[shines], halfway).clip(0)
                gloss = specular[shines] * gloss ** shininess[shines]
                share[shines] += gloss[:, None] * light.specular
            share *= strength[:, None]
            if self._shadows and light.castshadow:
                shadowed += (share * lit[:, index, None]).clip(0, 1)
            else:
                steady += share
        colors = steady.clip(0, 1) + shadowed
        pixel_angle = view.height / view.near / self.height
        for number in np.unique(geom[materials.texture[geom] >= 0]):
            on = np.flatnonzero(geom == number)
            local = (points[on] - data.geom_xpos[number]) @ data.geom_xmat[number].reshape(3, 3)
            widths = hits.distance[met[on]] * pixel_angle
            colors[on] *= self._texels(materials, int(number), local, widths)
        return colors.clip(0, 1)

    def _texels(
        self, materials: _Materials, geom: int, local: FloatArray, widths: FloatArray
    ) -> FloatArray:
        """Look up a geom's texture at points in its frame that are so many metres wide."""
        model = self.model
        texture = self._textures[int(materials.texture[geom])]
        if not texture.flat:
            return texture.around(cube_direction(model, geom, local))
        places = picture_places(model, geom, local)
        if places is None:
            return np.broadcast_to(texture.mean, local.shape)
        s, t, per_metre = places
        return texture.at(s, t, widths * per_metre)


@dataclass(frozen=True)
class _Materials:
    """What MuJoCo draws each geom with; a colour of its own takes the place of its material's."""

    rgb: FloatArray  # (geoms, 3)
    emission: FloatArray
    specular: FloatArray
    shininess: FloatArray
    texture: npt.NDArray[np.intp]  # -1 for none

    @classmethod
    def of_model(cls, model: Any) -> _Materials:
        material = model.geom_matid
        has = material >= 0
        rgba = model.geom_rgba.astype(np.float64)
        emission, texture = np.zeros(model.ngeom), np.full(model.ngeom, -1, np.intp)
        specular, shininess = np.full(model.ngeom, 0.5), np.full(model.ngeom, 0.5)
        if has.any():
            plain = has & (model.geom_rgba == _DEFAULT_RGBA).all(axis=1)
            rgba[plain] = model.mat_rgba[material[plain]]
            emission[has] = model.mat_emission[material[has]]
            specular[has] = model.mat_specular[material[has]]
            shininess[has] = model.mat_shininess[material[has]]
            role = mujoco.mjtTextureRole.mjTEXROLE_RGB
            texture[has] = model.mat_texid[material[has], role]
        return cls(rgba[:, :3], emission, specular, shininess, texture)


def _falling(light: Any, points: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Say from where (n, 3) and how strongly (n,) a light falls on points."""
    direction = np.array(light.dir, np.float64)
    if light.headlight or light.type == mujoco.mjtLightType.mjLIGHT_DIRECTIONAL:
        return np.broadcast_to(-direction, points.shape), np.ones(len(points))
    towards = np.array(light.pos, np.float64) - points
    distance = np.linalg.norm(towards, axis=1)
    towards /= distance[:, None].clip(1e-9)
    constant, linear, square = light.attenuation
    strength = 1 / (constant + linear * distance + square * distance**2)
    cosine = (-towards @ direction).clip(0)
    inside = cosine >= np.cos(np.radians(light.cutoff))
    return towards, strength * np.where(inside, cosine**light.exponent, 0)
