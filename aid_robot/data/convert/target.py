"""The store that an ingest run writes to, and what lies beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aid_robot.data.convert.prepare import Settings
from aid_robot.data.store import EpisodeStore
from aid_robot.data.store.codecs import JpegCodec
from aid_robot.data.store.objects import LocalObjects, open_objects
from aid_robot.errors import ConfigError

# Attribute of the store: what later runs take over.
_ATTRIBUTE = "ingest"


def open_target(target: str | Path) -> EpisodeStore | None:
    """Open the store for writing, None where there is none yet."""
    if not open_objects(target).exists("zarr.json"):
        return None
    return EpisodeStore.open(target, "a")


def create_target(target: str | Path, settings: Settings) -> EpisodeStore:
    """Make the store that the first run needs."""
    return EpisodeStore.create(
        target,
        codec=settings.codec,
        quality=settings.quality,
        attributes={_ATTRIBUTE: {"size": settings.size}},
    )


def settle(
    store: EpisodeStore, wanted: Settings, codec: str | None, quality: int | None
) -> Settings:
    """Take over how the store was made; ConfigError where something else was asked for."""
    made = store.settings
    # Others' stores can't be opened for writing.
    assert made is not None
    name = made.codec_name
    made_quality = made.codec.quality if isinstance(made.codec, JpegCodec) else wanted.quality
    if codec not in (None, name):
        raise ConfigError(
            f"the store was made with codec {name}, but {codec} was asked for: leave it out, or "
            "write to another store"
        )
    if name == "jpeg" and quality not in (None, made_quality):
        raise ConfigError(
            f"the store was made with JPEG quality {made_quality}, but {quality} was asked for: "
            "leave it out, or write to another store"
        )
    size = store.attributes.get(_ATTRIBUTE, {}).get("size")
    return replace(
        wanted,
        codec=name,
        quality=made_quality,
        size=wanted.size or (tuple(size) if size else None),
    )


def beside(target: str | Path, what: str) -> Path:
    """Name a file that goes with a store: next to it, of a remote store in the working folder."""
    objects = open_objects(target)
    if isinstance(objects, LocalObjects):
        return objects.root.with_name(f"{objects.root.name}.{what}")
    return Path.cwd() / f"{Path(str(target)).name or 'store'}.{what}"
