"""Who makes simulated episodes: this process, or several beside it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from multiprocessing.synchronize import Event
from typing import Protocol, TypeVar

import cv2

from aid_robot.envs.tabletop.generate import DataConfig, Facts, Generator, Made
from aid_robot.errors import SimulationError

_T = TypeVar("_T")

# Starts that are handed out to each process, so that none waits for a slow one.
_AHEAD = 4


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
def workshop_for(config: DataConfig, workers: int) -> Iterator[Workshop]:
    """Set up a number of processes, or none, and end them after the block."""
    if not workers:
        yield _Here(config)
        return
    # Not forked: a GL context doesn't survive it.
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare, initargs=(stop,))
    try:
        yield _Processes(config, pool, workers)
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


# Set in a process of the pool when no one waits for its work any more.
_stop: Event | None = None


def _prepare(stop: Event) -> None:
    """Leave Ctrl-C to the parent, and end when it does, even if it is killed."""
    global _stop  # noqa: PLW0603  what an initializer leaves for the tasks of its process
    _stop = stop
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
    if _stop is not None and _stop.is_set():
        return Made((), ())
    return _generator(config).make(start)
