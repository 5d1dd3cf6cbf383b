"""Writes small replay buffers with the zarr package, as diffusion_policy and UMI do."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from tests.data.numbered_frames import numbered_frames

LENGTHS = (5, 3, 4)
ENDS = np.cumsum(LENGTHS)
TOTAL = sum(LENGTHS)
FRAMES = numbered_frames(TOTAL)


def rows(columns: int) -> npt.NDArray[np.float32]:
    """Rows that differ, and begin with their number."""
    table = np.full((TOTAL, columns), 0.5, np.float32)
    table[:, 0] = np.arange(TOTAL)
    return table


def write(
    root: Path,
    arrays: dict[str, npt.NDArray[Any]] | None = None,
    *,
    ends: npt.NDArray[Any] = ENDS,
    chunk: int = 1,
    **options: Any,
) -> Path:
    """Write a replay buffer with the zarr package."""
    folder = root / "buffer.zarr"
    group = zarr.create_group(folder, zarr_format=2)
    arrays = {"img": FRAMES, "action": rows(2), "state": rows(5)} if arrays is None else arrays
    for name, values in ({"data/" + key: array for key, array in arrays.items()}
                         | {"meta/episode_ends": np.asarray(ends, np.int64)}).items():  # fmt: skip
        size = (chunk if name.startswith("data/") else len(values), *values.shape[1:])
        used = options if name == "data/img" else {}
        array = group.create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=size,
            config={"write_empty_chunks": True}, **used,
        )  # fmt: skip
        array[:] = values
    return folder


def zipped(folder: Path, inner: str = "") -> Path:
    """Pack a replay buffer as UMI does."""
    file = folder.with_name("buffer.zarr.zip")
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, inner + path.relative_to(folder).as_posix())
    return file


def edit(folder: Path, name: str = "data/img", **changes: Any) -> Path:
    """Change the header of an array."""
    file = folder / name / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder
