"""The recordings that an ingest run reads, and the names that it gives them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aid_robot.data.ingest import FORMATS, detect_format
from aid_robot.data.ingest.recording import did_you_mean
from aid_robot.errors import ConfigError, DataFormatError

_NAME = re.compile(r"[\w.+-]+")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
# Files that are called the same in every recording; the folder's name says more.
_COMMON_FILES = ("index.csv", "out.npy")


@dataclass(frozen=True)
class Source:
    """A recording, under the name that the ids of its episodes in the store begin with."""

    name: str
    path: Path
    format: str

    def id_of(self, episode: str) -> str:
        """Return the id in the store of the episode that the recording calls `episode`."""
        return f"{self.name}/{episode}"


def find_sources(texts: Sequence[str], format: str | None = None) -> list[Source]:
    """Resolve PATH or NAME=PATH each; a path that is given twice counts once.

    By default a recording is called as its file or folder is.
    """
    if format is not None and format not in FORMATS:
        raise DataFormatError(
            f"there is no format '{format}'{did_you_mean(format, list(FORMATS))}; "
            f"expected one of {', '.join(FORMATS)}"
        )
    sources: dict[Path, Source] = {}
    for text in texts:
        name, path = _split(text)
        if not path.exists():
            raise DataFormatError(f"there is no '{path}'; expected a recording: check the path")
        path = path.resolve()
        if path not in sources:
            sources[path] = Source(name or _name_of(path), path, format or detect_format(path))
    _check_names(list(sources.values()))
    return list(sources.values())


def _split(text: str) -> tuple[str | None, Path]:
    name, separator, path = text.partition("=")
    if not separator or Path(text).exists() or not _NAME.fullmatch(name):
        return None, Path(text)
    return name, Path(path)


def _name_of(path: Path) -> str:
    if _VERSION.fullmatch(path.name) or path.name in _COMMON_FILES:
        path = path.parent
    # A version or a year after the last dot is part of a folder's name, the end of a file's isn't.
    name = path.stem if path.is_file() or path.suffix == ".zarr" else path.name
    return re.sub(r"[^\w.+-]+", "-", name) or "recording"


def _check_names(sources: Sequence[Source]) -> None:
    seen: dict[str, Source] = {}
    for source in sources:
        if source.name in seen:
            raise ConfigError(
                f"{seen[source.name].path} and {source.path} would both be called "
                f"'{source.name}', and so could their episodes: give one of them a name of its "
                f"own, as in other={source.path}"
            )
        seen[source.name] = source
