"""The episodes that an ingest run had to leave out, and why."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from aid_robot.data.convert.prepare import Failure
from aid_robot.data.convert.sources import Source


@dataclass(frozen=True)
class Quarantined:
    """An episode that is not in the store."""

    # As it would be called in the store.
    id: str
    source: str
    format: str
    index: int
    # Class of the error.
    error: str
    message: str
    # UTC, ISO 8601.
    time: str


class Quarantine:
    """The record of them: a file with a JSON object a line, the last line of an id counts.

    An episode leaves it by being in the store.
    """

    def __init__(self, path: Path, stored: Container[str]) -> None:
        self.path = path
        self._entries = {entry.id: entry for entry in _read(path) if entry.id not in stored}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, id: object) -> bool:
        return id in self._entries

    def __iter__(self) -> Iterator[Quarantined]:
        return iter(self._entries.values())

    def add(self, source: Source, index: int, id: str, failure: Failure) -> Quarantined:
        """Record an episode, at once."""
        time = datetime.now(UTC).isoformat(timespec="seconds")
        entry = Quarantined(
            id, str(source.path), source.format, index, failure.kind, failure.message, time
        )
        self._entries[id] = entry
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(entry)) + "\n")
        return entry

    def release(self, id: str) -> None:
        """Strike an episode out; `close` removes its line."""
        self._entries.pop(id, None)

    def close(self) -> None:
        """Drop the lines of what is no longer in it, and the file with the last one."""
        if not self._entries:
            self.path.unlink(missing_ok=True)
        elif len(self._entries) < sum(1 for _ in _read(self.path)):
            unfinished = self.path.with_suffix(".part")
            lines = [json.dumps(asdict(entry)) + "\n" for entry in self]
            unfinished.write_text("".join(lines), encoding="utf-8")
            unfinished.replace(self.path)


def _read(path: Path) -> Iterator[Quarantined]:
    if not path.is_file():
        return
    types = {field.name: int if field.name == "index" else str for field in fields(Quarantined)}
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                content = json.loads(line)
            except (ValueError, RecursionError):
                # The run was killed while it wrote this line; the episode is tried again.
                continue
            kinds = isinstance(content, dict) and {key: type(content[key]) for key in content}
            if kinds == types:
                yield Quarantined(**content)
