"""Episodes that say which frame is which, and that differ in what they have."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np

from aid_robot.data import ArrayFrames, Episode
from tests.data.numbered_frames import number_of, numbered_frames

LENGTHS = (7, 12, 5, 1, 9, 30, 3)


def episode(number: int, start: int, length: int, **fields: Any) -> Episode:
    """An episode whose frames show the numbers from `start` on; in `wrist` 255 - number."""
    frames = numbered_frames(start + length)[start:]
    rng = np.random.default_rng(number)
    content: dict[str, Any] = {
        "id": f"train/ä {number}",
        "videos": {"image_0": ArrayFrames(frames), "wrist": ArrayFrames(255 - frames)},
        "actions": rng.random((length, 7)).astype(np.float32),
        "state": rng.random((length, 7)).astype(np.float32),
        "instruction": "open the drawer",
        "instructions": ("open the drawer", "pull the drawer open"),
        "outcome": "success",
        "fps": 5.0,
        "source": "somewhere",
    }
    return Episode(**content | fields)


def mixed_episodes() -> list[Episode]:
    """Episodes that lack what others have, and have what others lack."""
    starts = np.cumsum((0, *LENGTHS))
    episodes = []
    for number, length in enumerate(LENGTHS):
        rng = np.random.default_rng(10 + number)
        arrays: dict[str, np.ndarray] = {}
        if number != 1:
            arrays["touch"] = rng.random((length, 2, 3)).astype(np.float32)
        if number >= 3:
            arrays["done"] = np.arange(length) == length - 1
            arrays["depth"] = rng.random((length, 3, 4, 2))
            arrays["counter"] = np.arange(length)[:, None]
            arrays["index"] = np.arange(length, dtype=np.uint8)
        made = episode(number, starts[number], length, arrays=arrays)
        if number < 2 or number == 4:
            made = replace(made, videos={"image_0": made.frames})
        if number == 5:
            made = replace(made, actions=None, instruction=None, instructions=())
        if number == 0:
            facts = {"failure": {"at": 3, "why": ["slipped", None]}}
            made = replace(made, state=None, info=facts, scene="kitchen", notes=("a note",))
        if number == 6:
            made = replace(made, fps=None, outcome=None)
        episodes.append(made)
    return episodes


def assert_same(read: Episode, written: Episode) -> None:
    for field in fields(Episode):
        got, expected = getattr(read, field.name), getattr(written, field.name)
        if field.name == "videos":
            assert list(got) == list(expected)
        elif field.name in ("actions", "state"):
            assert (got is None) == (expected is None)
            assert expected is None or np.array_equal(got, expected)
        elif field.name == "arrays":
            assert list(got) == list(expected)
            for name, rows in expected.items():
                assert (got[name].dtype, got[name].shape) == (rows.dtype, rows.shape)
                assert np.array_equal(got[name], rows)
        else:
            assert got == expected, field.name


def numbers(frames: Any) -> list[int]:
    return [number_of(frame) for frame in frames]
