"""One writer at a time."""

from __future__ import annotations

import json
import os
import socket
import time
import weakref
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path

from aid_robot.data.store.objects import LocalObjects, Objects
from aid_robot.errors import StoreError, StoreLockedError

# The lock of a remote store is an object in it.
REMOTE_KEY = "writer.lock"


class WriterLock(ABC):
    """The right to write to a store, held from its creation until `release`."""

    @abstractmethod
    def release(self) -> None:
        """Let others write; harmless when repeated."""


class LocalLock(WriterLock):
    """A lock on a file beside the store, which the system lets go of when the process ends.

    However it ends: also by SIGKILL. Forked children don't keep it.
    """

    def __init__(self, root: Path, url: str) -> None:
        self.path = lock_path(root)
        self._fd = _locked(self.path, url)
        os.ftruncate(self._fd, 0)
        os.write(self._fd, json.dumps(_holder()).encode())
        _held.add(self)

    def release(self) -> None:
        if self._fd >= 0:
            with suppress(OSError):
                # Before it is unlocked: a waiting process checks that its file is still here.
                self.path.unlink()
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.release()

    def abandon(self) -> None:
        """Close the descriptor that a fork copied; the parent's lock stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class RemoteLock(WriterLock):
    """An object in the store that names the writer.

    Taken atomically where the store can create an object only if it is absent (obstore's S3, GCS
    and Azure); elsewhere two writers that start within one request of each other both get it. A
    killed writer leaves it behind: `break_lock=True` removes it.
    """

    def __init__(self, objects: Objects, break_lock: bool) -> None:
        self._objects = objects
        mine = {**_holder(), "token": os.urandom(8).hex()}
        if break_lock:
            objects.delete(REMOTE_KEY)
        objects.put_new(REMOTE_KEY, json.dumps(mine).encode())
        found = _parsed(objects.get(REMOTE_KEY))
        if found.get("token") != mine["token"]:
            raise StoreLockedError(
                f"{objects.url} is being written by {_name(found)}; wait until it is done, or, if "
                "that process is gone, open with break_lock=True"
            )
        self._here = True

    def release(self) -> None:
        if self._here:
            self._objects.delete(REMOTE_KEY)
            self._here = False


class NoLock(WriterLock):
    """For zarr stores that the caller made: who writes to them is the caller's to know."""

    def release(self) -> None:
        return


_held: weakref.WeakSet[LocalLock] = weakref.WeakSet()


def _abandon_all() -> None:
    for lock in list(_held):
        lock.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)


def lock_writer(objects: Objects, *, break_lock: bool = False) -> WriterLock:
    """Take the right to write; StoreLockedError names who has it."""
    if isinstance(objects, LocalObjects):
        return LocalLock(objects.root, objects.url)
    if not objects.named:
        return NoLock()
    return RemoteLock(objects, break_lock)


def lock_path(root: Path) -> Path:
    """Name the lock file of a local store."""
    return root.with_name(root.name + ".lock")


def _locked(path: Path, url: str) -> int:
    try:
        import fcntl
    except ImportError as error:
        raise StoreError(
            f"'{url}' can't be written here: writing takes a file lock of Linux or macOS; on "
            "Windows use WSL"
        ) from error
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as error:
            raise StoreError(
                f"'{path}' can't be made ({error}), and without it nothing is written to the "
                "store: check who may write to the folder"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            found = _parsed(os.pread(fd, 4096, 0))
            os.close(fd)
            raise StoreLockedError(
                f"'{url}' is being written by {_name(found)}; wait until it is done, or stop it"
            ) from error
        # The last holder may have removed the file between our opening and our locking it.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), path.stat()):
                return fd
        os.close(fd)


def _holder() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _parsed(data: bytes | None) -> dict[str, object]:
    try:
        found = json.loads(data or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _name(holder: dict[str, object]) -> str:
    if "pid" not in holder:
        return "another process"
    return f"process {holder['pid']} on {holder.get('host')} since {holder.get('since')}"
