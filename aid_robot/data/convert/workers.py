"""Who prepares episodes: this process, processes of this machine, or a Ray cluster.

All are asked alike: `submit(source, index)` gives a future of a PreparedEpisode or a Failure.
"""

from __future__ import annotations

import multiprocessing
import signal
import socket
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import cv2

from aid_robot.data.convert.prepare import (
    Failure,
    PreparedEpisode,
    Settings,
    attempt,
)
from aid_robot.data.convert.sources import Source
from aid_robot.errors import ConfigError, DataFormatError
from aid_robot.extras import require

Result = PreparedEpisode | Failure
# Times that a process is started which ends before it can be asked anything.
_STARTS = 2


class Workers(Protocol):
    """Prepares episodes."""

    # So many at a time.
    count: int

    def submit(self, source: Source, index: int) -> Future[Result]:
        """Begin with an episode."""

    def close(self) -> None:
        """Stop at once, whatever was begun."""


class InProcess:
    """This process: for a debugger, or for a few small episodes."""

    count = 1

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def submit(self, source: Source, index: int) -> Future[Result]:
        """Prepare an episode before returning."""
        future: Future[Result] = Future()
        future.set_result(attempt(source, index, self._settings))
        return future

    def close(self) -> None:
        """Do nothing."""


class _Threaded(ABC):
    """Workers elsewhere, each of which a thread here waits for."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._threads = ThreadPoolExecutor(count, "ingest", initializer=_leave_interrupts_to_main)

    def submit(self, source: Source, index: int) -> Future[Result]:
        """Queue an episode."""
        return self._threads.submit(self._prepare, source, index)

    @abstractmethod
    def _prepare(self, source: Source, index: int) -> Result: ...


class Processes(_Threaded):
    """Processes of this machine; one that dies costs the episode that it had in hand.

    A broken pool of concurrent.futures loses all that was begun, and doesn't tell which task broke
    it; a pipe for each process does.
    """

    def __init__(self, count: int, settings: Settings) -> None:
        super().__init__(count)
        self._settings = settings
        self._closed = False
        self._alive: set[_Process] = set()
        self._idle: SimpleQueue[_Process | None] = SimpleQueue()
        for _ in range(count):
            self._idle.put(None)
        # Here, since it unblocks interrupts in the thread that starts it.
        resource_tracker.ensure_running()

    def close(self) -> None:
        """Kill the processes: what they hold can be read again."""
        self._closed = True
        for process in list(self._alive):
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._alive:
            process.last_words()

    def _prepare(self, source: Source, index: int) -> Result:
        process = self._idle.get()
        try:
            if process is None:
                process = self._start()
            return process.ask(source, index)
        except (EOFError, OSError):
            if process is None:
                raise
            self._alive.discard(process)
            ending = process.last_words()
            process = None
            return Failure(
                "WorkerDied",
                f"the process that read it {ending}: try it again with --retry --workers 1",
            )
        finally:
            self._idle.put(process)

    def _start(self) -> _Process:
        for _ in range(_STARTS):
            process = _Process(self._settings)
            self._alive.add(process)
            if self._closed:
                process.kill()
            try:
                process.wait()
            except (EOFError, OSError):
                self._alive.discard(process)
                ending = process.last_words()
            else:
                return process
        raise ConfigError(
            f"a process that is to read episodes {ending} as it started: in a script, call ingest "
            "below `if __name__ == '__main__':`, or read in one process by workers=0"
        )


class _Process:
    """A worker process, and the pipe to it."""

    def __init__(self, settings: Settings) -> None:
        # Not forked: threads and open files of this process would come along.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, settings), daemon=True)
        self._process.start()
        # From here on the pipe ends with the process, and EOFError or OSError tell that it did.
        theirs.close()

    def wait(self) -> None:
        """Wait until it is there to be asked."""
        self._pipe.recv()

    def ask(self, source: Source, index: int) -> Result:
        """Have an episode prepared."""
        self._pipe.send((source, index))
        result: Result = self._pipe.recv()
        return result

    def kill(self) -> None:
        self._process.kill()

    def last_words(self) -> str:
        """Say how it ended."""
        self._pipe.close()
        self._process.join()
        code = self._process.exitcode or 0
        if code == -signal.SIGKILL:
            return "was killed (SIGKILL), as the system does where memory runs out"
        if code < 0:
            return f"crashed ({signal.Signals(-code).name})"
        return f"ended with exit status {code}"


class RayTasks(_Threaded):
    """Tasks of a Ray cluster, on which the sources must be under the same paths as here."""

    def __init__(
        self, address: str, count: int | None, settings: Settings, sources: Sequence[Source]
    ) -> None:
        self._ray: Any = require("ray", "ray")
        self._started = not self._ray.is_initialized()
        if self._started:
            try:
                _knock(address)
                self._ray.init(address=address, log_to_driver=False)
            except (OSError, RuntimeError, ValueError) as error:
                raise ConfigError(
                    f"there is no Ray cluster at '{address}' ({error}); expected host:port, "
                    "ray://host:port, 'auto' for the one of this machine, or 'local' to start one"
                ) from error
        cores = int(self._ray.cluster_resources().get("CPU", 1))
        super().__init__(count or cores)
        self._settings = settings
        # One that dies of an episode would die of it again.
        self._attempt = self._ray.remote(max_retries=0)(attempt)
        try:
            self._check(sources)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the cluster; what it still works at is dropped."""
        self._threads.shutdown(wait=not self._started, cancel_futures=True)
        if self._started:
            self._ray.shutdown()

    def _prepare(self, source: Source, index: int) -> Result:
        try:
            result: Result = self._ray.get(self._attempt.remote(source, index, self._settings))
        except self._ray.exceptions.RayError as error:
            message = " ".join(str(error).split())
            return Failure(type(error).__name__, f"{message[:300]}: try it again with --retry")
        return result

    def _check(self, sources: Sequence[Source]) -> None:
        paths = [source.path for source in sources]
        try:
            unseen = self._ray.get(self._ray.remote(_missing).remote(paths))
        except self._ray.exceptions.RayError as error:
            message = " ".join(str(error).split())
            raise ConfigError(
                f"the Ray cluster can't run aid_robot ({message[:300]}): install the same version "
                "on all of its machines"
            ) from error
        if unseen:
            raise DataFormatError(
                f"the Ray cluster has no {unseen[0]}; expected the sources on a disk that all of "
                "its machines share, under the same path as here"
            )


def _serve(pipe: Connection, settings: Settings) -> None:
    """Prepare what is asked for until the other end of the pipe is closed."""
    # Ctrl-C reaches all processes of a terminal; the one that writes decides what is finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    # It is closed when the process that asks ends, in whatever way.
    with suppress(EOFError, OSError):
        pipe.send("ready")
        while True:
            source, index = pipe.recv()
            pipe.send(attempt(source, index, settings))


def _leave_interrupts_to_main() -> None:
    # A process that such a thread starts has them blocked too, also while it is still importing.
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _knock(address: str) -> None:
    """Raise OSError where nothing answers at an address, for which Ray takes many minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _missing(paths: Sequence[Path]) -> list[Path]:
    return [path for path in paths if not path.exists()]
