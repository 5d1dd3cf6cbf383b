"""Where a thing is grasped, where it is put down, and what room there is around."""

from __future__ import annotations

import math

import numpy as np

from aid_robot.envs.tabletop.relations import footprint
from aid_robot.envs.tabletop.state import SceneState, ThingState, Vector
from aid_robot.envs.tabletop.view import in_view

# Open fingers beyond a thing's sides [m].
ROOM = 0.013
LONG, _ROUND = ("banana", "carrot"), ("ball", "can", "cup")


def nearest(angle: float) -> float:
    """Bring an angle into (-pi, pi]."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


def _heading(thing: ThingState) -> float:
    """Angle of the thing's x axis as seen from above."""
    # Of a cube that lies on its side, any axis that lies flat will do.
    axes = thing.rotation.T
    flat = axes[0] if math.hypot(*axes[0][:2]) > 0.5 else axes[1]
    return math.atan2(flat[1], flat[0])


def aligned_yaw(thing: ThingState, near: float) -> float | None:
    """The yaw at which faces are parallel, next to the yaw that is."""
    if thing.kind != "cube":
        return None
    quarter = math.pi / 2
    return near + (_heading(thing) - near + quarter / 2) % quarter - quarter / 2


def grasp_pose(thing: ThingState, scene: SceneState) -> tuple[Vector, float, float]:
    """Where the fingertips go, at which yaw, and how far apart the thing keeps them."""
    position = thing.position.copy()
    heading = _heading(thing)
    lying = abs(thing.rotation[2, 2]) < 0.8
    if thing.kind == "cube":
        width = 2 * float(thing.half_size[0])
        yaws = [heading + quarter * math.pi / 2 for quarter in range(4)]
        position[2] = thing.position[2] - 0.002
    elif thing.kind in LONG:
        width = 2 * float(thing.half_size[2])
        yaws = [heading, heading + math.pi]
        # The thick part: the outer side of the banana's arc, the head of the carrot.
        shift = (0.0, 0.006, 0.0) if thing.kind == "banana" else (0.004, 0.0, 0.0)
        position = position + thing.rotation @ np.array(shift)
        position[2] = thing.position[2] - 0.005
    elif thing.kind in _ROUND and not (lying and thing.kind != "ball"):
        width = 2 * float(thing.half_size[0])
        yaws = [n * math.pi / 12 for n in range(-6, 7)]
        lift = {"ball": -0.003, "can": 0.004, "cup": 0.008}[thing.kind]
        position[2] = thing.position[2] + lift
    else:
        width = 2 * float(thing.half_size[0])
        axis = thing.rotation[:, 2]
        along = math.atan2(axis[1], axis[0])
        yaws = [along, along + math.pi]
        position[2] = thing.position[2] - 0.004
    position[2] = max(position[2], scene.table + 0.009)
    others = [other for other in scene.things if other is not thing]

    def cost(yaw: float) -> float:
        """Prefer fingers away from other things, and a small turn."""
        side = np.array([-math.sin(yaw), math.cos(yaw)])
        reach = width / 2 + ROOM + 0.006
        free = min(
            (
                _distance(position[:2] + sign * side * reach, other)
                for other in others
                for sign in (-1, 1)
                if other.top > position[2] - 0.006
            ),
            default=0.1,
        )
        return abs(yaw) * 0.01 + 2 * max(0.0, 0.014 - free) + (10 if abs(yaw) > 1.75 else 0)

    yaw = min((nearest(yaw) for yaw in yaws), key=cost)
    return position, yaw, width


def _distance(point: Vector, thing: ThingState) -> float:
    """From a point to a thing's outline, about; negative inside."""
    outline = footprint(thing)
    if thing.open is not None:
        radius = 0.0
        low, high = outline.min(0), outline.max(0)
        outside = np.maximum(np.maximum(low - point, point - high), 0)
        return float(np.linalg.norm(outside)) - radius
    radius = float(np.linalg.norm(outline - thing.position[:2], axis=1).min())
    return float(np.linalg.norm(point - thing.position[:2])) - radius


def free_place(thing: ThingState, scene: SceneState) -> Vector:
    """The place on the table with most room around it, near to the thing."""
    xs, ys = np.meshgrid(np.linspace(0.22, 0.38, 5), np.linspace(-0.15, 0.15, 7))
    places = np.stack([xs.ravel(), ys.ravel()], -1)
    others = [other for other in scene.things if other is not thing]
    radius = float(np.sort(thing.half_size)[-1])

    def score(place: Vector) -> float:
        room = min((_distance(place, other) - radius for other in others), default=0.1)
        return min(room, 0.03) - 0.05 * float(np.linalg.norm(place - thing.position[:2]))

    return np.asarray(max(places, key=score))


def beside(
    thing: ThingState, target: ThingState, scene: SceneState, yaw: float
) -> tuple[Vector, float]:
    """A free place next to the target, with the fingers neither between the two nor far turned."""
    others = [other for other in scene.things if other.name not in (thing.name, target.name)]
    near = footprint(target) - target.position[:2]
    heading_in_hand = yaw
    best: tuple[float, Vector, float] | None = None
    for angle in np.linspace(-math.pi, math.pi, 24, endpoint=False):
        out = np.array([math.cos(angle), math.sin(angle)])
        # Fingers close across the line between the two.
        for turned in (angle, angle + math.pi):
            turn = nearest(turned - heading_in_hand)
            outline = footprint(thing) - thing.position[:2]
            c, s = math.cos(turn), math.sin(turn)
            outline = outline @ np.array([[c, s], [-s, c]])
            distance = (near @ out).max() - (outline @ out).min() + 0.016
            place = target.position[:2] + out * distance
            inside = bool(in_view(place, 0.03)) and 0.18 < place[0] < 0.43
            radius = float(np.linalg.norm(outline, axis=1).max())
            room = min((_distance(place, other) - radius for other in others), default=0.1)
            cost = abs(turn) + (0 if inside else 10) + 60 * max(0.0, 0.022 - room)
            if abs(nearest(yaw + turn)) > 1.8:
                cost += 5
            if best is None or cost < best[0]:
                best = cost, place, yaw + turn
    assert best is not None
    return np.array([*best[1], scene.table]), best[2]
