"""Does the named object end where it truly does, and do the others stay?

Asked of simulated clips, whose episodes know what is on the table (`info["states"]`, `["task"]`).
Three figures a clip, under every condition:

    object_placed  1 where the object that the task names ends within 3 cm of its true place, and
                   0 where it doesn't or has vanished; of clips in which it truly moved that far
    object_off     how far from its true place it ends [cm], where it was found
    others_stay    1 where everything that truly stayed is within 3 cm of where it was
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aid_robot.data.episode import Episode
from aid_robot.evaluation.clips import ClipAt
from aid_robot.evaluation.metrics.objects import (
    Camera,
    KnownObject,
    ObjectEnd,
    find_ends,
    known_objects,
)

NEAR_CM = 3.0
PLACED, OFF, STAY = "object_placed", "object_off", "others_stay"
# Name -> unit, which way is better, and what it is.
FIGURES = {
    PLACED: ("", "higher", "share of clips whose named object ends within 3 cm of its true place"),
    OFF: ("cm", "lower", "distance of the named object's end from its true place, where found"),
    STAY: ("", "higher", "share of clips in which all that truly stayed is within 3 cm of it"),
}

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class KnownTable:
    """What lies on the table of a clip, and what the task moves."""

    objects: tuple[KnownObject, ...]
    named: str
    camera: Camera


def lay_table(
    episode: Episode, clip: ClipAt, last: int, size: tuple[int, int], camera: Camera
) -> KnownTable | None:
    """Read what an episode knows of its table; None where it knows nothing.

    Args:
        episode: That the clip was cut from.
        clip: It must begin with the episode, where the state is known.
        last: The episode's frame that the clip ends with.
        size: Height and width of the judged frames.
        camera: That sees the table.
    """
    states: Mapping[str, Any] = episode.info.get("states") or {}
    named = (episode.info.get("task") or {}).get("object", "")
    if clip.start or "start" not in states:
        return None
    end = states.get("end") if last == len(episode) - 1 else None
    return KnownTable(tuple(known_objects(states["start"], end, camera, size)), named, camera)


def judge_placement(
    table: KnownTable, samples: Frames, true: Frames, given: Frames
) -> dict[str, list[float | None]]:
    """Judge where things end in predicted samples (B, F, H, W, 3); None where it can't be told."""
    rows = []
    for frames in samples:
        ends = find_ends(frames[-1], true[-1], given[-1], table.objects, table.camera)
        named = ends.get(table.named)
        others = [end for name, end in ends.items() if name != table.named]
        rows.append((*_named(named), _stay(others)))
    columns = np.array(rows, np.float64).T
    return {
        name: [None if np.isnan(column).all() else float(np.nanmean(column))]
        for name, column in zip((PLACED, OFF, STAY), columns, strict=True)
    }


def _named(end: ObjectEnd | None) -> tuple[float, float]:
    """Give whether the named object is at its place, and how far off."""
    if end is None or end.found is None or not end.true_move_cm >= NEAR_CM:
        return math.nan, math.nan
    if not end.found:
        return 0.0, math.nan
    return float(end.distance_cm <= NEAR_CM), end.distance_cm


def _stay(others: list[ObjectEnd]) -> float:
    known = [end for end in others if end.found is not None and end.true_move_cm < NEAR_CM]
    if not known:
        return math.nan
    return float(all(end.found and end.distance_cm <= NEAR_CM for end in known))
