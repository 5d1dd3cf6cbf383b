"""Look over a whole store: what is in it, and whether it is sound."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from aid_robot.data.store.columns import ShardedColumn
from aid_robot.data.store.objects import LocalObjects, Objects
from aid_robot.errors import AIDRobotError

if TYPE_CHECKING:
    from aid_robot.data.store.reader import StoreReader
    from aid_robot.data.store.records import EpisodeRecord

# Frames that are decoded at once.
BATCH = 64


@dataclass(frozen=True)
class Problem:
    """Something in a store that is not as it should be."""

    # None where it concerns the whole store.
    episode: str | None
    # The camera or array; None where it concerns the record.
    key: str | None
    message: str

    def __str__(self) -> str:
        where = " ".join(
            part for part in (self.episode and f"episode '{self.episode}'", self.key) if part
        )
        return f"{where}: {self.message}" if where else self.message


class StoreInfo(dict[str, Any]):
    """Counts of a store; prints as a table."""

    def __str__(self) -> str:
        width = max(len(name) for name in self)
        return "\n".join(f"{name:<{width}}  {_shown(value)}" for name, value in self.items())


def describe(store: StoreReader) -> StoreInfo:
    """Count what is in a store."""
    outcomes: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    rates: Counter[str] = Counter()
    seconds, mute = 0.0, 0
    for record in store.records:
        outcomes[record.outcome or "unknown"] += 1
        sources[record.source.split("#")[0] or "unknown"] += 1
        rates["unknown" if record.fps is None else f"{record.fps:g}"] += 1
        seconds += record.length / record.fps if record.fps else 0
        mute += not record.instructions
    lengths = store.lengths
    return StoreInfo(
        store=store.url,
        episodes=len(store),
        frames=int(lengths.sum()),
        hours=round(seconds / 3600, 3),
        lengths={
            "shortest": int(lengths.min()) if len(lengths) else 0,
            "median": float(np.median(lengths)) if len(lengths) else 0,
            "longest": int(lengths.max()) if len(lengths) else 0,
        },
        cameras={name: f"{size[1]}x{size[0]}" for name, size in store.cameras.items()},
        keys=[key for key in store.keys if key not in store.cameras],
        cached=dict(store.cached),
        fps=dict(rates),
        outcomes=dict(outcomes),
        without_instruction=mute,
        sources=dict(sources.most_common(10)),
        bytes=_bytes(store.objects),
    )


def verify(store: StoreReader, deep: bool) -> list[Problem]:
    """Look for damage; `deep` decodes everything."""
    problems: list[Problem] = []
    seen: set[str] = set()
    for index in tqdm(range(len(store)), desc="verify", unit="episode", disable=None):
        try:
            record = store.records[index]
        except AIDRobotError as error:
            problems.append(Problem(None, None, f"episode number {index}: {error}"))
            continue
        if record.id in seen:
            problems.append(Problem(record.id, None, "its id is that of an episode before"))
        seen.add(record.id)
        if not record.cameras:
            problems.append(Problem(record.id, None, "it has no camera"))
        for key in (*record.cameras, *record.keys):
            try:
                message = _look(store, record, index, key, deep)
            except AIDRobotError as error:
                message = str(error)
            if message:
                problems.append(Problem(record.id, key, message))
    return problems


def _look(
    store: StoreReader, record: EpisodeRecord, index: int, key: str, deep: bool
) -> str | None:
    column = store.column(key)
    if column.is_camera != (key in record.cameras):
        return "it is a camera in one place and an array in the other"
    if isinstance(column, ShardedColumn):
        start = store.start(index)
        size = column.layout.chunk_rows
        chunks = range(start // size, (start + record.length - 1) // size + 1)
        missing = sum(not there for there in column.has(chunks))
        if missing:
            return f"{missing} of {len(chunks)} pieces are missing: restore the store from a copy"
    if deep:
        for first in range(0, record.length, BATCH):
            store.read(index, [key], first, first + BATCH)
    return None


def _bytes(objects: Objects) -> int | None:
    """Size on disk; None for a remote store, where it would take a request an object."""
    if not isinstance(objects, LocalObjects):
        return None
    return sum(path.stat().st_size for path in objects.root.rglob("*") if path.is_file())


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_shown(part)}" for name, part in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
