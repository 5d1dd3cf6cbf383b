"""The disk cache: it saves calls, tells questions apart, and never stands in the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aid_robot.errors import ObservationError, StatePredictionError
from aid_robot.model.states import CachedStatePredictor, cache
from aid_robot.model.states.predictor import Frame

FRAME = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


class Slow:
    """A predictor that counts how often it is asked."""

    def __init__(self, identity: str = "slow", num_states: int = 4) -> None:
        self.identity = identity
        self.num_states = num_states
        self.calls = 0
        self._lock = threading.Lock()

    def __call__(self, frame: Frame, instruction: str) -> list[str]:
        with self._lock:
            self.calls += 1
        mean = float(frame.mean())
        return [f"{instruction}, {mean:.1f}, état {i}" for i in range(self.num_states)]


def _entries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_second_question_is_answered_from_disk(tmp_path: Path) -> None:
    slow = Slow()
    first = CachedStatePredictor(slow, cache_dir=tmp_path)(FRAME, "open")
    # A new process would see the same files.
    again = CachedStatePredictor(slow, cache_dir=tmp_path)(FRAME.copy(), "open")
    assert first == again == Slow()(FRAME, "open")
    assert slow.calls == 1
    (entry,) = _entries(tmp_path)
    assert len(entry.relative_to(tmp_path).parts) == 3
    assert json.loads(entry.read_text("utf-8"))["instruction"] == "open"


def test_every_part_of_the_question_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def calls(frame: Frame = FRAME, text: str = "open", **slow_options: Any) -> int:
        slow = Slow(**slow_options)
        cached = CachedStatePredictor(slow, num_states=slow.num_states, cache_dir=tmp_path)
        assert cached(frame, text) == slow(frame, text)
        return slow.calls - 1

    changed = FRAME.copy()
    changed[-1, -1, -1] ^= 1
    assert calls() == 1
    assert calls() == 0
    assert calls(frame=changed) == 1
    assert calls(frame=FRAME.reshape(6, 4, 3)) == 1  # the same bytes in another shape
    assert calls(frame=np.asfortranarray(FRAME)) == 0  # the same image in another layout
    assert calls(text="open ") == 1
    assert calls(identity="other") == 1
    assert calls(num_states=5) == 1
    monkeypatch.setattr(cache, "PROMPT_VERSION", "next")
    assert calls() == 1


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b'{"states": ["a", "b"',
        b"\xff\x00",
        b"[]",
        b'{"states": ["a", "b", "c"]}',
        b'{"states": ["a", "b", "c", 4]}',
        b'{"states": ["a", "b", "c", " "]}',
        b"[" * 100_000,
        b'{"states": "' + b"x" * 300_000 + b'"}',
    ],
    ids=lambda damage: repr(damage[:24]),
)
def test_damaged_entry_is_rewritten(tmp_path: Path, damage: bytes) -> None:
    slow = Slow()
    cached = CachedStatePredictor(slow, cache_dir=tmp_path)
    states = cached(FRAME, "open")
    (entry,) = _entries(tmp_path)
    entry.write_bytes(damage)
    assert cached(FRAME, "open") == states
    assert cached(FRAME, "open") == states
    assert slow.calls == 2


def _asks_on_without_cache(folder: Path) -> None:
    slow = Slow()
    cached = CachedStatePredictor(slow, cache_dir=folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            assert cached(FRAME, "open") == Slow()(FRAME, "open")
    assert slow.calls == 3
    assert len(caught) == 1
    assert str(folder) in str(caught[0].message)
    assert "AID_ROBOT_CACHE" in str(caught[0].message)


def test_folder_that_cannot_be_made_is_warned_of_once(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    _asks_on_without_cache(tmp_path / "taken")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
)
def test_read_only_folder_is_warned_of_once(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    _asks_on_without_cache(tmp_path)


def test_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the write itself fails."""
    program = f"""
        import resource, signal, warnings
        import numpy as np
        from aid_robot.model.states import CachedStatePredictor
        class Long:
            identity = "long"
            def __call__(self, frame, instruction):
                return ["x" * 20_000] * 4
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        cached = CachedStatePredictor(Long(), cache_dir={str(tmp_path)!r})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert len(cached(np.zeros((2, 2, 3), np.uint8), "open")) == 4
        assert "cannot write" in str(caught[0].message), caught
    """
    pytest.importorskip("resource")
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
    assert not _entries(tmp_path)


def test_threads_share_a_folder(tmp_path: Path) -> None:
    slow = Slow()
    predictors = [CachedStatePredictor(slow, cache_dir=tmp_path) for _ in range(2)]
    texts = [f"open drawer {i}" for i in range(20)]
    answers: list[list[list[str]]] = [[], []]
    start = threading.Barrier(2)

    def ask(index: int) -> None:
        start.wait()
        for text in texts:
            answers[index].append(predictors[index](FRAME, text))

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [Slow()(FRAME, text) for text in texts]
    assert answers == [expected, expected]
    calls = slow.calls
    assert [predictors[0](FRAME, text) for text in texts] == expected
    assert slow.calls == calls
    assert len(_entries(tmp_path)) == len(texts)  # and no half-written file


def test_failures_and_wrong_counts_are_not_kept(tmp_path: Path) -> None:
    class Failing(Slow):
        def __call__(self, frame: Frame, instruction: str) -> list[str]:
            raise StatePredictionError("no answer")

    with pytest.raises(StatePredictionError, match="no answer"):
        CachedStatePredictor(Failing(), cache_dir=tmp_path)(FRAME, "open")
    with pytest.raises(StatePredictionError, match="num_states"):
        CachedStatePredictor(Slow(num_states=3), cache_dir=tmp_path)(FRAME, "open")
    with pytest.raises(ObservationError):
        CachedStatePredictor(Slow(), cache_dir=tmp_path)(FRAME[0], "open")
    assert not _entries(tmp_path)


def test_default_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AID_ROBOT_CACHE", str(tmp_path))
    assert CachedStatePredictor(Slow()).cache_dir == tmp_path / "states"
    monkeypatch.delenv("AID_ROBOT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert CachedStatePredictor(Slow()).cache_dir == tmp_path / ".cache/aid_robot/states"
    assert not list(tmp_path.iterdir())  # nothing is made before there is something to keep
