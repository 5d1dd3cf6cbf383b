"""The MuJoCo model of robot, table and every thing that a scene may hold, compiled once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mujoco

from aid_robot.envs.tabletop.objects import DRAWER, KINDS, Part

# Robot, table, light and cameras.
_BASE = Path(__file__).with_name("scene.xml")
# As the file has them: side of its textures, how far a finger opens [m].
TEXTURE, FINGER_TRAVEL = 128, 0.04
# Where what a scene does not hold waits, held by gravity compensation [m], and not drawn.
_PARKED, _APART = -3.0, 0.3
_HIDDEN = 4
_TYPES = {
    "box": mujoco.mjtGeom.mjGEOM_BOX,
    "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "sphere": mujoco.mjtGeom.mjGEOM_SPHERE,
}
_ROLLING = (0.8, 0.01, 0.003)
_BARE, _IRON = (0.8, 0.8, 0.8, 1.0), (0.15, 0.15, 0.16, 1.0)


def build_model() -> Any:
    """Compile the model: things are bodies "cube_0", "cube_1", ..., the drawer is "drawer"."""
    spec = mujoco.MjSpec.from_file(str(_BASE))
    _add_drawer(spec)
    for kind in KINDS.values():
        for number in range(kind.count):
            name = f"{kind.name}_{number}"
            body = spec.worldbody.add_body(
                name=name, pos=(_APART * len(spec.bodies), 0, _PARKED), gravcomp=1
            )
            body.add_freejoint(name=name)
            for index, part in enumerate(kind.parts):
                _add_part(spec, body, f"{name}_{index}", part, kind.mass / len(kind.parts))
    return spec.compile()


def _add_part(spec: Any, body: Any, name: str, part: Part, mass: float) -> None:
    geom = body.add_geom(
        spec.find_default("thing"),
        name=name,
        type=_TYPES[part.type],
        size=[*part.size, 0, 0][:3],
        mass=mass,
        rgba=(*part.rgb, 1) if part.rgb else _BARE,
        group=_HIDDEN,
    )
    if part.ends:
        geom.fromto = part.ends
    else:
        geom.pos, geom.quat = part.position, part.quaternion
    if part.rolls:
        geom.condim, geom.friction = 6, _ROLLING


def _add_drawer(spec: Any) -> None:
    """Add a cabinet open towards the robot (-x), and the drawer in it."""
    hx, hy, hz = DRAWER.half_size
    wall, gap, bar = DRAWER.wall, DRAWER.handle_gap, DRAWER.bar
    # Half the thickness of the cabinet's walls, and its inside.
    side, ix, iy, iz = wall, hx + 0.002, hy + 0.003, hz + 0.003
    cabinet = spec.worldbody.add_body(name="cabinet", pos=(0, 0, _PARKED))
    drawer = cabinet.add_body(name="drawer", gravcomp=1)
    drawer.add_joint(
        name="drawer",
        type=mujoco.mjtJoint.mjJNT_SLIDE,
        axis=(-1, 0, 0),
        range=(0, DRAWER.travel),
        damping=6,
        frictionloss=0.6,
        armature=0.05,
    )

    def box(body: Any, name: str, size: Sequence[float], position: Sequence[float]) -> None:
        default = spec.find_default("thing" if body is drawer else "cabinet")
        body.add_geom(
            default,
            name=name,
            type=_TYPES["box"],
            size=size,
            pos=position,
            mass=0.05,
            rgba=_BARE,
            group=_HIDDEN,
        )

    def rod(name: str, radius: float, ends: Sequence[float]) -> None:
        drawer.add_geom(
            spec.find_default("thing"),
            name=name,
            type=_TYPES["capsule"],
            size=(radius, 0, 0),
            fromto=ends,
            mass=0.01,
            rgba=_IRON,
            group=_HIDDEN,
        )

    for number, sign in enumerate((1, -1)):
        box(cabinet, f"cabinet_{number}", (ix + 2 * side, side, iz + 2 * side),
            (0, sign * (iy + side), 0))  # fmt: skip
    box(cabinet, "cabinet_2", (ix + 2 * side, iy + 2 * side, side), (0, 0, iz + side))
    box(cabinet, "cabinet_3", (side, iy, iz), (ix + side, 0, 0))
    box(drawer, "drawer_0", (hx, hy, wall / 2), (0, 0, -hz + wall / 2))
    box(drawer, "drawer_1", (hx, wall / 2, hz), (0, hy - wall / 2, 0))
    box(drawer, "drawer_2", (hx, wall / 2, hz), (0, -hy + wall / 2, 0))
    box(drawer, "drawer_3", (wall / 2, hy, hz), (hx - wall / 2, 0, 0))
    box(drawer, "drawer_4", (wall, hy + 0.006, hz + 0.004), (-hx - wall / 2, 0, 0.002))
    front, width, up = -hx - gap - bar, 0.035, DRAWER.handle_height
    rod("drawer_5", bar, (front, -width, up, front, width, up))
    for number, y in enumerate((-width, width)):
        rod(f"drawer_{6 + number}", 0.8 * bar, (-hx, y, up, front, y, up))
    spec.add_exclude(bodyname1="cabinet", bodyname2="drawer")
