"""What an episode has and LeRobot no place for: meta/aid_robot.jsonl, an object a line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy.typing as npt

from aid_robot.data.episode import Episode, FrameSequence
from aid_robot.data.ingest.lerobot_files import read_jsonl
from aid_robot.errors import DataFormatError

SIDECARS = "meta/aid_robot.jsonl"


@dataclass(frozen=True)
class Sidecar:
    """The rest of an episode, and which of the data set's columns and cameras it really has."""

    episode_index: int
    frames: int
    id: str
    instructions: list[str]
    outcome: str | None
    fps: float | None
    source: str
    scene: str
    notes: list[str]
    info: dict[str, Any]
    # Name in the episode -> LeRobot's key.
    cameras: dict[str, str]
    arrays: dict[str, str]
    # Arrays of shape (T, 1), which LeRobot writes like those of shape (T,).
    columns: list[str]
    # LeRobot's key, None where the episode has none.
    actions: str | None
    state: str | None

    def to_json(self) -> str:
        """Write as a line; DataFormatError where `info` is not JSON."""
        try:
            return json.dumps(asdict(self), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise DataFormatError(
                f"episode '{self.id}' can't be written as JSON ({error}); expected `info` of "
                "texts, finite numbers, booleans, None, lists and dicts"
            ) from error

    @classmethod
    def from_json(cls, row: Mapping[str, Any], where: str) -> Sidecar:
        """Check a line."""
        for name, (is_valid, expected) in _FIELDS.items():
            if not is_valid(row.get(name)):
                raise DataFormatError(
                    f"{where} has {name} {row.get(name)!r}; expected {expected}: remove the file "
                    "to read the data set without it"
                )
        return cls(**{field.name: row[field.name] for field in fields(cls)})

    def restore(
        self,
        videos: Mapping[str, FrameSequence],
        rows: Mapping[str, npt.NDArray[Any]],
        where: str,
    ) -> Episode:
        """Put an episode together again, of frames and numbers by LeRobot's keys."""
        keys = [key for key in (self.actions, self.state) if key is not None]
        missing = {*self.cameras.values(), *self.arrays.values(), *keys} - {*videos, *rows}
        lengths = {len(frames) for frames in videos.values()} | {len(r) for r in rows.values()}
        if missing or lengths != {self.frames}:
            lacking = f"lacks {', '.join(sorted(missing))}" if missing else f"has {lengths} frames"
            raise DataFormatError(
                f"{where} {lacking}, but {SIDECARS} says otherwise ({self.frames} frames): the "
                "data set was changed since, remove that file to read it without"
            )
        arrays = {name: rows[key] for name, key in self.arrays.items()}
        for name in self.columns:
            arrays[name] = arrays[name].reshape(-1, 1)
        return Episode(
            id=self.id,
            videos={name: videos[key] for name, key in self.cameras.items()},
            actions=None if self.actions is None else rows[self.actions],
            state=None if self.state is None else rows[self.state],
            instruction=self.instructions[0] if self.instructions else None,
            instructions=tuple(self.instructions),
            outcome=self.outcome,  # type: ignore[arg-type]  # checked by from_json
            fps=self.fps,
            source=self.source,
            notes=tuple(self.notes),
            scene=self.scene,
            arrays=arrays,
            info=self.info,
        )


def read_sidecars(root: Path) -> dict[int, Sidecar]:
    """Read meta/aid_robot.jsonl by episode_index, where a data set has it."""
    file = root / SIDECARS
    rows = read_jsonl(file) if file.is_file() else []
    sidecars = [Sidecar.from_json(row, where) for row, where in rows]
    by_index = {sidecar.episode_index: sidecar for sidecar in sidecars}
    if len(by_index) < len(sidecars) or len({s.id for s in sidecars}) < len(sidecars):
        raise DataFormatError(
            f"{file} describes an episode twice; expected a line an episode, each with an id of "
            "its own: remove the file to read the data set without it"
        )
    return by_index


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_names(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value.values())


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_rate(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 < value < math.inf)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_key(value: Any) -> bool:
    return value is None or isinstance(value, str)


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "episode_index": (_is_count, "a whole number"),
    "frames": (_is_count, "a whole number"),
    "id": (_is_text, "a text"),
    "instructions": (_is_texts, "a list of texts"),
    "outcome": (
        lambda value: value in ("demo", "success", "failure", None),
        "demo, success, failure or null",
    ),
    "fps": (_is_rate, "a positive number or null"),
    "source": (_is_text, "a text"),
    "scene": (_is_text, "a text"),
    "notes": (_is_texts, "a list of texts"),
    "info": (lambda value: isinstance(value, dict), "an object"),
    "cameras": (_is_names, "an object of LeRobot's keys"),
    "arrays": (_is_names, "an object of LeRobot's keys"),
    "columns": (_is_texts, "a list of texts"),
    "actions": (_is_key, "a key or null"),
    "state": (_is_key, "a key or null"),
}
