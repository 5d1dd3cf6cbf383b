"""Small stores of episodes in which a square does what it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from aid_robot.data.episode import Episode
from aid_robot.data.frames import ArrayFrames
from aid_robot.data.store import EpisodeStore

COLOURS = {"red": (220, 40, 40), "blue": (40, 60, 220), "green": (40, 200, 60)}
STEPS = {"left": -1, "right": 1}


def square_episode(number: int, length: int = 10, side: int = 32, **fields: Any) -> Episode:
    """Move a coloured square over a grey table."""
    rng = np.random.default_rng(number)
    colour = list(COLOURS)[number % 3]
    way = list(STEPS)[number // 3 % 2]
    frames = np.full((length, side, side, 3), 120, np.uint8)
    frames += rng.integers(0, 20, (side, side, 1), np.uint8)
    top, left = int(rng.integers(4, side - 12)), side // 2 - 4
    for place, frame in enumerate(frames):
        start = left + STEPS[way] * place
        frame[top : top + 8, start : start + 8] = COLOURS[colour]
    other = "right" if way == "left" else "left"
    captions = [
        {"text": f"the {colour} cube has moved to the {way}", "true": True},
        {"text": f"the {colour} cube has moved to the {other}", "true": False},
    ]
    fields = {
        "id": f"square-{number}",
        "instructions": (f"push the {colour} cube to the {way}", f"move the {colour} cube {way}"),
        "fps": 5.0,
        "outcome": "success",
        "scene": f"scene-{number}",
        "info": {
            "captions": {"start": [], "end": captions},
            "places": {"image_0": {"object": [(left + 4) / side, (top + 4) / side]}},
        },
        **fields,
    }
    return Episode(videos={"image_0": ArrayFrames(frames)}, **fields)


def square_store(folder: Path, count: int = 8, **fields: Any) -> Path:
    """Keep episodes losslessly; returns the path of the store."""
    path = folder / "squares.zarr"
    with EpisodeStore.create(path, codec="png") as store:
        store.extend(square_episode(number, **fields) for number in range(count))
    return path
