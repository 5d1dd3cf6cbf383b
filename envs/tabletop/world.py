"""The simulated tabletop: physics, control, and what is where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from aid_robot.envs.tabletop.arm import FINGERS, Arm, angles_of, rotation_of
from aid_robot.envs.tabletop.config import TabletopConfig
from aid_robot.envs.tabletop.layout import Placed, random_layout
from aid_robot.envs.tabletop.looks import (
    DEFAULT_LIGHT,
    NAMED_COLORS,
    backdrop_texture,
    random_light,
    set_light,
    set_texture,
    table_texture,
    vary_color,
)
from aid_robot.envs.tabletop.objects import DRAWER, KINDS
from aid_robot.envs.tabletop.scene import FINGER_TRAVEL, TEXTURE, build_model
from aid_robot.envs.tabletop.state import GRIPPER, TABLE, SceneState, ThingState
from aid_robot.errors import SimulationError

SUBSTEPS = 50
# Limits of an action: metres, radians a step of 0.2 s.
MAX_MOVE, MAX_TURN = 0.06, 0.4
HOME = np.array([0.26, 0.0, 0.15])
# Where the fingertips may be sent [m].
LOW, HIGH = np.array([0.12, -0.27, 0.004]), np.array([0.50, 0.27, 0.30])
_HOME_ANGLES = np.array([0.0, -0.6, 0.6, 0.0, 1.5, 0.0])
_SETTLE = 100
# Scenes that are laid out until one stays as it is.
_TRIES = 20
# Of the table that is always the same, and the drawer's colour.
_PLAIN, _WOOD = 3, (0.72, 0.60, 0.45)
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
# What a scene's looks are made of, beside the physics.
_LOOKS = (
    "geom_rgba", "tex_data", "light_pos", "light_dir", "light_diffuse", "light_ambient",
    "light_specular", "cam_pos", "cam_quat", "body_pos", "body_gravcomp", "geom_group",
)  # fmt: skip


@dataclass(frozen=True)
class _Streams:
    """Chance for each part of a scene, so that no switch of a config changes the other parts."""

    layout: np.random.Generator
    start: np.random.Generator
    colors: np.random.Generator
    table: np.random.Generator
    light: np.random.Generator
    camera: np.random.Generator


@dataclass(frozen=True)
class WorldState:
    """Everything that decides what comes next."""

    physics: NDArray[np.float64]
    looks: tuple[NDArray[Any], ...]
    headlight: tuple[NDArray[Any], ...]
    things: tuple[Placed, ...]
    target: tuple[NDArray[np.float64], NDArray[np.float64], float]
    angles: NDArray[np.float64]


class World:
    """One scene at a time, on a model that is compiled once."""

    def __init__(self) -> None:
        self.model: Any = build_model()
        self.data: Any = mujoco.MjData(self.model)
        self.arm = Arm(self.model)
        self.things: tuple[Placed, ...] = ()
        # Where the gripper was sent: position, rotation, opening; and the arm's angles for it.
        self._target = HOME, np.eye(3), 1.0
        self._angles = _HOME_ANGLES
        self._fresh = {name: getattr(self.model, name).copy() for name in _LOOKS}
        self._fingers = np.array([self.model.joint(n).qposadr[0] for n in FINGERS])
        self._geom_body = self.model.geom_bodyid.copy()
        self._hand_bodies = {self.model.body(name).id for name in (*FINGERS, "hand")}

    def reset(
        self, config: TabletopConfig, rng: np.random.Generator, things: Sequence[str] = ()
    ) -> None:
        """Lay out a new scene that holds at least `things`, and let it come to rest."""
        for _ in range(_TRIES):
            streams = _Streams(*map(np.random.default_rng, rng.integers(2**63, size=6)))
            self._set_up(random_layout(config, streams.layout, things), config, streams)
            if self._at_rest():
                return
        raise SimulationError(
            f"no scene came to rest in {_TRIES} tries; expected fewer things, or other kinds"
        )

    def step(self, action: NDArray[np.float32]) -> None:
        """Move for a fifth of a second: (7,) dx, dy, dz, droll, dpitch, dyaw, opening."""
        position, rotation, _ = self._target
        move = np.clip(np.asarray(action[:3], np.float64), -MAX_MOVE, MAX_MOVE)
        turn = np.clip(np.asarray(action[3:6], np.float64), -MAX_TURN, MAX_TURN)
        position = np.clip(position + move, LOW, HIGH)
        rotation = rotation_of(turn) @ rotation
        try:
            angles = self.arm.reach(position, rotation, self._angles)
        except SimulationError:
            # As the robot's own controller: it stays where it is rather than fails.
            position, rotation = self._target[:2]
            angles = self._angles
        opening = float(np.clip(action[6], 0, 1))
        self._target = position, rotation, opening
        self._go(angles, opening, SUBSTEPS)

    @property
    def target(self) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Where the gripper was sent: position (3,), rotation (3, 3), opening."""
        return self._target

    def gripper(self) -> NDArray[np.float64]:
        """Return x, y, z, roll, pitch, yaw, opening (7,)."""
        position, rotation = self.arm.pose(self.data.qpos[self.arm.qpos])
        opening = self.data.qpos[self._fingers].mean() / FINGER_TRAVEL
        return np.array([*position, *angles_of(rotation), np.clip(opening, 0, 1)])

    def scene_state(self) -> SceneState:
        """Say what is where."""
        contacts, held = self._contacts()
        return SceneState(
            things=tuple(self._thing(placed) for placed in self.things),
            gripper=self.gripper(),
            held=held,
            contacts=contacts,
        )

    def save(self) -> WorldState:
        """Copy everything that decides what comes next."""
        physics = np.zeros(mujoco.mj_stateSize(self.model, _STATE))
        mujoco.mj_getState(self.model, self.data, physics, _STATE)
        looks = tuple(getattr(self.model, name).copy() for name in _LOOKS)
        light = self.model.vis.headlight
        headlight = (light.ambient.copy(), light.diffuse.copy(), light.specular.copy())
        position, rotation, opening = self._target
        target = (position.copy(), rotation.copy(), opening)
        return WorldState(physics, looks, headlight, self.things, target, self._angles.copy())

    def restore(self, state: WorldState) -> None:
        """Go back to a saved state, of this world or of another one."""
        for name, values in zip(_LOOKS, state.looks, strict=True):
            getattr(self.model, name)[:] = values
        light = self.model.vis.headlight
        light.ambient[:], light.diffuse[:], light.specular[:] = state.headlight
        mujoco.mj_setState(self.model, self.data, state.physics, _STATE)
        mujoco.mj_forward(self.model, self.data)
        mujoco.mj_setState(self.model, self.data, state.physics, _STATE)
        self.things = state.things
        position, rotation, opening = state.target
        self._target = position.copy(), rotation.copy(), opening
        self._angles = state.angles.copy()

    # A new scene

    def _set_up(self, things: Sequence[Placed], config: TabletopConfig, streams: _Streams) -> None:
        model, data = self.model, self.data
        for name, values in self._fresh.items():
            getattr(model, name)[:] = values
        mujoco.mj_resetData(model, data)
        self.things = tuple(things)
        self._paint(config, streams)
        for placed in self.things:
            self._put_down(placed)
        shift = streams.start.uniform(-1, 1, 3) * (1, 1, 0.5) * config.start_shift
        position, rotation = HOME + shift, np.eye(3)
        self._angles = self.arm.reach(position, rotation, _HOME_ANGLES)
        self._target = position, rotation, 1.0
        data.qpos[self.arm.qpos] = self._angles
        data.qpos[self._fingers] = FINGER_TRAVEL
        data.ctrl[:6], data.ctrl[6:] = self._angles, FINGER_TRAVEL
        mujoco.mj_forward(model, data)
        self._go(self._angles, 1.0, _SETTLE)

    def _put_down(self, placed: Placed) -> None:
        self._show(placed.body)
        if placed.kind == "drawer":
            self._show("cabinet")
            self.model.body("cabinet").pos[:] = placed.x, placed.y, DRAWER.half_size[2] + 0.003
            self.data.joint("drawer").qpos = placed.open * DRAWER.travel
            return
        joint = self.model.joint(placed.body)
        address = joint.qposadr[0]
        half = KINDS[placed.kind].half_size[2]
        turn = [np.cos(placed.yaw / 2), 0, 0, np.sin(placed.yaw / 2)]
        self.data.qpos[address : address + 7] = [placed.x, placed.y, half + 0.001, *turn]
        self.model.body_gravcomp[self.model.body(placed.body).id] = 0

    def _show(self, body: str) -> None:
        self.model.geom_group[self._geom_body == self.model.body(body).id] = 0

    def _paint(self, config: TabletopConfig, streams: _Streams) -> None:
        model, rng = self.model, streams.colors
        table = streams.table if config.vary_table else np.random.default_rng(_PLAIN)
        set_texture(model, "table", table_texture(table, TEXTURE))
        set_texture(model, "backdrop", backdrop_texture(table, TEXTURE))
        light = random_light(streams.light) if config.vary_light else DEFAULT_LIGHT
        set_light(model, "sun", light)
        camera = model.camera("image_0").id
        model.cam_pos[camera] += streams.camera.uniform(-1, 1, 3) * config.camera_shift
        turn = streams.camera.uniform(-1, 1, 3) * config.camera_turn
        mujoco.mju_quatIntegrate(model.cam_quat[camera], turn, 1.0)
        amount = 1.0 if config.vary_colors else 0.0
        for placed in self.things:
            if placed.kind == "drawer":
                self._color("cabinet_", vary_color(_WOOD, rng, 0.06 * amount), 4)
                self._color("drawer_", vary_color(_WOOD, rng, 0.06 * amount), 5)
                continue
            kind = KINDS[placed.kind]
            rgb = vary_color(NAMED_COLORS[placed.color or kind.colors[0]], rng, 0.035 * amount)
            for number, part in enumerate(kind.parts):
                if part.rgb is None:
                    model.geom(f"{placed.body}_{number}").rgba[:3] = rgb

    def _color(self, prefix: str, rgb: Sequence[float], count: int) -> None:
        for number in range(count):
            self.model.geom(f"{prefix}{number}").rgba[:3] = rgb

    def _at_rest(self) -> bool:
        for placed in self.things:
            if placed.kind == "drawer":
                continue
            body = self.data.body(placed.body)
            moved = np.hypot(body.xpos[0] - placed.x, body.xpos[1] - placed.y)
            if moved > 0.01 or np.linalg.norm(body.cvel) > 0.05 or body.xpos[2] < 0:
                return False
        return True

    # What goes on

    def _go(self, angles: NDArray[np.float64], opening: float, substeps: int) -> None:
        """Move the servos' targets evenly, in the first half of the time."""
        data = self.data
        before = data.ctrl.copy()
        after = np.concatenate([angles, [opening * FINGER_TRAVEL] * 2])
        ramp = max(1, substeps * 3 // 5)
        for substep in range(substeps):
            data.ctrl[:] = before + (after - before) * min(1.0, (substep + 1) / ramp)
            mujoco.mj_step(self.model, data)
        # A step leaves poses and contacts as they were before it.
        mujoco.mj_forward(self.model, data)
        self._angles = angles

    def _thing(self, placed: Placed) -> ThingState:
        body = self.data.body(placed.body)
        if placed.kind == "drawer":
            opened = float(self.data.joint("drawer").qpos[0]) / DRAWER.travel
            return ThingState(
                placed.name, "drawer", None, body.xpos, body.xquat, np.array(DRAWER.half_size),
                float(np.clip(opened, 0, 1)), graspable=False, container=True,
            )  # fmt: skip
        kind = KINDS[placed.kind]
        return ThingState(
            placed.name, placed.kind, placed.color, body.xpos, body.xquat,
            np.array(kind.half_size), graspable=kind.graspable, container=kind.container,
        )  # fmt: skip

    def _contacts(self) -> tuple[frozenset[tuple[str, str]], str | None]:
        model, data = self.model, self.data
        named = {model.body(placed.body).id: placed.name for placed in self.things}
        for placed in self.things:
            if placed.kind == "drawer":
                named[model.body("cabinet").id] = placed.name
        for body in self._hand_bodies:
            named[body] = GRIPPER
        table = model.geom("table").id
        pairs: set[tuple[str, str]] = set()
        fingers: dict[str, set[int]] = {}
        for contact in data.contact[: data.ncon]:
            names = []
            for geom in contact.geom:
                body = int(self._geom_body[geom])
                name = TABLE if geom == table else named.get(body)
                names.append((name, body))
            (first, body1), (second, body2) = names
            if first is None or second is None or first == second:
                continue
            pairs.add((first, second) if first < second else (second, first))
            for name, body, other in ((first, body1, second), (second, body2, first)):
                if name == GRIPPER:
                    fingers.setdefault(other, set()).add(body)
        both = {model.body(name).id for name in FINGERS}
        held = [name for name, touched in fingers.items() if both <= touched and name != TABLE]
        graspable = {p.name for p in self.things if p.kind != "drawer" and KINDS[p.kind].graspable}
        held = [name for name in held if name in graspable]
        return frozenset(pairs), held[0] if held else None
