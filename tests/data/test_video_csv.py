"""Videos are read alone, in folders and by either kind of index."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aid_robot.data import open_recording, write_video
from aid_robot.errors import DataFormatError, TruncatedFileError
from tests.data.numbered_frames import number_of, numbered_frames

DEMOS = "file,instruction,frames,width,height,outcome\n"
ROLLOUTS = "file,task,policy,outcome,frames,width,height\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three videos, one of them in a folder of its own."""
    (tmp_path / "beans").mkdir()
    for count, name in ((3, "2.mp4"), (4, "10.mp4"), (5, "beans/act.mp4")):
        write_video(tmp_path / name, numbered_frames(count), 15)
    return tmp_path


def index(folder: Path, text: str) -> Path:
    (folder / "index.csv").write_text(text, encoding="utf-8")
    return folder


def test_demos_have_instructions_and_bridge_rate(folder: Path) -> None:
    rows = "2.mp4,put it on the plate,3,64,48,demo\n10.mp4,,4,64,48,demo\n"
    recording = open_recording(index(folder, DEMOS + rows))
    assert recording.format == "video_csv"
    assert recording.ids == ["2", "10"]
    told, blank = recording
    assert told.instruction == "put it on the plate"
    assert (told.outcome, told.fps) == ("demo", 5)
    assert any("plays at 15" in note for note in told.notes)
    assert [number_of(frame) for frame in told.frames] == [0, 1, 2]
    assert told.actions is None
    assert blank.instruction is None
    assert "no instruction" in blank.notes


def test_rollouts_have_outcomes_and_no_rate(folder: Path) -> None:
    rows = "beans/act.mp4,beans,act,fail,5,64,48\n2.mp4,beans,rt1,success,3,64,48\n"
    failed, done = open_recording(index(folder, ROLLOUTS + rows))
    assert failed.id == "beans/act"
    assert (failed.outcome, done.outcome) == ("failure", "success")
    assert failed.fps is None
    assert failed.instruction is None
    assert "task beans, policy act" in failed.notes
    assert open_recording(folder, fps=5)[0].fps == 5


def test_index_may_be_short_quoted_and_say_the_rate(folder: Path) -> None:
    text = '\ufefffile, instruction, fps\n2.mp4, "lift, then place", 12.5\n10.mp4,push,\n'
    first, second = open_recording(index(folder, text))
    assert first.instruction == "lift, then place"
    assert (first.fps, second.fps) == (12.5, 5)
    assert first.outcome is None


def test_difference_between_index_and_file_is_noted(folder: Path) -> None:
    episode = open_recording(index(folder, DEMOS + "2.mp4,push,9,64,48,demo\n"))[0]
    assert len(episode) == 3
    assert "the index says frames 9, the file has 3" in episode.notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,instruction\n2.mp4,push\n", "no column 'file', but path, instruction"),
        ("file,instructions\n2.mp4,push\n", "no column 'instruction' or 'task'"),
        ("", "no column 'file', but none"),
        (DEMOS, "no episodes"),
        (DEMOS + "2.mp4,push\n", "line 2 has not one value a column"),
        (DEMOS + "2.mp4,lift, place,3,64,48,demo\n", "line 2 has not one value a column"),
        (DEMOS + "../2.mp4,push,3,64,48,demo\n", "leads out"),
        (DEMOS + "/2.mp4,push,3,64,48,demo\n", "leads out"),
        (DEMOS + ",push,3,64,48,demo\n", "expected a path"),
        (DEMOS + "2.mp4,push,3,64,48,demo\n" * 2, "line 2 both describe '2'"),
        (DEMOS + "absent.mp4,push,3,64,48,demo\n", "absent.mp4, which is not there"),
        (DEMOS + "2.mp4,push,3,64,48,won\n", "outcome 'won'"),
        (DEMOS + "2.mp4,push,many,64,48,demo\n", "frames 'many'"),
        ("file,instruction,fps\n2.mp4,push,fast\n", "fps 'fast'"),
        ("file,instruction,fps\n2.mp4,push,inf\n", "fps 'inf'"),
    ],
)
def test_malformed_index_is_refused(folder: Path, text: str, message: str) -> None:
    with pytest.raises(DataFormatError, match=message):
        list(open_recording(index(folder, text)))


def test_index_in_another_encoding_is_refused(folder: Path) -> None:
    (folder / "index.csv").write_bytes(DEMOS.encode() + b"2.mp4,po\xeale,3,64,48,demo\n")
    with pytest.raises(DataFormatError, match="UTF-8"):
        open_recording(folder)


@given(text=st.text(alphabet='file,instruct\n"2.mp4 \0\r', max_size=60), row=st.text(max_size=30))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_index_is_read_or_refused(folder: Path, text: str, row: str) -> None:
    for content in (text, DEMOS + row):
        with contextlib.suppress(DataFormatError, UnicodeEncodeError):
            list(open_recording(index(folder, content)))


def test_bare_videos_are_episodes_without_instruction(folder: Path) -> None:
    recording = open_recording(folder)
    assert recording.ids == ["2", "10"]
    assert all(episode.instruction is None for episode in recording)
    assert recording["10"].fps == 15
    alone = open_recording(folder / "beans" / "act.mp4")
    assert len(alone) == 1
    assert len(alone["act"]) == 5


def test_truncated_video_does_not_hide_the_others(folder: Path) -> None:
    content = (folder / "2.mp4").read_bytes()
    (folder / "2.mp4").write_bytes(content[: len(content) // 2])
    recording = open_recording(folder)
    with pytest.raises(TruncatedFileError, match=r"2\.mp4"):
        recording["2"]
    assert len(recording["10"]) == 4


def test_folder_without_videos_is_no_recording(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="no recording of a known format"):
        open_recording(tmp_path)
    with pytest.raises(DataFormatError, match="no episodes"):
        open_recording(tmp_path, "video_csv")
