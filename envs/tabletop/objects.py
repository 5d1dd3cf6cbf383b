"""The things that may lie on the table: shapes, sizes, masses, and which can be grasped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

# Colours that kinds without a colour of their own may have; language calls them by it.
ANY_COLOR = ("red", "green", "blue", "yellow", "orange", "purple", "white", "pink")


@dataclass(frozen=True)
class Part:
    """A geom of a thing, in the thing's frame, whose origin is the centre of its bounding box."""

    type: str
    size: tuple[float, ...]
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    # w, x, y, z.
    quaternion: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    # Two end points, for capsules.
    ends: tuple[float, ...] | None = None
    # A colour of its own, whatever the thing's colour is.
    rgb: tuple[float, float, float] | None = None
    # Whether it may roll, which friction then ends.
    rolls: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind of thing, and how many of it a scene may hold."""

    name: str
    parts: tuple[Part, ...]
    # Half extents of the bounding box [m].
    half_size: tuple[float, float, float]
    mass: float
    colors: tuple[str, ...]
    count: int = 1
    graspable: bool = True
    container: bool = False
    # Whether the colour is said: "red cube", but "carrot".
    named_by_color: bool = True

    def called(self, color: str) -> str:
        """Name one of a colour as language does."""
        return f"{color} {self.name}" if self.named_by_color else self.name


def _ring(
    radius: float, height: float, thickness: float, walls: int, slant: float = 0.0
) -> tuple[Part, ...]:
    """Stand boxes in a circle, their tops leaning outwards by `slant` radians."""
    parts = []
    half_width = (radius + thickness) * math.tan(math.pi / walls) + height * math.sin(slant) / 4
    for index in range(walls):
        angle = 2 * math.pi * index / walls
        turn = np.array([math.cos(angle / 2), 0.0, 0.0, math.sin(angle / 2)])
        lean = np.array([math.cos(slant / 2), 0.0, math.sin(slant / 2), 0.0])
        w1, _, _, z1 = turn
        w2, _, y2, _ = lean
        quaternion = (w1 * w2, -z1 * y2, w1 * y2, z1 * w2)
        parts.append(
            Part(
                "box",
                (thickness, half_width, height / 2),
                (radius * math.cos(angle), radius * math.sin(angle), 0.0),
                tuple(float(q) for q in quaternion),  # type: ignore[arg-type]
            )
        )
    return tuple(parts)


def _arc(radius: float, span: float, thickness: float, pieces: int) -> tuple[Part, ...]:
    """Lay capsules along an arc around z, centred on its bounding box."""
    angles = np.linspace(-span / 2, span / 2, pieces + 1)
    points = np.stack([radius * np.sin(angles), radius * np.cos(angles), 0 * angles], -1)
    points[:, 1] -= (points[:, 1].min() + points[:, 1].max()) / 2
    taper = np.array([0.8, *([1.0] * (pieces - 2)), 0.8])
    parts = []
    for (start, end), share in zip(pairwise(points), taper, strict=True):
        # Thin pieces lie as low as the thick ones, or else it would rock.
        low = np.array([0.0, 0.0, (share - 1) * thickness])
        ends = tuple(float(value) for value in (*(start + low), *(end + low)))
        parts.append(Part("capsule", (float(share) * thickness,), ends=ends, rolls=True))
    return tuple(parts)


def _lifted(parts: tuple[Part, ...], z: float) -> tuple[Part, ...]:
    return tuple(replace(part, position=(*part.position[:2], z)) for part in parts)


_GREEN = (0.20, 0.55, 0.16)
_KINDS = (
    Kind("cube", (Part("box", (0.0235,) * 3),), (0.0235,) * 3, 0.04, ANY_COLOR, count=3),
    Kind("ball", (Part("sphere", (0.0245,), rolls=True),), (0.0245,) * 3, 0.03, ANY_COLOR, count=2),
    Kind(
        "can",
        (
            Part("cylinder", (0.024, 0.032)),
            Part("cylinder", (0.0215, 0.0015), (0, 0, 0.0318), rgb=(0.75, 0.75, 0.77)),
        ),
        (0.024, 0.024, 0.033),
        0.05,
        ("red", "green", "blue", "yellow", "white"),
        count=2,
    ),
    Kind(
        "cup",
        (*_ring(0.0235, 0.052, 0.002, 10), Part("cylinder", (0.0235, 0.003), (0, 0, -0.023))),
        (0.0255, 0.0255, 0.026),
        0.04,
        ("red", "blue", "yellow", "white", "pink"),
    ),
    Kind(
        "banana",
        _arc(0.075, 1.15, 0.0145, 4),
        (0.052, 0.021, 0.0145),
        0.05,
        ("yellow",),
        named_by_color=False,
    ),
    Kind(
        "carrot",
        (
            Part("capsule", (0.017,), ends=(0.022, 0, 0.0, 0.006, 0, 0.0), rolls=True),
            Part("capsule", (0.0145,), ends=(0.006, 0, -0.0015, -0.014, 0, -0.002), rolls=True),
            Part("capsule", (0.0105,), ends=(-0.014, 0, -0.005, -0.036, 0, -0.0065), rolls=True),
            Part("capsule", (0.007,), ends=(0.036, 0, 0.0, 0.050, 0, 0.004), rgb=_GREEN),
            Part("capsule", (0.005,), ends=(0.036, 0, 0.0, 0.050, 0.010, 0.0), rgb=_GREEN),
            Part("capsule", (0.005,), ends=(0.036, 0, 0.0, 0.050, -0.010, 0.0), rgb=_GREEN),
        ),
        (0.052, 0.017, 0.017),
        0.05,
        ("orange",),
        named_by_color=False,
    ),
    Kind(
        "plate",
        (
            Part("cylinder", (0.052, 0.003), (0, 0, -0.003)),
            *_lifted(_ring(0.058, 0.014, 0.002, 20, slant=1.0), -0.0005),
        ),
        (0.066, 0.066, 0.006),
        0.15,
        ("white", "blue", "green", "pink", "yellow"),
        graspable=False,
        container=True,
    ),
    Kind(
        "bowl",
        (
            Part("cylinder", (0.038, 0.003), (0, 0, -0.017)),
            *_ring(0.049, 0.044, 0.0025, 16, slant=0.5),
        ),
        (0.062, 0.062, 0.020),
        0.15,
        ("white", "blue", "green", "red", "yellow"),
        graspable=False,
        container=True,
    ),
    Kind(
        "pot",
        (
            Part("cylinder", (0.052, 0.003), (0, 0, -0.0225)),
            *_ring(0.053, 0.051, 0.003, 16),
            Part("box", (0.014, 0.010, 0.004), (0.0, 0.066, 0.014), rgb=(0.1, 0.1, 0.1)),
            Part("box", (0.014, 0.010, 0.004), (0.0, -0.066, 0.014), rgb=(0.1, 0.1, 0.1)),
        ),
        (0.056, 0.076, 0.0255),
        0.25,
        ("white", "red", "blue", "green"),
        graspable=False,
        container=True,
    ),
    Kind(
        "cloth",
        (Part("box", (0.06, 0.06, 0.002)),),
        (0.06, 0.06, 0.002),
        0.08,
        ("red", "blue", "green", "purple", "pink", "yellow"),
        graspable=False,
        container=True,
    ),
)  # fmt: skip
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _KINDS}


@dataclass(frozen=True)
class DrawerSize:
    """A cabinet that stands still, and the drawer that slides out of it towards the robot [m]."""

    # Half extents of the drawer's box, which closes over everything that can be grasped.
    half_size: tuple[float, float, float] = (0.050, 0.062, 0.035)
    wall: float = 0.003
    # How far it opens.
    travel: float = 0.085
    # From the front to the handle's bar, wide enough for closed fingers.
    handle_gap: float = 0.034
    bar: float = 0.005
    # Of the bar, above the drawer's middle.
    handle_height: float = 0.012


DRAWER = DrawerSize()
