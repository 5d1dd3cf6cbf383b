"""Tabletop scenes written down by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from aid_robot.envs.tabletop.state import GRIPPER, SceneState, ThingState

# Half extents [m].
SIZES = {
    "cube": (0.02, 0.02, 0.02),
    "ball": (0.02, 0.02, 0.02),
    "can": (0.02, 0.02, 0.035),
    "cup": (0.03, 0.03, 0.035),
    "carrot": (0.045, 0.015, 0.015),
    "banana": (0.05, 0.015, 0.015),
    "plate": (0.06, 0.06, 0.01),
    "cloth": (0.06, 0.05, 0.001),
    "bowl": (0.06, 0.06, 0.025),
    "pot": (0.06, 0.06, 0.04),
    "drawer": (0.06, 0.06, 0.03),
}
_CONTAINERS = ("plate", "cloth", "bowl", "pot", "drawer")


def thing(name: str, x: float, y: float, z: float | None = None, yaw: float = 0.0) -> ThingState:
    """Put a thing on the table, or with its lowest point at `z`."""
    color, _, kind = name.rpartition(" ")
    half = np.array(SIZES[kind])
    return ThingState(
        name=name,
        kind=kind,
        color=color or None,
        position=np.array([x, y, (z or 0.0) + half[2]]),
        quaternion=np.array([math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)]),
        half_size=half,
        open=0.0 if kind == "drawer" else None,
        graspable=kind not in (*_CONTAINERS,),
        container=kind in _CONTAINERS,
    )


def scene(*things: ThingState, held: str | None = None) -> SceneState:
    """Gather things; what is held touches the gripper."""
    contacts = frozenset({(GRIPPER, held)} if held else set())
    return SceneState(things, np.array([0.2, 0, 0.2, 0, 0, 0, 1.0]), held, contacts)


def kitchen() -> SceneState:
    """Show two cubes, a carrot, a can, a plate, a bowl and a closed drawer, all apart."""
    return scene(
        thing("red cube", 0.20, 0.00),
        thing("blue cube", 0.20, 0.15),
        thing("carrot", 0.30, 0.00),
        thing("can", 0.40, -0.15),
        thing("green plate", 0.30, 0.15),
        thing("bowl", 0.20, -0.15),
        thing("drawer", 0.45, 0.10),
    )


def moved(
    state: SceneState, name: str, x: float, y: float, z: float = 0.0, held: str | None = None
) -> SceneState:
    """Return the scene with one thing elsewhere, its lowest point at `z`."""
    return scene(
        *(
            replace(t, position=np.array([x, y, z + t.half_size[2]])) if t.name == name else t
            for t in state.things
        ),
        held=held,
    )


def changed(state: SceneState, name: str, **fields: Any) -> SceneState:
    """Return the scene with fields of one thing changed."""
    things = (replace(t, **fields) if t.name == name else t for t in state.things)
    return scene(*things, held=state.held)
