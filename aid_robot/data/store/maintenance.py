"""What concerns a store as a whole: a place for it, and writing it anew."""

from __future__ import annotations

import os
import time
from pathlib import Path
from shutil import copy2, copytree, rmtree
from typing import TYPE_CHECKING

from tqdm import tqdm

from aid_robot.data.store.codecs import JpegCodec
from aid_robot.data.store.layout import METADATA, get_json
from aid_robot.data.store.lock import REMOTE_KEY, lock_writer
from aid_robot.data.store.objects import PARTIAL, LocalObjects, Objects
from aid_robot.errors import StoreError, StoreFullError, StoreLockedError

if TYPE_CHECKING:
    from zarr.abc.store import Store

    from aid_robot.data.store.store import EpisodeStore

# The groups of a store.
OURS = ("data", "meta", "cache")
# How long the two renames of a swap may take until a reader takes it for broken off.
PATIENCE = 2.0


def copy_store(source: EpisodeStore, target: str | os.PathLike[str] | Store) -> None:
    """Copy the episodes that count, and what was cached of them, to a new store."""
    settings = source.settings
    if settings is None:
        raise StoreError(
            f"{source.url} was written by another program; expected one of this package's: make a "
            "store by EpisodeStore.create and merge it"
        )
    made = type(source).create(
        target,
        codec=settings.codec_name,
        quality=settings.codec.quality if isinstance(settings.codec, JpegCodec) else 95,
        shard_frames=settings.shard_frames,
        attributes=source.attributes,
    )
    with made, made.group():
        for episode in tqdm(source, desc="compact", unit="episode", disable=None):
            made.append(episode)
        made.commit()
        for index in range(len(source)):
            made.take_cached(source, index)


def compact_in_place(store: EpisodeStore) -> None:
    """Put a compacted copy in the store's place; the store's lock is held."""
    objects = store.objects
    if not isinstance(objects, LocalObjects):
        raise StoreError(
            f"{objects.url} can't be swapped for its compacted copy; expected a target: "
            "compact(target=...), then use that"
        )
    clear_beside(objects)
    made, previous = beside(objects.root)
    try:
        copy_store(store, made)
        _copy_others(objects.root, made)
    except BaseException:
        _remove(made)
        raise
    objects.root.rename(previous)
    made.rename(objects.root)
    objects.forget_folders()
    rmtree(previous)


def _copy_others(root: Path, made: Path) -> None:
    """Take along what others keep in the store's folder."""
    try:
        for path in root.iterdir():
            if path.is_dir() and path.name not in OURS:
                copytree(path, made / path.name, symlinks=True)
            elif path.is_file() and path.name != METADATA:
                copy2(path, made / path.name)
    except OSError as error:
        raise StoreFullError(
            f"{root} can't be compacted ({error}); it is as it was: make room for the copy, then "
            "try again"
        ) from error


def finish_swap(objects: Objects) -> None:
    """Put a store in its place where its compaction was killed between the two renames."""
    if not isinstance(objects, LocalObjects) or objects.root.exists():
        return
    made, previous = beside(objects.root)
    until = time.monotonic() + PATIENCE
    while previous.exists() and not objects.root.exists():
        try:
            lock = lock_writer(objects)
        except StoreLockedError:
            # The compaction is alive and about to rename.
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
            continue
        try:
            if not objects.root.exists():
                (made if made.exists() else previous).rename(objects.root)
        finally:
            lock.release()


def clear_beside(objects: Objects) -> None:
    """Remove what a compaction that was killed left; the store's lock is held."""
    if isinstance(objects, LocalObjects):
        for path in beside(objects.root):
            _remove(path)


def beside(root: Path) -> tuple[Path, Path]:
    """Name the folders of the compacted copy and of what it replaces."""
    return root.with_name(f".{root.name}.compacted"), root.with_name(f".{root.name}.previous")


def make_room(objects: Objects, overwrite: bool) -> None:
    """Remove the store that is in the place of a new one, or refuse to."""
    names = [name for name in objects.names("") if name != REMOTE_KEY]
    whole = get_json(objects, "") is not None
    if not whole and set(names) <= {*OURS, METADATA + PARTIAL}:
        # Nothing, or a store whose making was broken off.
        for name in OURS:
            objects.delete_folder(name)
        return
    if not overwrite:
        raise StoreError(
            f"'{objects.url}' is not empty; open it with mode='a' to append, or give "
            "overwrite=True to delete what is there"
        )
    if not whole:
        raise StoreError(
            f"'{objects.url}' holds no store but {len(names)} other things, such as '{names[0]}'; "
            "expected a store to overwrite: remove it yourself, or choose another place"
        )
    if isinstance(objects, LocalObjects):
        # A new folder, so that open readers notice.
        clear_beside(objects)
        _, previous = beside(objects.root)
        objects.root.rename(previous)
        objects.forget_folders()
        rmtree(previous)
        return
    # The root first: what is left of a half-deleted store is none.
    objects.delete(METADATA)
    for name in OURS:
        objects.delete_folder(name)


def _remove(path: Path) -> None:
    if path.is_dir():
        rmtree(path)
    else:
        path.unlink(missing_ok=True)
