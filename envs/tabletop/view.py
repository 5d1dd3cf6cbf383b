"""What the main camera sees of the table."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from aid_robot.envs.tabletop.state import Vector

# As scene.xml has it: place [m], axes to the right and up, angle of view [degrees].
CAMERA = np.array([0.0, -0.16, 0.336])
RIGHT, UP = np.array([0.4472, -0.8944, 0.0]), np.array([0.5606, 0.2802, 0.7793])
FOVY = 50.0
_AXES = np.stack([RIGHT, UP, np.cross(RIGHT, UP)], axis=1)
_AROUND = np.linspace(0, 2 * math.pi, 8, endpoint=False)
_CIRCLE = np.stack([np.cos(_AROUND), np.sin(_AROUND), 0 * _AROUND], -1)


def see(points: Vector) -> Vector:
    """Project points (..., 3) into the picture: (..., 2), from -1, -1 top left to 1, 1."""
    seen = (np.asarray(points) - CAMERA) @ _AXES
    flat = seen[..., :2] / -seen[..., 2:] / math.tan(math.radians(FOVY) / 2)
    return np.asarray(flat * (1, -1))


def in_view(places: Vector, radius: float, share: float = 1.0) -> NDArray[np.bool_]:
    """Say for places (..., 2) on the table whether a disc there is seen whole.

    Whole in the middle `share` of the picture's sides, by the camera where it stands exactly; a
    scene may shift and turn it a little.
    """
    ground = np.concatenate([places, 0 * places[..., :1]], -1)
    seen = see(ground[..., None, :] + _CIRCLE * radius)
    return np.asarray((np.abs(seen) < share).all((-2, -1)))
