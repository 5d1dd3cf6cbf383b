"""An episode store, read like any other recording."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aid_robot.data.episode import Episode
from aid_robot.data.ingest.recording import Format, Recording


class StoreRecording(Recording):
    """The episodes of a store as it was when it was opened."""

    format = "store"

    def __init__(self, path: Path | str, fps: float | None = None) -> None:
        super().__init__(Path(path), fps)
        # Here, since zarr takes a while to load.
        from aid_robot.data.store import EpisodeStore

        self.store = EpisodeStore.open(path)

    def __len__(self) -> int:
        return len(self.store)

    def _list_ids(self) -> Sequence[str]:
        return self.store.ids

    def _read(self, index: int) -> Episode:
        return self.store[index]


def _matches(path: Path) -> bool:
    return (path / "zarr.json").is_file() and (path / "meta" / "episode_ends").is_dir()


FORMAT = Format(
    layout="an episode store: a zarr v3 group with data/ and meta/episode_ends",
    matches=_matches,
    open=StoreRecording,
)
