"""Many episodes at once: processes that simulate, and one that writes the store.

The same seed gives the same store, whatever the number of processes, and a run that was broken off
goes on where it stopped.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

from tqdm import tqdm

from aid_robot.data import Episode
from aid_robot.data.store import EpisodeStore
from aid_robot.data.store.layout import get_json
from aid_robot.data.store.objects import open_objects
from aid_robot.envs.tabletop.generate import DataConfig, Try
from aid_robot.envs.tabletop.render import Kind
from aid_robot.envs.tabletop.workshop import Workshop, workshop_for
from aid_robot.errors import ConfigError

# Where a store says how its episodes were made.
ATTRIBUTE = "simulation"
# Episodes are committed at least this often [s]; what comes later is lost when the power fails.
_COMMIT_EVERY = 20.0


@dataclass
class SkillCount:
    """What a run has written of one skill."""

    successes: int = 0
    failures: int = 0
    frames: int = 0
    bytes: int = 0
    # How often it was tried without a wanted failure, and succeeded.
    tried: int = 0
    done: int = 0


@dataclass
class Summary:
    """What a run has done."""

    # Episodes in the store at the end, and those that were there before.
    total: int = 0
    before: int = 0
    seconds: float = 0.0
    renderer: str = ""
    interrupted: bool = False
    skills: dict[str, SkillCount] = field(default_factory=dict)

    @property
    def made(self) -> int:
        """Episodes that this run has added."""
        return self.total - self.before

    def add(self, episode: Episode) -> None:
        """Count an episode that was written."""
        count = self.skills[episode.info["task"]["skill"]]
        count.successes += episode.outcome == "success"
        count.failures += episode.outcome == "failure"
        count.frames += len(episode)
        for frames in episode.videos.values():
            count.bytes += sum(len(frames.encoded(i) or b"") for i in range(len(frames)))

    def add_tries(self, tries: Sequence[Try]) -> None:
        """Count what was tried in earnest, and whether it succeeded."""
        for attempt in tries:
            if not attempt.spoiled:
                self.skills[attempt.skill].tried += 1
                self.skills[attempt.skill].done += attempt.done

    def table(self) -> str:
        """Show the run as text, a line a skill."""
        lines = [
            f"{'skill':<14}{'episodes':>9}{'success':>9}{'failure':>9}{'frames':>9}{'KB each':>9}"
            f"{'scripted success':>20}"
        ]
        for skill, count in self.skills.items():
            episodes = count.successes + count.failures
            if not episodes:
                continue
            rate = f"{count.done / count.tried:.0%} of {count.tried}" if count.tried else "-"
            lines.append(
                f"{skill:<14}{episodes:>9}{count.successes:>9}{count.failures:>9}"
                f"{count.frames / max(episodes, 1):>9.1f}"
                f"{count.bytes / max(episodes, 1) / 1e3:>9.1f}{rate:>20}"
            )
        size = sum(count.bytes for count in self.skills.values())
        frames = sum(count.frames for count in self.skills.values())
        lines.append(
            f"{self.made} episodes with {frames} frames and {size / 1e6:.1f} MB in "
            f"{self.seconds:.0f} s ({self.made / max(self.seconds, 1e-9):.2f} episodes/s), drawn "
            f"by {self.renderer}; {self.total} are in the store"
        )
        return "\n".join(lines)


def simulate(
    output: str | os.PathLike[str],
    config: DataConfig,
    episodes: int,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> Summary:
    """Fill a store with simulated episodes until it has `episodes`, going on where one stopped.

    `workers` is the number of processes, that of the cores by default; 0 works in this one. Ctrl-C
    keeps what was done.

    Raises ConfigError where the store was made otherwise than `config` says, and SimulationError
    where a start can't be made or a process dies.
    """
    if episodes < 1:
        raise ConfigError(f"{episodes} episodes are asked for; expected 1 or more")
    if workers is None:
        workers = num_cores()
    if workers < 0:
        raise ConfigError(f"{workers} processes are asked for; expected 0 or more")
    url = os.fspath(output)
    exists = get_json(open_objects(url), "") is not None
    if exists:
        config = _recorded_renderer(url, config)
    with workshop_for(config, workers) as workshop:
        made_as = {
            "config": config.to_json() | {"renderer": workshop.facts.renderer},
            "environment": workshop.facts.environment,
            "versions": workshop.facts.versions,
        }
        if exists:
            store = EpisodeStore.open(url, "a")
        else:
            store = EpisodeStore.create(url, attributes={ATTRIBUTE: made_as})
        with store:
            if exists:
                _check_same(store, made_as)
            return _fill(store, config, episodes, workshop, progress)


def num_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _fill(
    store: EpisodeStore, config: DataConfig, episodes: int, workshop: Workshop, progress: bool
) -> Summary:
    """Make what is missing, in order."""
    ids = [config.id_of(number) for number in range(episodes)]
    missing = {name: number for number, name in enumerate(ids) if name not in store}
    starts = sorted({number // config.alternatives for number in missing.values()})
    summary = Summary(before=len(store), renderer=workshop.facts.renderer)
    summary.skills = {skill: SkillCount() for skill in config.skills}
    began = committed = time.monotonic()
    bar = tqdm(
        total=episodes,
        initial=episodes - len(missing),
        unit="episode",
        smoothing=0.05,
        disable=not progress,
    )
    try:
        with bar, _HeldInterrupt() as interrupt, store.group():
            for made in workshop.make(starts):
                with interrupt.held():
                    for episode in made.episodes:
                        if episode.id in missing:
                            store.append(episode)
                            summary.add(episode)
                            bar.update()
                    summary.add_tries(made.tries)
                    if time.monotonic() - committed > _COMMIT_EVERY:
                        store.commit()
                        committed = time.monotonic()
    except KeyboardInterrupt:
        summary.interrupted = True
    summary.total = len(store)
    summary.seconds = time.monotonic() - began
    return summary


def _recorded_renderer(url: str, config: DataConfig) -> DataConfig:
    """Let "auto" mean the renderer that the store's episodes are drawn by."""
    begun = EpisodeStore.open(url).attributes.get(ATTRIBUTE)
    if config.renderer != "auto" or not isinstance(begun, dict):
        return config
    name = begun.get("config", {}).get("renderer", "auto")
    return replace(config, renderer=cast(Kind, name))


