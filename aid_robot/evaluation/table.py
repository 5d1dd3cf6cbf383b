"""The verdicts of an evaluation as arrays, a row a clip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from aid_robot.errors import EvaluationError
from aid_robot.evaluation.judge import Verdict, unpack_features

FloatArray: TypeAlias = npt.NDArray[np.float64]


class Table:
    """What was found of the clips that could be read, in the order of their keys.

    Only numbers are kept: 1,000 clips of 16 frames under ten conditions are a few megabytes.

    Args:
        verdicts: In any order; of several of one clip, the last.
        num_frames: Frames that are judged of each clip.
    """

    def __init__(self, verdicts: Iterable[Verdict], num_frames: int) -> None:
        self._num_frames = num_frames
        # Clip -> why it could not be read.
        self.errors: dict[str, str] = {}
        rows: dict[str, Verdict] = {}
        for verdict in verdicts:
            key = verdict["clip"]
            self.errors.pop(key, None)
            rows.pop(key, None)
            if "error" in verdict:
                self.errors[key] = verdict["error"]
            else:
                rows[key] = _packed(verdict)
        self._rows = [rows[key] for key in sorted(rows)]
        self.clips = [row["clip"] for row in self._rows]
        self.clusters = [row["cluster"] for row in self._rows]
        self.motion = np.array([row["motion"] for row in self._rows], np.float64)
        self.facts = self._common_facts()

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, clip: str) -> Verdict:
        """Give what is said of a clip: its instruction, its picture."""
        return self._rows[self.clips.index(clip)]

    @property
    def predictors(self) -> list[str]:
        """Names of the predictors, in the order of the plan."""
        return list(self.facts)

    def conditions(self, predictor: str) -> list[str]:
        """Name the conditions that some clip was predicted under."""
        return list(dict.fromkeys(c for row in self._rows for c in row["values"][predictor]))

    def measured(self) -> dict[str, set[str]]:
        """Name the metrics that have a value anywhere, by predictor."""
        found: dict[str, set[str]] = {}
        for row in self._rows:
            for name, conditions in row["values"].items():
                for values in conditions.values():
                    known = {m for m, v in values.items() if not np.isnan(v).all()}
                    found.setdefault(name, set()).update(known)
        return found

    def by_frame(self, predictor: str, metric: str, condition: str = "true") -> FloatArray:
        """Give a metric's values (clips, frames), NaN where there is none."""
        missing = np.full(self._num_frames, np.nan)
        rows = [row["values"][predictor].get(condition, {}) for row in self._rows]
        return np.stack([row.get(metric, missing) for row in rows])

    def by_clip(self, predictor: str, metric: str, condition: str = "true") -> FloatArray:
        """Give a metric's means over the frames that have a value, or its one value, (clips,)."""
        found = np.full(len(self), np.nan)
        for place, row in enumerate(self._rows):
            values = row["values"][predictor].get(condition, {}).get(metric)
            if values is not None and not np.isnan(values).all():
                found[place] = np.nanmean(values)
        return found

    def features(self, who: str, source: str) -> list[FloatArray]:
        """Give the features of each clip, (M, D) each; `who` is "true" or a predictor."""
        return [unpack_features(row["features"][who][source]) for row in self._rows]

    def share(self, name: str, predictor: str) -> FloatArray:
        """Give "preferred" of each clip, or "retrieval" with the instructions it was among.

        (clips, 2) with NaN where it was not asked.
        """
        found = np.full((len(self), 2), np.nan)
        for place, row in enumerate(self._rows):
            value = row[name].get(predictor)
            if value is not None:
                found[place] = value if isinstance(value, list) else (value, 2)
        return found

    def _common_facts(self) -> dict[str, Any]:
        """Check that all clips were predicted in one way."""
        found: dict[str, Any] = {}
        for row in self._rows:
            for name, facts in row["facts"].items():
                if found.setdefault(name, facts) != facts:
                    raise EvaluationError(
                        f"predictor '{name}' was sampled with {found[name]} for some clips and "
                        f"with {facts} for others (clip '{row['clip']}'): one run must be made on "
                        "one kind of device; evaluate into another folder"
                    )
        return found


def _packed(verdict: Verdict) -> Verdict:
    """Turn lists of numbers into arrays."""

    def array(values: Iterable[float | None]) -> FloatArray:
        return np.array([np.nan if v is None else v for v in values], np.float64)

    values: Mapping[str, Any] = verdict["values"]
    packed = {
        name: {c: {m: array(v) for m, v in row.items()} for c, row in conditions.items()}
        for name, conditions in values.items()
    }
    return {**verdict, "values": packed}
