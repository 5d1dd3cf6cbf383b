"""A disk cache in front of a slow state predictor: one small JSON file for each question."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import uuid
import warnings
from pathlib import Path

import numpy as np

from aid_robot.model.states.predictor import (
    Frame,
    StatePredictor,
    check_inputs,
    check_num_states,
    check_states,
    is_states,
)
from aid_robot.model.states.prompt import PROMPT_VERSION

# Far above any real entry: a larger file is not ours and is not read into memory.
_MAX_ENTRY_BYTES = 256 * 1024


def default_cache_dir() -> Path:
    """Return `$AID_ROBOT_CACHE/states`, else `~/.cache/aid_robot/states`."""
    root = os.environ.get("AID_ROBOT_CACHE")
    return (Path(root) if root else Path("~/.cache/aid_robot")).expanduser() / "states"


def cache_key(frame: Frame, instruction: str, identity: str, num_states: int) -> str:
    """Return the SHA-256 (hex) of everything that decides an answer."""
    question = [list(frame.shape), instruction, identity, PROMPT_VERSION, num_states]
    digest = hashlib.sha256(json.dumps(question).encode())
    digest.update(np.ascontiguousarray(frame).data)
    return digest.hexdigest()


class CachedStatePredictor:
    """Answer from disk where the same question was answered before, else ask `predictor`.

    Threads and processes may share a folder: entries appear whole or not at all. A damaged entry is
    asked for again and rewritten; a folder that can't be read or written is warned of once, and
    every question goes to `predictor`. A predictor that raises leaves no entry.
    """

    def __init__(
        self,
        predictor: StatePredictor,
        *,
        num_states: int = 4,
        cache_dir: str | Path | None = None,
    ) -> None:
        self.predictor = predictor
        self.num_states = check_num_states(num_states)
        self.cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()
        self._warned = False
        self._lock = threading.Lock()

    @property
    def identity(self) -> str:
        """Name the predictor behind the cache."""
        return self.predictor.identity

    def __call__(self, frame: Frame, instruction: str) -> list[str]:
        check_inputs(frame, instruction)
        key = cache_key(frame, instruction, self.identity, self.num_states)
        path = self.cache_dir / key[:2] / key[2:4] / f"{key}.json"
        states = self._read(path)
        if states is None:
            answer = self.predictor(frame, instruction)
            states = check_states(answer, self.num_states, self.identity)
            self._write(path, instruction, states)
        return states

    def _read(self, path: Path) -> list[str] | None:
        """Return an entry's states, or None where there is no whole entry."""
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_ENTRY_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn_once("read", error)
            return None
        if len(data) > _MAX_ENTRY_BYTES:
            return None
        try:
            entry = json.loads(data)
        except (ValueError, RecursionError):
            return None
        states = entry.get("states") if isinstance(entry, dict) else None
        return states if is_states(states, self.num_states) else None

    def _write(self, path: Path, instruction: str, states: list[str]) -> None:
        """Write an entry beside its place and move it there, so that no reader sees half of it."""
        # The last three are for a person who looks into the folder; the key already holds them.
        entry = {
            "states": states,
            "instruction": instruction,
            "predictor": self.identity,
            "prompt_version": PROMPT_VERSION,
        }
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                part.write_text(json.dumps(entry, indent=1), encoding="utf-8")
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            self._warn_once("write", error)

    def _warn_once(self, action: str, error: OSError) -> None:
        with self._lock:
            if self._warned:
                return
            self._warned = True
        warnings.warn(
            f"cannot {action} the state cache in '{self.cache_dir}' ({error}); going on without "
            "it, so every clip asks the model again: free its disk, mend its permissions, or set "
            "AID_ROBOT_CACHE to another folder",
            RuntimeWarning,
            stacklevel=4,
        )
