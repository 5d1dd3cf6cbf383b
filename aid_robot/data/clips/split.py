"""Which episodes are held out for validation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from aid_robot.data.store.split import hashed
from aid_robot.errors import ConfigError

Side: TypeAlias = Literal["train", "val"]


class Named(Protocol):
    """What a split looks at, of an Episode or of a store's record of one."""

    @property
    def id(self) -> str: ...
    @property
    def scene(self) -> str: ...


@dataclass(frozen=True)
class Split:
    """Hold out episodes by the hash of their scene, or of their id where that is unknown.

    The side of an episode depends on nothing but itself, so that it stays when others are added,
    and a scene is never on both sides; `EpisodeStore.split` by scene holds out the same. To hold
    out what was once chosen, whatever the share says now, keep the ids, for example
    `Split(ids=Split().held_out(store.records))`.
    """

    # The share held out, of scenes.
    share: float = 0.1
    seed: int = 0
    # If given, held out are these episodes, and those of their scenes, instead of a share.
    ids: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ConfigError(f"share={self.share} of held-out episodes must be in [0, 1)")

    def held_out(self, episodes: Iterable[Named]) -> frozenset[str]:
        """Name the held-out ones of all episodes there are."""
        if self.ids is None:
            return frozenset(episode.id for episode in episodes if self._drawn(episode))
        ids, episodes = self.ids, list(episodes)
        scenes = {episode.scene for episode in episodes if episode.id in ids} - {""}
        return frozenset(e.id for e in episodes if e.id in ids or e.scene in scenes)

    def _drawn(self, episode: Named) -> bool:
        # The two kinds of names are kept apart, so that an id that looks like a scene is none.
        name = f"scene {episode.scene}" if episode.scene else f"id {episode.id}"
        return hashed(name, self.seed) >= 1 - self.share