def _check_same(store: EpisodeStore, made_as: Mapping[str, Any]) -> None:
    """Refuse to go on in another way than the store was begun."""
    begun = store.attributes.get(ATTRIBUTE)
    if not isinstance(begun, dict):
        raise ConfigError(
            f"{store.url} was not made by simulation; expected a new path, or a store that was"
        )
    for part in ("config", "environment"):
        old, new = begun.get(part, {}), made_as[part]
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                raise ConfigError(
                    f"{store.url} was made with {name}={old.get(name)!r}, now it is "
                    f"{new.get(name)!r}: go on with the same, or write to another store"
                )
    if begun.get("versions") != made_as["versions"]:
        warnings.warn(
            f"{store.url} was begun with {_listed(begun.get('versions', {}))}, and goes on with "
            f"{_listed(made_as['versions'])}: its episodes may differ in detail",
            stacklevel=2,
        )


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


class _HeldInterrupt:
    """Let Ctrl-C break off only where nothing is being written."""

    def __init__(self) -> None:
        self._holding = self._pressed = False
        self._previous: Any = None

    def __enter__(self) -> _HeldInterrupt:
        # Only the main thread may, and only it gets the signal.
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _press(self, *_: object) -> None:
        self._pressed = True
        if not self._holding:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Put off an interruption to the end of the block."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._pressed:
            raise KeyboardInterrupt
