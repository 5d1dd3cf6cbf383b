"""Random scenes: which things lie where, in which colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from aid_robot.envs.tabletop.config import TabletopConfig
from aid_robot.envs.tabletop.names import SYNONYMS, normalize
from aid_robot.envs.tabletop.objects import DRAWER, KINDS, Kind
from aid_robot.errors import SimulationError

# Where things' centres may lie [m]: what arm and camera both reach.
X_RANGE, Y_RANGE = (0.215, 0.395), (-0.165, 0.165)
# The main camera as scene.xml has it: place, right and up axes, angle of view [degrees]; and how
# much of its picture is used, so that what lies there is seen whole though the camera jitters.
_CAMERA, _RIGHT, _UP, _FOVY = (
    np.array([0.0, -0.16, 0.336]),
    np.array([0.4472, -0.8944, 0.0]),
    np.array([0.5963, 0.2981, 0.7454]),
    48.0,
)
_VIEW = 0.94
# Free space between two things, so that a finger fits between them [m].
GAP = 0.035
# The cabinet's centre, when it is closed: far from the robot, so that there is room before it.
_CABINET_X, _CABINET_Y = (0.43, 0.45), (-0.10, 0.10)
_CABINET_HALF = (DRAWER.half_size[0] + 0.012, DRAWER.half_size[1] + 0.010)
_TRIES, _PLACES = 40, 60


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
    """Draw a scene that holds at least `things`; SimulationError where there is no room for all."""
    kinds = _kinds(config)
    wanted = [_named(name) for name in dict.fromkeys(things) if name != "drawer"]
    for _ in range(_TRIES):
        count = int(rng.integers(config.min_things, config.max_things + 1))
        with_drawer = "drawer" in things or bool(
            rng.random() < config.drawer and ("drawer" in config.kinds or not config.kinds)
        )
        chosen = _choose(kinds, count - with_drawer, rng, wanted)
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


def in_view(x: float, y: float, radius: float) -> bool:
    """Say whether a disc on the table is seen whole by the main camera, where it stands exactly."""
    around = np.linspace(0, 2 * math.pi, 8, endpoint=False)
    points = np.stack([x + radius * np.cos(around), y + radius * np.sin(around), 0 * around], -1)
    seen = (points - _CAMERA) @ np.stack([_RIGHT, _UP, np.cross(_RIGHT, _UP)]).T
    limit = _VIEW * math.tan(math.radians(_FOVY) / 2)
    return bool((np.abs(seen[:, :2] / -seen[:, 2:]) < limit).all())


def _kinds(config: TabletopConfig) -> list[Kind]:
    unknown = [name for name in config.kinds if name not in KINDS and name != "drawer"]
    if unknown:
        raise SimulationError(
            f"there is no kind '{unknown[0]}'; expected some of {', '.join(KINDS)}, drawer"
        )
    return [kind for name, kind in KINDS.items() if not config.kinds or name in config.kinds]


def _named(name: str) -> tuple[Kind, str]:
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
    kinds: list[Kind], count: int, rng: np.random.Generator, wanted: list[tuple[Kind, str]]
) -> list[tuple[Kind, str, int]]:
    """Draw things to grasp, and one or two to put them on or in; no two look the same."""
    graspable = [kind for kind in kinds if kind.graspable]
    targets = [kind for kind in kinds if not kind.graspable]
    chosen: list[tuple[Kind, str, int]] = []
    for kind, color in wanted:
        number = sum(kind is other for other, _, _ in chosen)
        if number >= kind.count:
            raise SimulationError(
                f"{number + 1} things of the kind '{kind.name}' are asked for; a scene can have "
                f"{kind.count}"
            )
        chosen.append((kind, color, number))
    num_targets = sum(not kind.graspable for kind, _ in wanted)
    more = min(len(targets), 1 + (count >= 4 and rng.random() < 0.5)) if graspable else count
    for pool, number in (
        (targets, min(count, len(wanted) + max(0, more - num_targets))),
        (graspable, count),
    ):
        while len(chosen) < number and pool:
            # Cubes are drawn more often, as the ones that can be stacked.
            shares = np.array([kind.count for kind in pool], float)
            kind = pool[rng.choice(len(pool), p=shares / shares.sum())]
            used = [c for k, c, _ in chosen if k is kind]
            free = [color for color in kind.colors if color not in used]
            if len(used) >= kind.count or not free:
                pool = [other for other in pool if other is not kind]
                continue
            chosen.append((kind, free[rng.integers(len(free))], len(used)))
    return chosen


def _place(
    chosen: list[tuple[Kind, str, int]], with_drawer: bool, rng: np.random.Generator
) -> tuple[tuple[Placed, ...], str | None]:
    """Lay things down one by one, the largest first, until one finds no place: its name."""
    # Circles (x, y, radius) that are taken.
    taken: list[tuple[float, float, float]] = []
    placed: list[Placed] = []
    if with_drawer:
        x, y = rng.uniform(*_CABINET_X), rng.uniform(*_CABINET_Y)
        opened = float(rng.random() < 0.5)
        placed.append(Placed("drawer", "drawer", None, "drawer", x, y, 0.0, opened))
        # The cabinet, and where its drawer comes out to.
        for depth in np.linspace(-_CABINET_HALF[0] - DRAWER.travel - 0.05, _CABINET_HALF[0], 5):
            for side in (-0.5, 0.5):
                taken.append((x + depth, y + side * _CABINET_HALF[1], _CABINET_HALF[1] * 0.62))
    for kind, color, number in sorted(chosen, key=lambda item: -max(item[0].half_size[:2])):
        radius = (
            math.hypot(*kind.half_size[:2])
            if kind.name in ("cloth", "cube")
            else max(kind.half_size[:2])
        )
        for _ in range(_PLACES):
            x, y = rng.uniform(*X_RANGE), rng.uniform(*Y_RANGE)
            free = all(math.hypot(x - a, y - b) > radius + r + GAP for a, b, r in taken)
            if free and in_view(x, y, radius):
                break
        else:
            return tuple(placed), kind.called(color)
        taken.append((x, y, radius))
        yaw = float(rng.uniform(-math.pi, math.pi))
        placed.append(
            Placed(kind.called(color), kind.name, color if kind.named_by_color else None,
                   f"{kind.name}_{number}", float(x), float(y), yaw)
        )  # fmt: skip
    return tuple(placed), None
