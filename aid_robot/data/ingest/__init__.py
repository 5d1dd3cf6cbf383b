"""Open recordings of other projects, whatever their layout.

for episode in open_recording("bridge_dataset/1.0.0"):
    print(episode.id, episode.instruction, episode.frames.shape)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from aid_robot.data.ingest import (
    bridge_numpy,
    bridge_raw,
    irasim,
    lerobot,
    replay_buffer,
    rlds,
    store,
    video_csv,
)
from aid_robot.data.ingest.recording import Format, Recording, did_you_mean
from aid_robot.errors import DataFormatError

__all__ = ["FORMATS", "Format", "Recording", "detect_format", "open_recording"]

# In the order in which they are tried: bare videos last, since other layouts have videos too.
FORMATS: Mapping[str, Format] = {
    "store": store.FORMAT,
    "rlds": rlds.FORMAT,
    "irasim": irasim.FORMAT,
    "lerobot": lerobot.FORMAT,
    "replay_buffer": replay_buffer.FORMAT,
    "bridge_numpy": bridge_numpy.FORMAT,
    "bridge_raw": bridge_raw.FORMAT,
    "video_csv": video_csv.FORMAT,
}


def open_recording(
    path: str | Path, format: str | None = None, *, fps: float | None = None
) -> Recording:
    """Open a recording, whose episodes are then read one at a time.

    `path` may also be the URL of an episode store. `format` is one of FORMATS, by default what the
    path looks like. `fps` is the rate at which the world was recorded, for a recording that doesn't
    say it, or says it wrongly.
    """
    if isinstance(path, str) and "://" in path:
        return store.StoreRecording(path, fps)
    path = Path(path)
    if not path.exists():
        raise DataFormatError(f"there is no '{path}'; expected a recording: check the path")
    if format is not None and format not in FORMATS:
        raise DataFormatError(
            f"there is no format '{format}'{did_you_mean(format, list(FORMATS))}; "
            f"expected one of {', '.join(FORMATS)}"
        )
    recording = FORMATS[format or detect_format(path)].open(path, fps)
    if not len(recording):
        raise DataFormatError(
            f"'{path}' holds no episodes of the format {recording.format}; expected at least one: "
            "check the path"
        )
    return recording


def detect_format(path: str | Path) -> str:
    """Name the format that a file or folder has."""
    path = Path(path)
    for name, format in FORMATS.items():
        if format.matches(path):
            return name
    layouts = "; ".join(f"{name}: {format.layout}" for name, format in FORMATS.items())
    raise DataFormatError(f"'{path}' is no recording of a known format; expected {layouts}")
