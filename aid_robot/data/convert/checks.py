"""What is checked of the sources before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from aid_robot.data.convert.prepare import Settings, open_source, select
from aid_robot.data.convert.sources import Source
from aid_robot.data.episode import Episode
from aid_robot.data.store import EpisodeStore
from aid_robot.errors import ConfigError, DataFormatError
from aid_robot.observation import resize_frames

# Mean difference of two frames, of 255: compression stays far below, other scenes are above.
_SAME_FRAME = 8.0
# Unreadable episodes that are passed over in search of one that shows the source's frame size.
_TRIES = 3


def compare_with_store(
    store: EpisodeStore, source: Source, indices: Sequence[int], settings: Settings
) -> str | None:
    """Compare the first and the last of the episodes `indices`, which a source and a store share.

    Returns a note where the source was changed since, None where it is as it was. ConfigError
    where the store has them from another recording of the same name.
    """
    recording = open_source(source, settings.fps)
    for index in dict.fromkeys((indices[0], indices[-1])):
        id = source.id_of(recording.ids[index])
        stored = store[id]
        try:
            difference = _difference(stored, select(recording[index], settings))
        except DataFormatError as error:
            difference = f"it can't be read any more ({error})"
        if not difference:
            continue
        origin = stored.info.get("ingested_from", {}).get("path")
        if origin != str(source.path):
            raise ConfigError(
                f"the store has an episode '{id}' from {origin or 'elsewhere'}; that of "
                f"{source.path} is another: {difference}. Give this source a name of its own, as "
                f"in other={source.path}"
            )
        return (
            f"{source.path} was changed since it was ingested, see '{id}': {difference}; the store "
            "keeps what it has, drop the episode there and ingest again to take the new one"
        )
    return None


def check_sizes(
    first: Mapping[Source, Sequence[int]], stored: Mapping[str, tuple[int, int]], settings: Settings
) -> None:
    """Refuse sources whose frames don't have one size a camera, with each other and the store.

    Args:
        first: For each source the episodes to judge it by.
        stored: (height, width) of each camera that the store has.
        settings: Of the run.
    """
    sizes = {camera: ("the store", size) for camera, size in stored.items()}
    for source, indices in first.items():
        for camera, size in _sizes(source, indices, settings).items():
            where, other = sizes.setdefault(camera, (str(source.path), size))
            if size != other:
                raise ConfigError(
                    f"camera {camera} is {size[1]}x{size[0]} in {source.path}, but "
                    f"{other[1]}x{other[0]} in {where}; expected one size in a store: "
                    + _remedy(where == "the store", other)
                )


def _remedy(in_store: bool, size: tuple[int, int]) -> str:
    if in_store:
        return f"add --size {size[0]}x{size[1]}, the store's height and width"
    return "bring all frames to one, for example by --size 256"


def _sizes(
    source: Source, indices: Sequence[int], settings: Settings
) -> dict[str, tuple[int, int]]:
    """Find a source's frame sizes by its first episode that can be read."""
    recording = open_source(source, settings.fps)
    for index in indices[:_TRIES]:
        try:
            videos = select(recording[index], settings).videos
            return {camera: settings.size or frames.size for camera, frames in videos.items()}
        except DataFormatError:
            continue
    return {}


def _difference(stored: Episode, fresh: Episode) -> str:
    """Say in what an episode differs from itself in the store, "" where it doesn't."""
    if len(stored) != len(fresh):
        return f"{len(fresh)} frames instead of {len(stored)}"
    # Not the instructions: they may have been annotated in the store.
    if list(stored.videos) != list(fresh.videos):
        return f"cameras {', '.join(fresh.videos)} instead of {', '.join(stored.videos)}"
    for name, old, new in (
        ("actions", stored.actions, fresh.actions),
        ("state", stored.state, fresh.state),
    ):
        if (old is None) != (new is None) or not _same_rows(old, new):
            return f"other {name}"
    old_frame, new_frame = stored.frames[0], fresh.frames[0]
    new_frame = resize_frames(new_frame, stored.frames.size)
    if np.abs(old_frame.astype(np.float32) - new_frame).mean() > _SAME_FRAME:
        return "other frames"
    return ""


def _same_rows(old: npt.NDArray[np.float32] | None, new: npt.NDArray[np.float32] | None) -> bool:
    return old is None or new is None or np.allclose(old, new, equal_nan=True)
