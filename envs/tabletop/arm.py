"""The arm: where its gripper is, and which joint angles bring it elsewhere."""

from __future__ import annotations

from typing import Any, TypeAlias

import mujoco
import numpy as np
from numpy.typing import NDArray

from aid_robot.errors import SimulationError

Vector: TypeAlias = NDArray[np.float64]

JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
FINGERS = ("left_finger", "right_finger")
# Bridge counts roll, pitch and yaw from a gripper that points straight down.
DOWN: Vector = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
_ITERATIONS, _DAMPING = 60, 1e-4
_POSITION_TOLERANCE, _ANGLE_TOLERANCE = 2e-4, 2e-3
# An iteration's largest change of an angle [rad].
_MAX_CHANGE = 0.3


def rotation_of(angles: Vector) -> Vector:
    """Turn roll, pitch, yaw [rad] about the base's x, y and z axes into a matrix (3, 3)."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(angles), np.sin(angles)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def angles_of(rotation: Vector) -> Vector:
    """Turn a matrix (3, 3) into roll, pitch, yaw [rad]."""
    pitch = np.arcsin(np.clip(-rotation[2, 0], -1, 1))
    roll = np.arctan2(rotation[2, 1], rotation[2, 2])
    yaw = np.arctan2(rotation[1, 0], rotation[0, 0])
    return np.array([roll, pitch, yaw])


class Arm:
    """Kinematics of the six joints, apart from the world in which they move."""

    def __init__(self, model: Any) -> None:
        self._model, self._data = model, mujoco.MjData(model)
        self._site = model.site("grip").id
        self.qpos = np.array([model.joint(name).qposadr[0] for name in JOINTS])
        self._dofs = np.array([model.joint(name).dofadr[0] for name in JOINTS])
        self._low, self._high = np.array([model.joint(name).range for name in JOINTS]).T

    def pose(self, angles: Vector) -> tuple[Vector, Vector]:
        """Return the fingertips' position (3,) and rotation (3, 3) at six joint angles."""
        self._place(angles)
        return self._data.site_xpos[self._site].copy(), self._rotation() @ DOWN.T

    def reach(self, position: Vector, rotation: Vector, start: Vector) -> Vector:
        """Find joint angles (6,) for a pose, near to `start`; SimulationError where there are none.

        By damped least squares on the site's Jacobian.
        """
        angles = start.copy()
        jacobian = np.zeros((6, self._model.nv))
        wanted = rotation @ DOWN
        error = np.zeros(6)
        for _ in range(_ITERATIONS):
            self._place(angles)
            error[:3] = position - self._data.site_xpos[self._site]
            turn = wanted @ self._rotation().T
            error[3:] = _rotation_vector(turn)
            if (
                np.linalg.norm(error[:3]) < _POSITION_TOLERANCE
                and np.linalg.norm(error[3:]) < _ANGLE_TOLERANCE
            ):
                return angles
            mujoco.mj_jacSite(self._model, self._data, jacobian[:3], jacobian[3:], self._site)
            part = jacobian[:, self._dofs]
            # An angle at its stop can't help further; the others take over.
            change = part.T @ np.linalg.solve(part @ part.T + _DAMPING * np.eye(6), error)
            angles = angles + np.clip(change, -_MAX_CHANGE, _MAX_CHANGE)
            angles = np.clip(angles, self._low, self._high)
        raise SimulationError(
            f"the gripper can't reach {np.round(position, 3)} m with roll, pitch, yaw "
            f"{np.round(angles_of(rotation), 2)} rad: stay within the workspace, some 15 to 45 cm "
            "before the arm"
        )

    def _place(self, angles: Vector) -> None:
        self._data.qpos[self.qpos] = angles
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)

    def _rotation(self) -> Vector:
        return np.asarray(self._data.site_xmat[self._site]).reshape(3, 3)


def _rotation_vector(rotation: Vector) -> Vector:
    """Axis times angle (3,) of a rotation."""
    quaternion, vector = np.zeros(4), np.zeros(3)
    mujoco.mju_mat2Quat(quaternion, rotation.ravel())
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector
