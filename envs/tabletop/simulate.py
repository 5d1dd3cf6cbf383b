"""Many episodes at once: processes that simulate, and one that writes the store.

The same seed gives the same store, whatever the number of processes, and a run that was broken off
goes on where it stopped.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from typing import Any, Protocol, TypeVar, cast

import cv2
from tqdm import tqdm

from aid_robot.data import Episode
from aid_robot.data.store import EpisodeStore
from aid_robot.data.store.layout import get_json
from aid_robot.data.store.objects import open_objects
from aid_robot.envs.tabletop.generate import DataConfig, Facts, Generator, Made, Try
from aid_robot.envs.tabletop.render import Kind
from aid_robot.errors import ConfigError, SimulationError

_T = TypeVar("_T")

# Where a store says how its episodes were made.
ATTRIBUTE = "simulation"
# Starts that are handed out beyond those in work, so that no process waits for a slow one.
_AHEAD = 4
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
        workers = len(os.sched_getaffinity(0))
    if workers < 0:
        raise ConfigError(f"{workers} processes are asked for; expected 0 or more")
    url = os.fspath(output)
    exists = get_json(open_objects(url), "") is not None
    if exists:
        config = _recorded_renderer(url, config)
    with _workshop(config, workers) as workshop:
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


class Workshop(Protocol):
    """Who makes the episodes."""

    facts: Facts

    def make(self, starts: Sequence[int]) -> Iterator[Made]:
        """Make the episodes of each start, in order."""


class _Here:
    """Make them in this process."""

    def __init__(self, config: DataConfig) -> None:
        self._generator = Generator(config)
        self.facts = self._generator.facts

    def make(self, starts: Sequence[int]) -> Iterator[Made]:
        return map(self._generator.make, starts)


class _Processes:
    """Make them in processes of their own."""

    def __init__(self, config: DataConfig, pool: ProcessPoolExecutor, workers: int) -> None:
        self._config, self._pool, self._workers = config, pool, workers
        # The first process to be ready says what all draw with.
        self.facts = self._result(pool.submit(_facts, config))

    def make(self, starts: Sequence[int]) -> Iterator[Made]:
        waiting = iter(starts)
        ahead: deque[Future[Made]] = deque()
        while True:
            for start in islice(waiting, self._workers * _AHEAD - len(ahead)):
                ahead.append(self._pool.submit(_make, self._config, start))
            if not ahead:
                return
            yield self._result(ahead.popleft())

    def _result(self, future: Future[_T]) -> _T:
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise SimulationError(
                "a process of the simulation died, perhaps for lack of memory: what was written "
                "is safe; run the same command again to go on, with fewer workers"
            ) from error


@contextmanager
def _workshop(config: DataConfig, workers: int) -> Iterator[Workshop]:
    if not workers:
        yield _Here(config)
        return
    # Not forked: a GL context doesn't survive it.
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare
    )
    try:
        yield _Processes(config, pool, workers)
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare() -> None:
    """Leave Ctrl-C to the parent, and end when it does, even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@lru_cache(maxsize=1)
def _generator(config: DataConfig) -> Generator:
    return Generator(config)


def _facts(config: DataConfig) -> Facts:
    return _generator(config).facts


def _make(config: DataConfig, start: int) -> Made:
    return _generator(config).make(start)
