"""Random scenes: which things lie where, in which colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeAlias

import numpy as np

from aid_robot.envs.tabletop.config import TabletopConfig
from aid_robot.envs.tabletop.names import SYNONYMS, normalize
from aid_robot.envs.tabletop.objects import DRAWER, KINDS, Kind
from aid_robot.envs.tabletop.view import CAMERA, in_view
from aid_robot.errors import SimulationError

# Where things' centres may lie [m]: what arm and camera both reach.
X_RANGE, Y_RANGE = (0.215, 0.400), (-0.145, 0.185)
# Things lie in this part of the picture, so that they and the gripper are seen whole.
_VIEW = 0.86
# What is grasped is small, and farther from below the camera less than 12 of 128 pixels wide [m].
_FAR = 0.454
# Free space between two things, so that a finger fits between them [m].
GAP = 0.030
# The same beside the way of a drawer.
_LANE_GAP = 0.015
# The cabinet's centre: far from the robot, so that there is room before it, on either side.
_CABINET_X, _CABINET_Y = (0.43, 0.45), ((-0.10, -0.07), (0.11, 0.15))
_CABINET_HALF = (DRAWER.half_size[0] + 0.012, DRAWER.half_size[1] + 0.010)
# What the open drawer's handle and the gripper at it need before them [m].
_BEFORE = 0.065
_TRIES, _PLACES = 300, 200
# A kind, and the colour of this one.
_Chosen: TypeAlias = tuple[Kind, str]


@dataclass(frozen=True)
class Placed:
    """A thing of a scene, and where it is put down."""

    # What language calls it.
    name: str
    kind: str
    color: str | None
    # Its body in the model.
    body: str
    x: float
    y: float
    yaw: float
    # Drawers: 0 = closed to 1 = open.
    open: float = 0.0


def random_layout(
    config: TabletopConfig, rng: np.random.Generator, things: Sequence[str] = ()
) -> tuple[Placed, ...]:
    """Draw a scene that holds at least `things`; SimulationError where there is no room for all.

    Where things are named, a drawer must be among them to be there.
    """
    kinds = _kinds(config)
    wanted = [_named(name) for name in dict.fromkeys(things) if name != "drawer"]
    count = int(rng.integers(config.min_things, config.max_things + 1))
    may_have = not things and ("drawer" in config.kinds or not config.kinds)
    with_drawer = "drawer" in things or bool(may_have and rng.random() < config.drawer)
    for _ in range(_TRIES):
        # Two targets need room that a drawer takes.
        num_targets = 1 + int(count >= 4 and not with_drawer and rng.random() < 0.5)
        chosen = _choose(kinds, wanted, count - with_drawer, num_targets, rng)
        placed, left_over = _place(chosen, with_drawer, rng)
        if left_over is None:
            return placed
    raise SimulationError(
        f"the {left_over} found no room on the table in {_TRIES} tries, beside "
        f"{', '.join(thing.name for thing in placed)}; expected fewer or smaller things"
    )


def names_for(text: str, config: TabletopConfig, rng: np.random.Generator) -> tuple[str, ...]:
    """Name a thing of every kind, in the colours that a text mentions, or else in any."""
    words = normalize(text)
    names: list[str] = []
    for kind in _kinds(config):
        forms = (kind.name, *SYNONYMS.get(kind.name, ()))
        any_color = kind.colors[rng.integers(len(kind.colors))]
        said = [color for color in kind.colors if any(f"{color} {form}" in words for form in forms)]
        names += [kind.called(color) for color in said or [any_color]]
    return (*names, "drawer")


def _kinds(config: TabletopConfig) -> list[Kind]:
    unknown = [name for name in config.kinds if name not in KINDS and name != "drawer"]
    if unknown:
        raise SimulationError(
            f"there is no kind '{unknown[0]}'; expected some of {', '.join(KINDS)}, drawer"
        )
    return [kind for name, kind in KINDS.items() if not config.kinds or name in config.kinds]


def _named(name: str) -> _Chosen:
    """Find what is called so."""
    for kind in KINDS.values():
        for color in kind.colors:
            if name == kind.called(color):
                return kind, color
    names = [kind.called(color) for kind in KINDS.values() for color in kind.colors]
    close = get_close_matches(name, names, n=1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    raise SimulationError(
        f"there is no '{name}'{hint}; expected some of {', '.join(names)}, drawer"
    )


def _choose(
    kinds: list[Kind], wanted: list[_Chosen], count: int, num_targets: int, rng: np.random.Generator
) -> list[_Chosen]:
    """Draw things up to `count`, of which so many to put others on or in; no two look the same."""
    chosen = list(wanted)
    for kind in {kind.name: kind for kind, _ in wanted}.values():
        if (number := sum(other is kind for other, _ in wanted)) > kind.count:
            raise SimulationError(
                f"{number} things of the kind '{kind.name}' are asked for; expected {kind.count} "
                "at most"
            )
    missing = num_targets - sum(not kind.graspable for kind, _ in chosen)
    for graspable, most in ((False, missing), (True, count), (False, count)):
        pool = [kind for kind in kinds if kind.graspable is graspable]
        while pool and most > 0 and len(chosen) < count:
            # Cubes are drawn more often, as the ones that can be stacked.
            shares = np.array([kind.count for kind in pool], float)
            kind = pool[rng.choice(len(pool), p=shares / shares.sum())]
            used = [color for other, color in chosen if other is kind]
            free = [color for color in kind.colors if color not in used]
            if len(used) >= kind.count or not free:
                pool.remove(kind)
                continue
            chosen.append((kind, free[rng.integers(len(free))]))
            most -= 1
    return chosen


def _place(
    chosen: list[_Chosen], with_drawer: bool, rng: np.random.Generator
) -> tuple[tuple[Placed, ...], str | None]:
    """Lay things down one by one, the largest first, until one finds no place: its name."""
    placed: list[Placed] = []
    # Circles that are taken, a row each: x, y, radius. And what cabinet and drawer take.
    taken = np.empty((0, 3))
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    if with_drawer:
        sides = _CABINET_Y[rng.integers(2)]
        x, y, opened = rng.uniform(*_CABINET_X), rng.uniform(*sides), float(rng.random() < 0.5)
        placed.append(Placed("drawer", "drawer", None, "drawer", x, y, 0.0, opened))
        low, high = np.array([x, y]) - _CABINET_HALF, np.array([x, y]) + _CABINET_HALF
        low[0] -= DRAWER.travel + _BEFORE
    for kind, color in sorted(chosen, key=lambda item: -max(item[0].half_size[:2])):
        number = sum(kind.name == other.kind for other in placed)
        half = kind.half_size[:2]
        radius = math.hypot(*half) if kind.name == "cloth" else max(half)
        at = rng.uniform((X_RANGE[0], Y_RANGE[0]), (X_RANGE[1], Y_RANGE[1]), (_PLACES, 2))
        apart = np.linalg.norm(at[:, None] - taken[:, :2], axis=-1) - taken[:, 2] - radius
        beside = np.linalg.norm(np.maximum(np.maximum(low - at, at - high), 0), axis=-1) - radius
        far = np.linalg.norm(at - CAMERA[:2], axis=-1) > _FAR
        free = (apart > GAP).all(-1) & (beside > _LANE_GAP) & in_view(at, radius, _VIEW)
        if kind.graspable:
            free &= ~far
        if not free.any():
            return tuple(placed), kind.called(color)
        x, y = at[free.argmax()].tolist()
        taken = np.vstack([taken, (x, y, radius)])
        placed.append(
            Placed(
                kind.called(color),
                kind.name,
                color if kind.named_by_color else None,
                f"{kind.name}_{number}",
                x,
                y,
                float(rng.uniform(-math.pi, math.pi)),
            )
        )
    return tuple(placed), None
