"""Where a store's objects lie: a local folder, or anything that zarr has a store for."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Literal, TypeAlias

from aid_robot.errors import StoreError

if TYPE_CHECKING:
    from zarr.abc.store import Store

Buffer: TypeAlias = bytes | memoryview
# Added to an object's name while it is being written.
PARTIAL = ".partial"


class WriteError(Exception):
    """An object could not be written; the writer says what that means for the store."""


class Blob(ABC):
    """An object as it was when it was opened, whatever is put in its place afterwards."""

    @abstractmethod
    def read(self, start: int, stop: int) -> bytes:
        """Read a range of bytes, fewer where the object is shorter."""

    @abstractmethod
    def tail(self, count: int) -> bytes:
        """Read the last bytes, fewer where the object is shorter."""

    @property
    @abstractmethod
    def size(self) -> int | None:
        """Length in bytes, None where asking would cost a request."""


def replaced(url: str) -> StoreError:
    """Say that another store was put in the place of one that is open."""
    return StoreError(
        f"{url} was compacted or replaced since it was opened: call refresh(), or open it again"
    )


class Anchor:
    """Tells a store from another that was put in its place, where the system can."""

    def __init__(self, url: str) -> None:
        self._url = url

    def holds(self) -> bool:
        """Whether the store is still the one that it was."""
        return True

    def check(self) -> None:
        """Raise StoreError where it isn't."""
        if not self.holds():
            raise replaced(self._url)


class Objects(ABC):
    """Named byte strings, each replaced whole or not at all."""

    # What the user opened, for error messages and for opening it again.
    url: str
    # Two ranges of one object with fewer bytes between them are read at once.
    gap: int
    # Between the parts of a chunk's key, as zarr names it.
    separator: Literal[".", "/"]
    # Whether `url` opens the same objects again.
    named = True

    @abstractmethod
    def get(self, key: str) -> bytes | None:
        """Read an object, None where there is none."""

    @abstractmethod
    def open(self, key: str) -> Blob | None:
        """Open an object to read ranges of it, None (or an empty one) where there is none."""

    @abstractmethod
    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Write an object whole; readers see the old one or the new one, never a mixture."""

    def put_new(self, key: str, data: bytes) -> None:
        """Write an object unless there is one."""
        if not self.exists(key):
            self.put(key, [data])

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object if it is there."""

    @abstractmethod
    def delete_folder(self, key: str) -> None:
        """Remove all objects whose keys start with `key` and a slash."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Name what lies directly in a folder, in no order."""

    @abstractmethod
    def zarr_store(self) -> Store:
        """Give the same objects as a read-only zarr store."""

    def settle(self) -> None:
        """Make sure that what was put survives a power failure."""
        return

    def anchor(self) -> Anchor:
        """Remember which store is there now."""
        return Anchor(self.url)

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        return self.get(key) is not None


class _File(Blob):
    """An open file; stays what it is when its name goes to another."""

    def __init__(self, path: str) -> None:
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        self._size = os.fstat(self._fd).st_size

    def __del__(self) -> None:
        # Closed when the last reader lets go, so that no thread reads from a reused descriptor.
        if self._fd >= 0:
            with suppress(OSError):
                os.close(self._fd)

    @property
    def size(self) -> int:
        return self._size

    def read(self, start: int, stop: int) -> bytes:
        return os.pread(self._fd, max(0, min(stop, self._size) - start), start)

    def tail(self, count: int) -> bytes:
        start = max(0, self._size - count)
        return self.read(start, self._size)


class _Folder(Anchor):
    """An open folder, whose number the system gives to no other as long as it is open."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path, self._fd = path, -1
        with suppress(FileNotFoundError):
            self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if self._fd >= 0:
            with suppress(OSError):
                os.close(self._fd)

    def holds(self) -> bool:
        try:
            return self._fd >= 0 and os.path.samestat(os.fstat(self._fd), self._path.stat())
        except FileNotFoundError:
            return False


class LocalObjects(Objects):
    """Files in a folder."""

    gap = 64 * 1024
    # With slashes each shard would lie in three folders of its own.
    separator = "."

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)
        self._unsettled: set[Path] = set()
        self._folders: set[Path] = set()

    def get(self, key: str) -> bytes | None:
        try:
            return (self.root / key).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    def open(self, key: str) -> Blob | None:
        try:
            return _File(f"{self.url}/{key}")
        except (FileNotFoundError, NotADirectoryError):
            return None

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        path = self.root / key
        replaces = path.exists()
        # One name for all attempts: what a killed writer left is overwritten by the next.
        partial = path.with_name(path.name + PARTIAL)
        try:
            if path.parent not in self._folders:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._folders.add(path.parent)
            with partial.open("wb") as file:
                file.write(b"".join(parts))
                if replaces:
                    # Else a power failure could leave the name with neither content.
                    file.flush()
                    os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise WriteError(str(error)) from error
        if not replaces:
            self._unsettled.add(path)
        self._unsettled.add(path.parent)

    def settle(self) -> None:
        for path in sorted(self._unsettled, key=lambda path: len(path.parts), reverse=True):
            # What was put may have been removed again.
            with suppress(FileNotFoundError):
                fd = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(fd)
                except OSError as error:
                    raise WriteError(str(error)) from error
                finally:
                    os.close(fd)
        self._unsettled.clear()

    def delete(self, key: str) -> None:
        try:
            (self.root / key).unlink(missing_ok=True)
        except OSError as error:
            raise WriteError(str(error)) from error

    def delete_folder(self, key: str) -> None:
        folder = self.root / key
        try:
            if folder.is_dir():
                rmtree(folder)
        except OSError as error:
            raise WriteError(str(error)) from error
        self._folders.clear()

    def forget_folders(self) -> None:
        """Take nothing for granted after the folder was renamed."""
        self._folders.clear()
        self._unsettled.clear()

    def names(self, folder: str) -> list[str]:
        try:
            return [path.name for path in (self.root / folder).iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def anchor(self) -> Anchor:
        return _Folder(self.root)

    def zarr_store(self) -> Store:
        from zarr.storage import LocalStore

        return LocalStore(self.root, read_only=True)


def open_objects(url: str | os.PathLike[str] | Store) -> Objects:
    """Find what a path, a URL or a zarr store stands for; nothing is read yet."""
    text = os.fspath(url) if isinstance(url, (str, os.PathLike)) else ""
    if text and (text.startswith("file://") or "://" not in text):
        return LocalObjects(Path(text.removeprefix("file://")).absolute())
    # Here, since zarr takes a while to load.
    from aid_robot.data.store.remote import open_remote

    return open_remote(url)
