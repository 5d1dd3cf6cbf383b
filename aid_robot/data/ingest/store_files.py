"""The files of a zarr store by their names, in a folder or in a zip file."""

from __future__ import annotations

import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from pathlib import Path

from aid_robot.errors import DataFormatError, TruncatedFileError


class Files(ABC):
    """Small files, read whole and never written; may be sent to other processes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""

    @abstractmethod
    def size(self, name: str) -> int:
        """Size of a file in bytes."""

    @abstractmethod
    def arrays(self, group: str) -> list[str]:
        """Name the zarr arrays directly in a group."""

    @abstractmethod
    def _read(self, name: str) -> bytes:
        """Read a file."""

    def read(self, name: str, limit: int) -> bytes:
        """Read a file of no more than `limit` bytes."""
        # What a damaged zip file raises depends on where the damage is.
        try:
            size = self.size(name)
            if size > limit:
                raise DataFormatError(
                    f"{name} of {self} has {size} bytes; expected at most {limit}: it is damaged, "
                    "copy it again from its source"
                )
            return self._read(name)
        except KeyError as error:
            raise TruncatedFileError(
                f"{self} lacks {name}: copy it again from its source"
            ) from error
        except (NotImplementedError, RuntimeError, OSError, EOFError, zlib.error,
                zipfile.BadZipFile) as error:  # fmt: skip
            raise TruncatedFileError(
                f"{name} of {self} can't be read ({error}): copy it again from its source, or, if "
                "it is a zip file, unpack it and give the folder"
            ) from error


class FolderFiles(Files):
    """Files in a folder."""

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def size(self, name: str) -> int:
        return (self.path / name).stat().st_size

    def arrays(self, group: str) -> list[str]:
        return [file.parent.name for file in (self.path / group).glob("*/.zarray")]

    def _read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


class ZipFiles(Files):
    """Files in a zip file, of which one may hold the rest: `x.zarr/data/...`."""

    def __init__(self, path: Path, folder: str = "") -> None:
        super().__init__(path)
        self._folder = folder
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def __reduce__(self) -> tuple[type[ZipFiles], tuple[Path, str]]:
        return type(self), (self.path, self._folder)

    def has(self, name: str) -> bool:
        try:
            self._zip.getinfo(self._folder + name)
        except KeyError:
            return False
        return True

    def size(self, name: str) -> int:
        # No more than this is decompressed, whatever the compressed bytes hold.
        return self._zip.getinfo(self._folder + name).file_size

    def arrays(self, group: str) -> list[str]:
        start, end = f"{self._folder}{group}/", "/.zarray"
        found = (
            name[len(start) : -len(end)]
            for name in self._zip.namelist()
            if name.startswith(start) and name.endswith(end)
        )
        return [name for name in found if name and "/" not in name]

    def _read(self, name: str) -> bytes:
        return self._zip.read(self._folder + name)

    @property
    def _zip(self) -> zipfile.ZipFile:
        # After a fork both processes would move the same file position.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), open_zip(self.path))
        return self._opened[1]


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip file to read from it."""
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise TruncatedFileError(
            f"{path} is no whole zip file ({error}): copy it again from its source"
        ) from error
