"""Where objects end: found by colour in the predicted last frame and in the true one.

A video can be close to the truth in every pixel metric and leave the object where it was. This
check knows each object by its colours in the true clip, looks for them in the predicted last
frame, and says how far from its true place each one ends: the one that the instruction names, and
those that should have stayed.

    camera = Camera(position, right, up, fovy)
    things = known_objects(states["start"], states["end"], camera, frames.shape[1:3])
    ends = find_ends(predicted[-1], true[-1], given[-1], things, camera)
    ends["carrot"].distance_cm
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from aid_robot.errors import MetricError
from aid_robot.evaluation.metrics.metric import FloatArray, check_clip

Frame: TypeAlias = NDArray[np.uint8]
Mask: TypeAlias = NDArray[np.bool_]
# In pixels and in cm.
Distance: TypeAlias = tuple[float, float]

# Colours are told apart in so many bins along each axis of Lab, blurred by so many bins.
_BINS, _BLUR = 32, 1.0
# A blob counts from this share of the area that the object has in truth, and from so many pixels.
_SMALLEST_SHARE, _SMALLEST_AREA = 0.25, 6
# Beyond this share of its colour elsewhere in the true frame, an object can't be told by it.
_ELSEWHERE = 0.5


@dataclass(frozen=True, eq=False)
class KnownObject:
    """An object, and where it is in the true clip; rough regions will do."""

    name: str
    # (H, W): in the last given frame.
    start: Mask
    # (H, W): in the true last frame; None where that isn't known.
    end: Mask | None = None
    # Of its centre at the end [m], for distances in cm.
    height: float = 0.0


@dataclass(frozen=True)
class ObjectEnd:
    """Where an object ends in the prediction, measured against the truth."""

    name: str
    # Whether it was found in the predicted last frame; None where the truth can't be judged.
    found: bool | None
    # From its true place [px], and along the table [cm]; NaN where it wasn't found or no camera
    # is known.
    distance_px: float
    distance_cm: float
    # How far it moved in truth, and in the prediction.
    true_move_px: float
    true_move_cm: float
    move_px: float
    move_cm: float


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera: place [m], axes to the right and up, vertical angle of view [degrees]."""

    position: ArrayLike
    right: ArrayLike
    up: ArrayLike
    fovy: float

    def project(self, points: ArrayLike, size: tuple[int, int]) -> FloatArray:
        """Return the pixels (n, 2), x and y, of points (n, 3) in a picture of (height, width)."""
        seen = (np.asarray(points, np.float64) - np.asarray(self.position)) @ self._axes
        if (seen[:, 2] >= 0).any():
            raise MetricError("a point lies behind the camera: are all given in its frame?")
        scaled = seen[:, :2] / -seen[:, 2:] * self._focal(size)
        return np.asarray(scaled * (1, -1) + self._centre(size))

    def to_plane(self, pixel: ArrayLike, height: float, size: tuple[int, int]) -> FloatArray:
        """Return the point (3,) [m] at a height that a pixel (x, y) shows."""
        flat = (np.asarray(pixel, np.float64) - self._centre(size)) * (1, -1) / self._focal(size)
        ray = self._axes @ np.array([*flat, -1.0])
        position = np.asarray(self.position, np.float64)
        if ray[2] >= 0:
            raise MetricError(
                f"pixel {tuple(np.asarray(pixel))} looks above the horizon: it shows no table"
            )
        return np.asarray(position + ray * (height - position[2]) / ray[2])

    @property
    def _axes(self) -> FloatArray:
        right, up = (np.asarray(axis, np.float64) for axis in (self.right, self.up))
        return np.stack([right, up, np.cross(right, up)], axis=1)

    def _focal(self, size: tuple[int, int]) -> float:
        return size[0] / 2 / math.tan(math.radians(self.fovy) / 2)

    @staticmethod
    def _centre(size: tuple[int, int]) -> FloatArray:
        return np.array([size[1] - 1, size[0] - 1]) / 2


def known_objects(
    start: Mapping[str, Any], end: Mapping[str, Any] | None, camera: Camera, size: tuple[int, int]
) -> list[KnownObject]:
    """Project the things of two scene states, as the tabletop's `Episode.info["states"]` has them.

    Args:
        start: The scene at the last given frame.
        end: The scene at the true last frame; None where the clip ends elsewhere.
        camera: That sees them.
        size: Height and width of the frames.
    """
    later = {thing["name"]: thing for thing in end["things"]} if end is not None else {}
    return [
        KnownObject(
            name=thing["name"],
            start=_box_region(thing, camera, size),
            end=_box_region(later[thing["name"]], camera, size) if later else None,
            height=float(later.get(thing["name"], thing)["position"][2]),
        )
        for thing in start["things"]
    ]


