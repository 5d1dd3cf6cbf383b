"""How two things lie to each other: footprints, gaps, on, in and the sides.

Tolerances are in metres. Sides are as seen from the camera behind the robot: left is +y, and in
front is nearer to the robot (-x).
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from aid_robot.envs.tabletop.state import SceneState, ThingState, Vector

# A thing rests on another when its lowest point is no farther above the other's highest.
REST_HEIGHT = 0.010
# A thing is in a vessel when its lowest point is this far below the rim.
SUNK_DEPTH = 0.005
# Things with a smaller gap are next to each other.
NEXT_GAP = 0.040
# One thing lies to a side of another when their centres are this far apart that way.
SIDE_DISTANCE = 0.030
# A drawer is open above the one and closed below the other.
OPEN, CLOSED = 0.7, 0.15

_ROUND = frozenset(("ball", "can", "cup", "plate", "bowl", "pot"))
_CIRCLE = np.stack([np.cos(np.arange(24) * np.pi / 12), np.sin(np.arange(24) * np.pi / 12)], -1)
# Beyond this tilt (25 degrees) a thing lies on its side.
_UPRIGHT = 0.9


def is_upright(thing: ThingState) -> bool:
    """Say whether the thing's own z axis points up."""
    return bool(thing.rotation[2, 2] > _UPRIGHT)


@lru_cache(maxsize=256)
def footprint(thing: ThingState) -> Vector:
    """Return the outline (n, 2) of the thing seen from above, convex and in order [m]."""
    half = thing.half_size
    if thing.kind == "ball":
        return np.asarray(thing.position[:2] + _CIRCLE * half[0])
    if thing.kind in _ROUND:
        ring = _CIRCLE * half[:2]
        corners = np.concatenate(
            [np.c_[ring, np.full(len(ring), height)] for height in (-half[2], half[2])]
        )
    else:
        signs = np.stack(np.meshgrid((-1, 1), (-1, 1), (-1, 1)), -1).reshape(8, 3)
        corners = signs * half
    points = (corners @ thing.rotation.T + thing.position)[:, :2]
    hull = cv2.convexHull(points.astype(np.float32)).reshape(-1, 2)
    return np.asarray(hull, np.float64)


@lru_cache(maxsize=1024)
def gap(first: ThingState, second: ThingState) -> float:
    """Return the free distance between two things seen from above [m], 0 where they overlap."""
    a, b = footprint(first), footprint(second)
    if cv2.intersectConvexConvex(a.astype(np.float32), b.astype(np.float32))[0] > 0:
        return 0.0
    # Between two convex outlines, one end of the shortest way is a corner.
    return float(min(_distances(a, b).min(), _distances(b, a).min()))


def _distances(outline: Vector, points: Vector) -> Vector:
    """Return how far points (n, 2) are from the nearest side of an outline (m, 2) [m]."""
    sides = np.roll(outline, -1, axis=0) - outline
    offsets = points[:, None] - outline
    where = (offsets * sides).sum(-1) / np.maximum((sides**2).sum(-1), 1e-12)
    nearest = np.clip(where, 0, 1)[..., None] * sides
    return np.asarray(np.linalg.norm(offsets - nearest, axis=-1).min(axis=1))


def is_over(upper: ThingState, lower: ThingState) -> bool:
    """Say whether the centre of the one is above the outline of the other."""
    x, y = upper.position[:2].tolist()
    return bool(cv2.pointPolygonTest(footprint(lower).astype(np.float32), (x, y), False) >= 0)


def is_on(upper: ThingState, lower: ThingState) -> bool:
    """Say whether the one rests on the other, at most `REST_HEIGHT` above it."""
    return (
        is_over(upper, lower)
        and upper.position[2] > lower.position[2]
        # The rim of a plate is higher than the middle, where things lie.
        and lower.bottom - REST_HEIGHT < upper.bottom < lower.top + REST_HEIGHT
    )


def is_in(inner: ThingState, vessel: ThingState) -> bool:
    """Say whether the one has sunk into the other, at least `SUNK_DEPTH` below its rim."""
    return (
        is_upright(vessel)
        and is_over(inner, vessel)
        and vessel.bottom - REST_HEIGHT < inner.bottom < vessel.top - SUNK_DEPTH
    )


def carried_by(name: str, state: SceneState) -> str | None:
    """Return the name of the thing that `name` rests on or in, None where that is the table."""
    thing = state[name]
    below = [
        other
        for other in state.things
        if other is not thing and (is_on(thing, other) or is_in(thing, other))
    ]
    return max(below, key=lambda other: other.position[2]).name if below else None


def load_of(name: str, state: SceneState) -> tuple[str, ...]:
    """Return the names of what rests on or in `name`."""
    return tuple(other.name for other in state.things if carried_by(other.name, state) == name)


def offset(thing: ThingState, reference: ThingState, axis: tuple[float, float]) -> Vector:
    """Return how far (2,) the one's centre lies from the other's along and across a unit vector."""
    apart = thing.position[:2] - reference.position[:2]
    return np.array([apart @ axis, apart @ (-axis[1], axis[0])])


def clearance(name: str, state: SceneState) -> float:
    """Return how high the lowest point of `name` is above what is below it [m]."""
    thing = state[name]
    below = [
        other.top
        for other in state.things
        if other is not thing and other.position[2] < thing.position[2] and is_over(thing, other)
    ]
    return thing.bottom - max([state.table, *below])
