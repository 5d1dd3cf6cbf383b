"""The quarantine's file, the names of sources, and the table of a report."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aid_robot.data.convert.prepare import Failure
from aid_robot.data.convert.quarantine import Quarantine
from aid_robot.data.convert.report import Report, Tally, group_notes
from aid_robot.data.convert.sources import Source, find_sources
from aid_robot.data.video import write_video
from tests.recordings import plain_frames

SOURCE = Source("lab", Path("/data/lab"), "irasim")


@settings(max_examples=60, deadline=None)
@given(
    failures=st.dictionaries(st.text(min_size=1), st.tuples(st.text(), st.text()), max_size=5),
    rubbish=st.one_of(
        st.binary(max_size=40),
        st.sampled_from([b"[" * 100_000, b'{"id": 3}', b"null", b'{"id": "a", "index": true}']),
    ),
)
def test_quarantine_is_read_back_whatever_stands_after_it(
    tmp_path_factory: pytest.TempPathFactory,
    failures: dict[str, tuple[str, str]],
    rubbish: bytes,
) -> None:
    path = tmp_path_factory.mktemp("quarantine") / "q.jsonl"
    written = Quarantine(path, ())
    for index, (id, failure) in enumerate(failures.items()):
        written.add(SOURCE, index, id, Failure(*failure))
    with path.open("ab") as file:
        file.write(rubbish)
    read = {entry.id: entry for entry in Quarantine(path, ())}
    assert read == {entry.id: entry for entry in written}
    assert {id: (e.error, e.message) for id, e in read.items()} == failures


def test_episode_leaves_the_quarantine_by_being_stored(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    quarantine = Quarantine(path, ())
    for index, id in enumerate(("a", "b")):
        quarantine.add(SOURCE, index, id, Failure("DataFormatError", "bad"))
    quarantine.close()
    later = Quarantine(path, {"a"})
    assert "a" not in later
    assert "b" in later
    later.close()
    assert [entry.id for entry in Quarantine(path, ())] == ["b"]
    Quarantine(path, {"a", "b"}).close()
    assert not path.exists()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("bridge_dataset/1.0.0/x.mp4", "x"),
        ("bridge_dataset/1.0.0/", "bridge_dataset"),
        ("demos/index.csv", "demos"),
        ("my demos (2)/", "my-demos-2-"),
        ("run.2024/", "run.2024"),
        ("old.zarr/", "old"),
    ],
)
def test_source_is_called_as_its_folder_is(tmp_path: Path, path: str, name: str) -> None:
    folder = tmp_path / (path if path.endswith("/") else Path(path).parent)
    folder.mkdir(parents=True)
    write_video(folder / "x.mp4", plain_frames([40]), 5)
    (folder / "index.csv").write_text("file,instruction\nx.mp4,open it\n")
    (source,) = find_sources([str(tmp_path / path)])
    assert source.name == name
    (named,) = find_sources([f"other={tmp_path / path}"])
    assert named.name == "other"
    assert named.path == source.path


def test_path_with_an_equals_sign_is_a_path(tmp_path: Path) -> None:
    write_video(tmp_path / "a=b.mp4", plain_frames([40]), 5)
    (source,) = find_sources([str(tmp_path / "a=b.mp4")])
    assert source.name == "a-b"


def test_notes_that_differ_in_numbers_are_one_kind() -> None:
    notes = {
        "7 actions for 8 frames": 2,
        "9 actions for 10 frames": 3,
        "camera image_3 is black": 4,
        "no state": 1,
    }
    assert group_notes(notes) == {
        "N actions for N frames": 5,
        "camera image_3 is black": 4,
        "no state": 1,
    }


def test_table_adds_up(tmp_path: Path) -> None:
    report = Report("s.zarr", elapsed=2.0)
    report.tallies[SOURCE] = Tally(10, 1000, 7200.0, 5_000_000, 3, 1)
    report.tallies[Source("b", tmp_path, "rlds")] = Tally(2, 200, 1800.0, 1_500_000)
    report.notes.update({f"{'x' * number}": 1 for number in range(1, 30)})
    lines = str(report).splitlines()
    assert lines[1].split() == ["lab", "irasim", "10", "1,000", "2.00", "5.0", "3", "1"]
    assert lines[3].split() == ["total", "12", "1,200", "2.50", "6.5", "3", "1"]
    assert lines[4] == "s.zarr, 2.0 s: 6.0 episodes/s, 600 frames/s"
    # A long list of rare notes does not push the table off the screen.
    assert len(lines) < 20
    assert re.match(r"and \d+ rarer notes", lines[-1])
