"""How BridgeData names its folders, and writes its numbers, texts and dates.

    <collection>/<environment>/<task>/<number>/<date>/raw/traj_group<g>/traj<t>     raw
    <collection>/<environment>/<task>/<number>/{train,val}/out.npy                  numpy

What is above a task's number need not be there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aid_robot.data.episode import FloatArray
from aid_robot.data.ingest.recording import distinct_texts
from aid_robot.errors import DataFormatError

# Images recorded earlier lag the robot's actions by one step.
LATENCY_FIXED = date(2021, 7, 23)

# Five hours.
MAX_STEPS = 100_000

# Below what anyone opens, the data lie five to eight folders deep.
_MAX_DEPTH = 10
_MAX_NUMBERS, _MAX_WIDTH = 2**26, 4096
_DATE = re.compile(r"(\d{4}-\d{2}-\d{2})(?!\d)")


def walk(root: Path, wanted: Callable[[Path], bool], depth: int = _MAX_DEPTH) -> Iterator[Path]:
    """Find the files and folders that are wanted, without looking into a folder that is.

    Links to folders aren't followed.
    """
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError as error:
        raise DataFormatError(
            f"{root} can't be listed ({error.strerror}): make it readable, or name the folder and "
            "the format of the recording itself"
        ) from error
    below = []
    for entry in entries:
        path = root / entry.name
        if wanted(path):
            yield path
        elif entry.is_dir(follow_symlinks=False):
            below.append(path)
    for path in below if depth else ():
        yield from walk(path, wanted, depth - 1)


def scene_of(parts: Sequence[str]) -> str:
    """Name the scene, `<collection>/<environment>`, of a numbered folder; "" where unknown.

    Tasks of one environment share its table, its camera and most of its objects.
    """
    if len(parts) < 5 or not re.fullmatch(r"\d{1,3}", parts[-1]):
        return ""
    return "/".join(parts[-4:-2])


def date_in(text: object) -> date | None:
    """Find the day in a name like 2021-06-01_12-30-00."""
    found = _DATE.match(text) if isinstance(text, str) else None
    try:
        return date.fromisoformat(found[1]) if found else None
    except ValueError:
        return None


def split_instructions(lines: list[str]) -> tuple[str, ...]:
    """Drop blanks, repeats, and the lines that say how sure an annotator was."""
    return distinct_texts([line for line in lines if "confidence" not in line.lower()])


def gripper_notes(rows: FloatArray | None, name: str) -> list[str]:
    """Say so where the seventh column (T, 7) can't be a gripper between 0, closed, and 1, open."""
    if rows is None:
        return []
    low, high = float(rows[:, 6].min()), float(rows[:, 6].max())
    # A sensor passes the ends by a little.
    if low >= -0.2 and high <= 1.2:
        return []
    return [f"the gripper in the {name} goes from {low:g} to {high:g}, not from 0 to 1 = open"]


def number_rows(value: object, name: str) -> FloatArray:
    """Make an array, or a list of rows, a float32 array (T, D); `name` is what errors call it."""
    try:
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            table = value
        else:
            table = _stack(value)
        if table.ndim != 2 or table.dtype.kind not in "biuf":
            raise ValueError(f"it is an array of {table.dtype} with shape {table.shape}")
        return np.array(table, np.float32)
    except (ValueError, OverflowError) as error:
        raise DataFormatError(
            f"{name} can't be read ({error}); expected numbers, a row a frame and all of one "
            "length: export the recording again"
        ) from error


def _stack(rows: Any) -> npt.NDArray[Any]:
    if not isinstance(rows, (list, tuple, np.ndarray)) or not len(rows):
        raise ValueError(f"it is {type(rows).__name__} with no rows")
    width = len(_row(rows[0]))
    # Checked before anything is copied: a list may hold one row many times over.
    if len(rows) * width > _MAX_NUMBERS or any(len(_row(row)) != width for row in rows):
        raise ValueError(f"it is not {len(rows)} rows of {width}")
    return np.stack([_row(row) for row in rows])


def _row(row: object) -> npt.NDArray[Any]:
    if isinstance(row, (list, tuple)) and len(row) <= _MAX_WIDTH:
        if all(isinstance(number, (int, float, np.number)) for number in row):
            return np.array(row, np.float32)
    elif isinstance(row, np.ndarray) and row.ndim == 1 and row.dtype.kind in "biuf":
        return row
    raise ValueError(f"a row is {type(row).__name__}, not numbers")
