"""Where a store's objects lie: a local folder, or anything that zarr has a store for."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from aid_robot.errors import StoreError
from aid_robot.extras import require

if TYPE_CHECKING:
    from zarr.abc.store import Store

Buffer: TypeAlias = bytes | memoryview
# What obstore opens itself; every other scheme is fsspec's.
OBSTORE_SCHEMES = ("s3", "gs", "az", "azure", "abfs", "abfss", "http", "https")
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

    @abstractmethod
    def get(self, key: str) -> bytes | None:
        """Read an object, None where there is none."""

    @abstractmethod
    def open(self, key: str) -> Blob | None:
        """Open an object to read ranges of it, None (or an empty one) where there is none."""

    @abstractmethod
    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Write an object whole; readers see the old one or the new one, never a mixture."""

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


class _Remote(Blob):
    """An object that is asked for range by range."""

    def __init__(self, objects: ZarrObjects, key: str) -> None:
        self._objects, self._key = objects, key

    @property
    def size(self) -> None:
        return None

    def read(self, start: int, stop: int) -> bytes:
        from zarr.abc.store import RangeByteRequest

        return self._objects.request(self._key, RangeByteRequest(start, stop)) or b""

    def tail(self, count: int) -> bytes:
        from zarr.abc.store import SuffixByteRequest

        return self._objects.request(self._key, SuffixByteRequest(count)) or b""


class ZarrObjects(Objects):
    """Objects behind any zarr store: obstore's, fsspec's, a transaction of icechunk's."""

    # A request takes longer than a megabyte.
    gap = 1024 * 1024
    # All that icechunk knows.
    separator = "/"

    def __init__(self, store: Store, url: str, *, named: bool = True) -> None:
        self.store, self.url = store, url
        # False for a store that the caller made and handed in.
        self.named = named

    def put_new(self, key: str, data: bytes) -> None:
        """Write an object unless there is one."""
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        content = default_buffer_prototype().buffer.from_bytes(data)
        sync(self.store.set_if_not_exists(key, content))

    def request(self, key: str, byte_range: Any = None) -> bytes | None:
        """Read an object or a part of it."""
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        try:
            found = sync(self.store.get(key, default_buffer_prototype(), byte_range))
        except Exception as error:
            raise StoreError(
                f"{self.url}: {key} can't be read ({error}); check the connection and who may "
                "read there"
            ) from error
        return None if found is None else found.to_bytes()

    def get(self, key: str) -> bytes | None:
        return self.request(key)

    def open(self, key: str) -> Blob | None:
        # Whether it is there shows when it is read, without a request of its own.
        return _Remote(self, key)

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        content = default_buffer_prototype().buffer.from_bytes(b"".join(parts))
        try:
            sync(self.store.set(key, content))
        except Exception as error:
            raise WriteError(str(error)) from error

    def delete(self, key: str) -> None:
        from zarr.core.sync import sync

        try:
            sync(self.store.delete(key))
        except Exception as error:
            raise WriteError(str(error)) from error

    def delete_folder(self, key: str) -> None:
        from zarr.core.sync import sync

        try:
            sync(self.store.delete_dir(key))
        except Exception as error:
            raise WriteError(str(error)) from error

    def names(self, folder: str) -> list[str]:
        from zarr.core.sync import sync

        async def listed() -> list[str]:
            return [name.rstrip("/") async for name in self.store.list_dir(folder)]

        return sync(listed())

    def exists(self, key: str) -> bool:
        from zarr.core.sync import sync

        return sync(self.store.exists(key))

    def zarr_store(self) -> Store:
        return self.store


def open_objects(url: str | os.PathLike[str] | Store) -> Objects:
    """Find what a path, a URL or a zarr store stands for; nothing is read yet."""
    if not isinstance(url, (str, os.PathLike)):
        return ZarrObjects(url, repr(url), named=False)
    text = os.fspath(url)
    scheme = re.match(r"([a-z][a-z0-9+.-]+)://", text)
    if scheme is None or scheme[1] == "file":
        return LocalObjects(Path(text.removeprefix("file://")).absolute())
    if scheme[1] in OBSTORE_SCHEMES:
        from zarr.storage import ObjectStore

        obstore = require("obstore.store", "remote")
        try:
            return ZarrObjects(ObjectStore(obstore.from_url(text)), text)
        except Exception as error:
            raise StoreError(
                f"'{text}' can't be opened ({error}); expected a bucket and a path, such as "
                "s3://bucket/store.zarr, and credentials in the environment"
            ) from error
    require("fsspec", "remote")
    from zarr.storage import FsspecStore

    try:
        return ZarrObjects(FsspecStore.from_url(text), text)
    except (ImportError, ValueError) as error:
        raise StoreError(
            f"'{text}' can't be opened ({error}); expected a local path or a URL such as "
            "s3://bucket/store.zarr"
        ) from error
