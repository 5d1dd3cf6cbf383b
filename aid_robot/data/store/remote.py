"""Objects that are no local files: behind a URL, or any store that zarr has."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from zarr.abc.store import RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, ObjectStore

from aid_robot.data.store.objects import Blob, Buffer, Objects, WriteError
from aid_robot.errors import StoreError
from aid_robot.extras import require

# What obstore opens itself; every other scheme is fsspec's.
OBSTORE_SCHEMES = ("s3", "gs", "az", "azure", "abfs", "abfss", "http", "https")


class _Remote(Blob):
    """An object that is asked for range by range."""

    def __init__(self, objects: ZarrObjects, key: str) -> None:
        self._objects, self._key = objects, key

    @property
    def size(self) -> None:
        return None

    def read(self, start: int, stop: int) -> bytes:
        return self._objects.request(self._key, RangeByteRequest(start, stop)) or b""

    def tail(self, count: int) -> bytes:
        return self._objects.request(self._key, SuffixByteRequest(count)) or b""


class ZarrObjects(Objects):
    """Objects behind any zarr store: obstore's, fsspec's, a transaction of icechunk's."""

    # A request takes longer than a megabyte.
    gap = 1024 * 1024
    # All that icechunk knows.
    separator = "/"

    def __init__(self, store: Store, url: str, *, named: bool = True) -> None:
        # `named` is False for a store that the caller made and handed in.
        self.store, self.url, self.named = store, url, named

    def put_new(self, key: str, data: bytes) -> None:
        """Write an object unless there is one."""
        content = default_buffer_prototype().buffer.from_bytes(data)
        try:
            sync(self.store.set_if_not_exists(key, content))
        except Exception as error:
            raise StoreError(
                f"{self.url} can't be written to ({error}); check the connection and who may "
                "write there"
            ) from error

    def request(self, key: str, byte_range: Any = None) -> bytes | None:
        """Read an object or a part of it."""
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
        content = default_buffer_prototype().buffer.from_bytes(b"".join(parts))
        try:
            sync(self.store.set(key, content))
        except Exception as error:
            raise WriteError(str(error)) from error

    def delete(self, key: str) -> None:
        try:
            sync(self.store.delete(key))
        except Exception as error:
            raise WriteError(str(error)) from error

    def delete_folder(self, key: str) -> None:
        try:
            sync(self.store.delete_dir(key))
        except Exception as error:
            raise WriteError(str(error)) from error

    def names(self, folder: str) -> list[str]:
        async def listed() -> list[str]:
            return [name.rstrip("/") async for name in self.store.list_dir(folder)]

        return sync(listed())

    def exists(self, key: str) -> bool:
        return sync(self.store.exists(key))

    def zarr_store(self) -> Store:
        return self.store


def open_remote(url: str | os.PathLike[str] | Store) -> ZarrObjects:
    """Find what a URL or a zarr store stands for."""
    if isinstance(url, Store):
        return ZarrObjects(url, repr(url), named=False)
    text = os.fspath(url)
    if text.split("://")[0] in OBSTORE_SCHEMES:
        obstore = require("obstore.store", "remote")
        try:
            return ZarrObjects(ObjectStore(obstore.from_url(text)), text)
        except Exception as error:
            raise StoreError(
                f"'{text}' can't be opened ({error}); expected a bucket and a path, such as "
                "s3://bucket/store.zarr, and credentials in the environment"
            ) from error
    require("fsspec", "remote")
    try:
        return ZarrObjects(FsspecStore.from_url(text), text)
    except (ImportError, ValueError) as error:
        raise StoreError(
            f"'{text}' can't be opened ({error}); expected a local path or a URL such as "
            "s3://bucket/store.zarr"
        ) from error