def find_ends(
    predicted: Frame,
    true: Frame,
    given: Frame,
    objects: Sequence[KnownObject],
    camera: Camera | None = None,
) -> dict[str, ObjectEnd]:
    """Find each object in a predicted last frame, and measure how far it is from its true place.

    Args:
        predicted: The predicted last frame, (H, W, 3) uint8.
        true: The true one.
        given: The last given one.
        objects: What is on the table.
        camera: That sees it; without one there are no distances in cm.
    """
    frames = check_clip(np.stack([predicted, true, given]), "the frames")
    size = (frames.shape[1], frames.shape[2])
    for thing in objects:
        for region in (thing.start, thing.end):
            if region is not None and region.shape != size:
                raise MetricError(
                    f"the region of '{thing.name}' is {region.shape}, the frames are {size}: "
                    "make both of one size"
                )
    bins = [_bins(frame) for frame in frames]
    colors = _colors(bins[1:], objects)
    ends = {}
    for thing, likely in zip(objects, colors, strict=True):
        ours, theirs, before = (likely[tuple(found.T)].reshape(size) for found in bins)
        first, last = _find(before, thing.start), _find(theirs, thing.end)
        if first is None or last is None or not (first.is_unique and last.is_unique):
            ends[thing.name] = ObjectEnd(thing.name, None, *[math.nan] * 6)
            continue
        seen = _find(ours, smallest=_SMALLEST_SHARE * last.area)

        def between(a: _Blob, b: _Blob | None, height: float = thing.height) -> Distance:
            return _between(a, b, height, camera, size)

        ends[thing.name] = ObjectEnd(
            thing.name,
            seen is not None,
            *between(last, seen),
            *between(first, last),
            *between(first, seen),
        )
    return ends


@dataclass(frozen=True, eq=False)
class _Blob:
    """Pixels of an object's colour that hang together."""

    centre: FloatArray  # (2,) x, y
    area: float
    # Whether hardly any other pixel of the frame has that colour.
    is_unique: bool


def _colors(bins: Sequence[NDArray[np.intp]], objects: Sequence[KnownObject]) -> list[FloatArray]:
    """Say for each object how likely a pixel of each colour is one of its own, (bins,) * 3.

    Args:
        bins: Colours of the true last frame and of the given one, (H * W, 3) each.
        objects: With their regions in both.
    """
    own = []
    for thing in objects:
        pairs = zip(bins, (thing.end, thing.start), strict=True)
        own.append(_histogram(np.concatenate([b[m.ravel()] for b, m in pairs if m is not None])))
    background = np.zeros((_BINS,) * 3)
    for found, which in zip(bins, ("end", "start"), strict=True):
        regions = [getattr(thing, which) for thing in objects]
        if all(region is not None for region in regions):
            taken = np.zeros(len(found), bool)
            for region in regions:
                taken |= region.ravel()
            background += _histogram(found[~taken])
    total = np.sum([*own, background], axis=0) + 1e-3
    return [np.asarray(count / total) for count in own]


def _bins(frame: Frame) -> NDArray[np.intp]:
    """Return the colour bin of each pixel, (H * W, 3)."""
    lab = cv2.cvtColor(frame, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    return np.asarray(lab.astype(np.intp) * _BINS // 256)


def _histogram(bins: NDArray[np.intp]) -> FloatArray:
    """Count colours, blurred, so that one that was seen stands for its neighbours."""
    counts = np.zeros((_BINS,) * 3)
    np.add.at(counts, tuple(bins.T), 1.0)
    place = np.arange(_BINS)
    smear = np.exp(-((place[:, None] - place) ** 2) / (2 * _BLUR**2))
    smear /= smear.sum(0)
    return np.asarray(np.einsum("al,bm,cn,lmn->abc", smear, smear, smear, counts, optimize=True))


def _find(likely: FloatArray, region: Mask | None = None, smallest: float = 0.0) -> _Blob | None:
    """Find the largest blob of an object's colour, or the one that a region holds most of."""
    count, labels = cv2.connectedComponents((likely > 0.5).astype(np.uint8), connectivity=8)
    if count < 2:
        return None
    weights = likely if region is None else likely * region
    held = np.bincount(labels.ravel(), weights.ravel(), count)[1:]
    chosen = labels == 1 + int(held.argmax())
    area = float(likely[chosen].sum())
    if held.max() <= 0 or area < max(smallest, _SMALLEST_AREA):
        return None
    y, x = np.nonzero(chosen)
    centre = np.average(np.stack([x, y], -1), axis=0, weights=likely[chosen])
    elsewhere = float(likely[(labels > 0) & ~chosen].sum())
    return _Blob(np.asarray(centre), area, elsewhere <= _ELSEWHERE * area)


def _between(
    first: _Blob, second: _Blob | None, height: float, camera: Camera | None, size: tuple[int, int]
) -> Distance:
    """Return the distance of two centres in pixels and, on a plane, in cm."""
    if second is None:
        return math.nan, math.nan
    pixels = float(np.linalg.norm(first.centre - second.centre))
    if camera is None:
        return pixels, math.nan
    start, end = (camera.to_plane(blob.centre, height, size) for blob in (first, second))
    return pixels, 100 * float(np.linalg.norm(end - start))


def _box_region(thing: Mapping[str, Any], camera: Camera, size: tuple[int, int]) -> Mask:
    """Draw the outline of a thing's bounding box, (H, W)."""
    w, x, y, z = np.asarray(thing["quaternion"], np.float64) / np.linalg.norm(thing["quaternion"])
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    signs = np.stack(np.meshgrid(*[(-1, 1)] * 3), -1).reshape(-1, 3)
    corners = np.asarray(thing["position"]) + (signs * thing["half_size"]) @ turn.T
    outline = cv2.convexHull(camera.project(corners, size).round().astype(np.int32))
    region = np.zeros(size, np.uint8)
    cv2.fillConvexPoly(region, outline, 1)
    return np.asarray(region, bool)
