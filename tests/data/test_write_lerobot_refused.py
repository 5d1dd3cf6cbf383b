"""What LeRobot can't hold is refused, and nothing is left of an export that fails."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aid_robot.data import ArrayFrames, Episode, open_recording
from aid_robot.data.writers import write_lerobot
from aid_robot.data.writers.folder import safe_name
from aid_robot.errors import ConfigError, DataFormatError, FrameRateError, StoreFullError
from tests.data.mixed_episodes import episode


@given(names=st.lists(st.text(max_size=150), max_size=6, unique=True))
def test_names_of_files_are_plain_and_differ(names: list[str]) -> None:
    taken: list[str] = []
    for name in names:
        taken.append(safe_name(name, taken))
    assert len(set(taken)) == len(names)
    assert all(name == Path(name).name and len(name) < 120 and name[0] != "." for name in taken)


def refusals() -> Iterator[tuple[list[Episode], dict[str, Any], type[Exception], str]]:
    one = episode(0, 0, 3)
    other = replace(one, id="other")
    small = ArrayFrames(np.zeros((3, 24, 32, 3), np.uint8))
    yield [], {}, DataFormatError, "no episodes"
    yield [one, one], {}, DataFormatError, "an id that no other episode has"
    yield [replace(one, fps=None)], {}, FrameRateError, "say so by fps="
    yield [one, replace(other, fps=10.0)], {}, FrameRateError, "at 10 frames a second, not at 5"
    yield [one], {"fps": 30}, FrameRateError, "at 5 frames a second, not at 30"
    yield [one], {"fps": 0}, FrameRateError, "fps is 0"
    yield [one], {"codec": "vp9"}, ConfigError, "no codec 'vp9'"
    yield [one], {"crf": 52}, ConfigError, "0 .best. to 51"
    sized = replace(other, videos={"image_0": small})
    yield [one, sized], {}, DataFormatError, "32x24 from camera image_0, others have 64x48"
    for rows, message in (
        (np.array(["a"] * 3), "LeRobot holds numbers"),
        (np.zeros((3, 0)), "LeRobot holds numbers"),
        (np.zeros((3, 1, 1, 1, 1, 1, 1)), "up to 5 axes"),
    ):
        yield [replace(one, arrays={"x": rows})], {}, DataFormatError, message
    first, second = (replace(e, arrays={"x": np.zeros((3, n))}) for e, n in ((one, 2), (other, 3)))
    yield [first, second], {}, DataFormatError, r"'x' of shape \(3,\)"
    yield [replace(one, info={"x": {1, 2}})], {}, DataFormatError, "can't be written as JSON"
    yield [replace(one, info={"x": float("nan")})], {}, DataFormatError, "can't be written as JSON"


@pytest.mark.parametrize(("episodes", "options", "error", "message"), list(refusals()))
def test_what_lerobot_cannot_hold_is_refused(
    tmp_path: Path, episodes: list[Episode], options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        write_lerobot(episodes, tmp_path / "set", progress=False, **options)
    assert list(tmp_path.iterdir()) == []


def test_folders_are_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken() -> Iterator[Episode]:
        yield episode(0, 0, 3)
        raise DataFormatError("the second is damaged")

    with pytest.raises(DataFormatError, match="the second is damaged"):
        write_lerobot(broken(), tmp_path / "set", progress=False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "set").mkdir()
    write_lerobot([episode(0, 0, 3)], tmp_path / "set", progress=False)
    with pytest.raises(DataFormatError, match="is there already"):
        write_lerobot([episode(0, 0, 3)], tmp_path / "set", progress=False)
    with pytest.raises(DataFormatError, match="there is no folder"):
        write_lerobot([episode(0, 0, 3)], tmp_path / "none" / "set", progress=False)
    assert len(open_recording(tmp_path / "set")) == 1


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    def full() -> Iterator[Episode]:
        yield episode(0, 0, 3)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreFullError, match="nothing was written"):
        write_lerobot(full(), tmp_path / "set", progress=False)
    assert list(tmp_path.iterdir()) == []
