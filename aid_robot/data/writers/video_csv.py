"""Export episodes as videos with an index."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from aid_robot.data.episode import Episode
from aid_robot.data.ingest.recording import BRIDGE_FPS
from aid_robot.data.video import write_video
from aid_robot.data.writers.encoder import even
from aid_robot.data.writers.folder import new_folder, safe_name
from aid_robot.errors import DataFormatError

_COLUMNS = (
    "file", "instruction", "episode", "camera", "outcome", "fps", "frames", "width", "height"
)  # fmt: skip


def write_videos(
    episodes: Iterable[Episode],
    folder: str | Path,
    *,
    fps: float | None = None,
    crf: int = 18,
    progress: bool = True,
) -> Path:
    """Write episodes, such as a store, as an mp4 a camera and an index.csv; return the folder.

    `folder` is there whole or not at all. Episodes whose rate isn't known play at `fps`, by default
    Bridge's. Kept are frames, the first instruction, outcome, rate and the id; actions, states and
    the rest are not: `write_lerobot` keeps them.
    """
    folder = Path(folder)
    with new_folder(folder) as unfinished:
        with (unfinished / "index.csv").open(
            "w", newline="", encoding="utf-8", errors="replace"
        ) as file:
            index = csv.DictWriter(file, _COLUMNS)
            index.writeheader()
            ids: set[str] = set()
            for episode in tqdm(episodes, "writing", unit=" episodes", disable=not progress):
                if episode.id in ids:
                    raise DataFormatError(
                        f"two episodes have the id '{episode.id}'; expected one: export them apart"
                    )
                part = unfinished / f"episode_{len(ids):06d}"
                index.writerows(_write_cameras(episode, part, fps, crf))
                ids.add(episode.id)
        if not ids:
            raise DataFormatError("no episodes were given to write; expected at least one")
    return folder


def _write_cameras(
    episode: Episode, folder: Path, fps: float | None, crf: int
) -> list[dict[str, Any]]:
    """Write an episode's videos; return their rows of the index."""
    folder.mkdir()
    names: list[str] = []
    rows = []
    for camera, frames in episode.videos.items():
        names.append(safe_name(camera, names))
        path = folder / f"{names[-1]}.mp4"
        write_video(path, frames, episode.fps or fps or BRIDGE_FPS, crf=crf)
        height, width = even(frames.size)
        rows.append(
            {
                "file": f"{folder.name}/{path.name}",
                "instruction": episode.instruction or "",
                "episode": episode.id,
                "camera": camera,
                "outcome": episode.outcome or "",
                "fps": "unknown" if episode.fps is None else repr(episode.fps),
                "frames": len(frames),
                "width": width,
                "height": height,
            }
        )
    return rows
