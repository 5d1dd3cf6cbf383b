"""What an ingest run did."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aid_robot.data.convert.prepare import PreparedEpisode
from aid_robot.data.convert.quarantine import Quarantined
from aid_robot.data.convert.sources import Source

_COLUMNS = ("source", "format", "episodes", "frames", "hours", "MB", "skipped", "quarantined")
# Kinds of notes that the table shows.
_KINDS = 12


@dataclass
class Tally:
    """What one source gave in this run."""

    episodes: int = 0
    frames: int = 0
    # Seconds of the world, of the episodes whose rate is known.
    seconds: float = 0.0
    # Of encoded images.
    bytes: int = 0
    # In the store since an earlier run.
    skipped: int = 0
    # In quarantine, since this run or an earlier one.
    quarantined: int = 0

    def add(self, prepared: PreparedEpisode) -> None:
        """Count an episode that is in the store now."""
        episode = prepared.episode
        self.episodes += 1
        self.frames += len(episode)
        self.seconds += len(episode) / episode.fps if episode.fps else 0.0
        self.bytes += prepared.size

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.episodes + other.episodes,
            self.frames + other.frames,
            self.seconds + other.seconds,
            self.bytes + other.bytes,
            self.skipped + other.skipped,
            self.quarantined + other.quarantined,
        )


@dataclass
class Report:
    """What a run did, source by source; `str` is the table."""

    # What the episodes are in.
    store: str
    tallies: dict[Source, Tally] = field(default_factory=dict)
    # Sentences of episodes and recordings that the user should know -> in how many episodes.
    notes: Counter[str] = field(default_factory=Counter)
    quarantined: list[Quarantined] = field(default_factory=list)
    # Where the quarantine is recorded.
    quarantine: Path | None = None
    # Episodes in the store at the end.
    stored: int = 0
    elapsed: float = 0.0
    # Stopped by Ctrl-C; what is missing comes with the next run.
    interrupted: bool = False

    @property
    def total(self) -> Tally:
        return sum(self.tallies.values(), Tally())

    def __str__(self) -> str:
        rows = [
            (source.name, source.format, *_cells(tally)) for source, tally in self.tallies.items()
        ]
        total = self.total
        if len(rows) > 1:
            rows.append(("total", "", *_cells(total)))
        lines = _table([_COLUMNS, *rows])
        rate = ""
        if total.episodes and self.elapsed:
            rate = (
                f": {total.episodes / self.elapsed:.1f} episodes/s, "
                f"{total.frames / self.elapsed:.0f} frames/s"
            )
        lines.append(f"{self.store}, {self.elapsed:.1f} s{rate}")
        kinds = list(group_notes(self.notes).items())
        lines += [f"note, {count} x: {text}" for text, count in kinds[:_KINDS]]
        if len(kinds) > _KINDS:
            lines.append(f"and {len(kinds) - _KINDS} rarer notes, which stand with their episodes")
        return "\n".join(lines)


def group_notes(notes: Mapping[str, int]) -> dict[str, int]:
    """Add up notes that differ in their numbers only, the most frequent first.

    Sentences that are all the same stay as they are; else "N" stands for the numbers.
    """
    kinds: dict[str, Counter[str]] = {}
    for text, count in notes.items():
        kinds.setdefault(re.sub(r"\d+(\.\d+)?", "N", text), Counter())[text] += count
    counts = {
        kind if len(texts) > 1 else next(iter(texts)): texts.total()
        for kind, texts in kinds.items()
    }
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _cells(tally: Tally) -> tuple[str, ...]:
    return (
        f"{tally.episodes:,}",
        f"{tally.frames:,}",
        f"{tally.seconds / 3600:.2f}",
        f"{tally.bytes / 1e6:,.1f}",
        f"{tally.skipped:,}",
        f"{tally.quarantined:,}",
    )


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
