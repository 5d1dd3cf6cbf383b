"""Folders that are there whole or not at all, and names that are safe in them."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from aid_robot.errors import DataFormatError, StoreFullError


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to write to, which becomes `folder` only once all is written."""
    if not folder.parent.is_dir():
        raise DataFormatError(
            f"'{folder}' can't be written: there is no folder '{folder.parent}'; make it first"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataFormatError(
            f"'{folder}' is there already and not an empty folder; choose another place, or "
            "remove it first"
        )
    # A run that is killed leaves it behind, under a name that says what it is.
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    unfinished.mkdir()
    try:
        yield unfinished
        if folder.exists():
            folder.rmdir()
        unfinished.replace(folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StoreFullError(
            f"the disk of '{folder}' is full ({error}), so nothing was written there: free space "
            "or choose another disk, and export again"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def safe_name(name: str, taken: Container[str]) -> str:
    """Make a name fit for a file out of any text: one that isn't taken yet."""
    # Not more than file systems bear, in the bytes that a letter may take.
    plain = re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII).lstrip(".")[:100] or "unnamed"
    candidate, number = plain, 2
    while candidate in taken:
        candidate, number = f"{plain}_{number}", number + 1
    return candidate
