"""Open .npy files that hold a pickled list, which `numpy.load` opens only by running the pickle."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from aid_robot.data.pickles import map_file, unpickle
from aid_robot.errors import DataFormatError

# numpy's own limit on what it parses as a header.
_MAX_HEADER = 10_000
_LONGEST_PREFIX = 12
# A trajectory takes more in a pickle, even without images.
_SMALLEST_OBJECT = 64


def count_objects(path: Path) -> int:
    """Read from the header how many objects a file holds."""
    count, start, size = _header(path)
    if count * _SMALLEST_OBJECT > size - start:
        raise DataFormatError(
            f"{path} has {size} bytes, too few for the {count} objects that its header names: copy "
            "it again from its source"
        )
    return count


def read_objects(path: Path) -> Sequence[Any]:
    """Open the objects; arrays in them are views of the file, which must stay as it is."""
    count, start, _ = _header(path)
    objects = unpickle(map_file(path)[start:], str(path))
    # np.save pickles the array that it made of the list.
    if isinstance(objects, np.ndarray):
        objects = list(objects) if objects.ndim == 1 else None
    if not isinstance(objects, list) or len(objects) != count:
        held = f"{len(objects)} objects" if isinstance(objects, list) else "no list"
        raise DataFormatError(
            f"{path} holds {held}, but its header names {count}: copy it again from its source"
        )
    return objects


def _header(path: Path) -> tuple[int, int, int]:
    """Return the number of objects, where their pickle starts, and the size of the file."""
    mapped = map_file(path)
    head = BytesIO(mapped[: _MAX_HEADER + _LONGEST_PREFIX])
    try:
        version = np.lib.format.read_magic(head)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read(head, max_header_size=_MAX_HEADER)
    # The header is a Python literal, whose parser fails in many ways.
    except Exception as error:
        raise DataFormatError(
            f"{path} has no header of an .npy file ({type(error).__name__}: {str(error)[:200]}); "
            "expected what numpy.save writes: copy it again from its source"
        ) from error
    if not dtype.hasobject or dtype.fields or len(shape) != 1 or shape[0] < 0:
        raise DataFormatError(
            f"{path} holds an array of {dtype} with shape {shape}; expected a pickled list of "
            "trajectories, as Bridge's converter writes it"
        )
    return int(shape[0]), head.tell(), len(mapped)
