"""The folder of an evaluation: its plan, a line a clip, pictures, figures, and the report.

    plan.json      what is evaluated, and how; another plan is refused
    clips.jsonl    a verdict a line, appended as tasks end
    strips/        a picture a clip
    results.json   figures with their blocks
    report.html    all of it, to look at

A task's lines are written at once, after its pictures, and a torn last line is dropped, so that a
run may be killed at any time and goes on with the clips that are left.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aid_robot.errors import ConfigError, DataFormatError
from aid_robot.evaluation.protocols import digest

if TYPE_CHECKING:
    from aid_robot.evaluation.judge import Judged, Verdict

PLAN = "plan.json"
CLIPS = "clips.jsonl"
STRIPS = "strips"
RESULTS = "results.json"
REPORT = "report.html"


class RunFolder:
    """Where an evaluation keeps what it has done."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Open a folder that an evaluation has worked in."""
        folder = cls(path)
        if not (folder.path / PLAN).is_file():
            raise ConfigError(
                f"there is no evaluation in '{folder.path}' (no {PLAN}); expected a folder that "
                "`aid-robot eval run -o` wrote"
            )
        return folder

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Begin, or go on with the same plan; refuse another one."""
        plain = json.loads(json.dumps(plan))
        path = self.path / PLAN
        if path.exists():
            old = self.plan()
            changed = [name for name in {**old, **plain} if old.get(name) != plain.get(name)]
            if changed:
                raise ConfigError(
                    f"'{self.path}' holds an evaluation with other {' and '.join(changed)}: "
                    f"{_difference(old, plain, changed[0])}; choose another folder, or remove it"
                )
            self._drop_torn()
            return
        (self.path / STRIPS).mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(plain, indent=1) + "\n")

    def plan(self) -> dict[str, Any]:
        """Read the plan."""
        return _read_json(self.path / PLAN)

    def results(self) -> dict[str, Any]:
        """Read the figures."""
        path = self.path / RESULTS
        if not path.is_file():
            raise ConfigError(
                f"the evaluation in '{self.path}' has not ended (no {RESULTS}): run the same "
                "`aid-robot eval run` again to go on"
            )
        return _read_json(path)

    def append(self, judged: Iterable[Judged]) -> None:
        """Keep the verdicts of a task."""
        lines = []
        for item in judged:
            if item.strip is not None:
                write_whole(self.strip(item.verdict["clip"]), item.strip)
            lines.append(json.dumps(item.verdict, allow_nan=False))
        with (self.path / CLIPS).open("ab", buffering=0) as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
            os.fsync(file.fileno())

    def strip(self, clip: str) -> Path:
        """Say where a clip's picture lies."""
        return self.path / STRIPS / f"{digest(clip)}.jpg"

    def verdicts(self) -> Iterator[Verdict]:
        """Read the verdicts, one at a time."""
        path = self.path / CLIPS
        if not path.exists():
            return
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith("\n"):
                    return
                try:
                    verdict = json.loads(line)
                    verdict["clip"]
                except (ValueError, KeyError, TypeError) as error:
                    raise DataFormatError(
                        f"line {number} of {path} is damaged ({error}): remove the line, and run "
                        "the evaluation again to judge its clip anew"
                    ) from error
                yield verdict

    def done(self) -> set[str]:
        """Name the clips that were judged; one that could not be read is tried again."""
        last = {verdict["clip"]: "error" not in verdict for verdict in self.verdicts()}
        return {clip for clip, judged in last.items() if judged}

    def _drop_torn(self) -> None:
        """Cut off a last line that a kill left unfinished."""
        path = self.path / CLIPS
        if not path.exists():
            return
        with path.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            keep = end
            while keep:
                start = max(0, keep - 65536)
                file.seek(start)
                block = file.read(keep - start)
                at = block.rfind(b"\n")
                if at >= 0:
                    keep = start + at + 1
                    break
                keep = start
            if keep < end:
                file.truncate(keep)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write under a temporary name beside `path`, then rename, so that no half file is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    data = content.encode() if isinstance(content, str) else content
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataFormatError(f"{path} can't be read ({error}): restore it") from error
    return content


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], name: str) -> str:
    ours, theirs = old.get(name), new.get(name)
    if isinstance(ours, dict) and isinstance(theirs, dict):
        inner = next(k for k in {**ours, **theirs} if ours.get(k) != theirs.get(k))
        return f"{name}.{inner} was {ours.get(inner)!r} and is {theirs.get(inner)!r}"
    return f"{name} was {ours!r} and is {theirs!r}"
