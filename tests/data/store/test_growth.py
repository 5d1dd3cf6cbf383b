"""Any history of a store leaves the episodes that it should hold."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aid_robot.data.episode import Episode
from aid_robot.data.store import EpisodeStore, layout
from aid_robot.errors import StoreError
from tests.data.store.episodes import assert_no_remains, assert_same, episode_of

CAMERAS = st.sampled_from([("a",), ("b",), ("a", "b"), ("c", "a")])
ARRAYS = st.sampled_from([(), ("x",), ("y", "x")])


class History(RuleBasedStateMachine):
    """Write, fail, crash, drop and compact in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "s.zarr"
        self.store = EpisodeStore.create(self.path, codec="png", shard_frames=3)
        self.expected: list[Episode] = []
        self.made = 0
        self.readers: list[tuple[EpisodeStore, list[Episode]]] = []

    def teardown(self) -> None:
        self.store.close()
        assert_no_remains(self.path)
        shutil.rmtree(self.folder)

    def new(self, length: int, cameras: tuple[str, ...], arrays: tuple[str, ...]) -> Episode:
        self.made += 1
        return episode_of(
            self.made, length, cameras=cameras, arrays=arrays, action=self.made % 3 > 0, size=(2, 4)
        )

    @rule(length=st.integers(1, 12), cameras=CAMERAS, arrays=ARRAYS)
    def append(self, length: int, cameras: tuple[str, ...], arrays: tuple[str, ...]) -> None:
        episode = self.new(length, cameras, arrays)
        assert self.store.append(episode) == len(self.expected)
        self.expected.append(episode)

    @rule(lengths=st.lists(st.integers(1, 9), max_size=4), cameras=CAMERAS, arrays=ARRAYS,
          bad=st.integers(0, 4))  # fmt: skip
    def group(
        self, lengths: list[int], cameras: tuple[str, ...], arrays: tuple[str, ...], bad: int
    ) -> None:
        with self.store.group():
            for place, length in enumerate(lengths):
                if place == bad:
                    self.fail(length, cameras)
                episode = self.new(length, cameras, arrays)
                self.store.append(episode)
                self.expected.append(episode)

    @rule(length=st.integers(1, 12), cameras=CAMERAS)
    def fail(self, length: int, cameras: tuple[str, ...]) -> None:
        episode = self.new(length, cameras, ("x",))
        wrong = {"x": np.zeros((length, 99), np.int32)} if self.expected else {"x": np.array([""])}
        if not self.expected or "x" not in self.store.keys:
            wrong = {"x": np.array([""] * length)}
        with pytest.raises(StoreError, match="'x'"):
            self.store.append(Episode(**{**episode.__dict__, "arrays": wrong}))

    @rule(length=st.integers(1, 12), cameras=CAMERAS, arrays=ARRAYS, stop=st.booleans())
    def record(
        self, length: int, cameras: tuple[str, ...], arrays: tuple[str, ...], stop: bool
    ) -> None:
        episode = self.new(length, cameras, arrays)
        try:
            with self.store.record(
                id=episode.id, instruction=episode.instruction, fps=episode.fps
            ) as writer:
                for place in range(length):
                    action = None if episode.actions is None else episode.actions[place]
                    rows = {key: rows[place] for key, rows in episode.arrays.items()}
                    frames = {camera: video[place] for camera, video in episode.videos.items()}
                    writer.add(frames, action, **rows)
                if stop:
                    raise RuntimeError("the robot fell over")
        except RuntimeError:
            assert episode.id not in self.store
        else:
            self.expected.append(episode)

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.expected) - 1))
        self.store.drop([number])
        del self.expected[number]

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), scene=st.text(max_size=3))
    def annotate(self, data: st.DataObject, scene: str) -> None:
        number = data.draw(st.integers(0, len(self.expected) - 1))
        self.store.annotate(number, scene=scene)
        changed = Episode(**{**self.expected[number].__dict__, "scene": scene})
        # Seen at once by readers that haven't read the record yet, so those don't look.
        self.readers.clear()
        self.expected[number] = changed

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = EpisodeStore.open(self.path, "a")

    @rule(length=st.integers(1, 12), cameras=CAMERAS, arrays=ARRAYS)
    def crash(self, length: int, cameras: tuple[str, ...], arrays: tuple[str, ...]) -> None:
        writer = self.store.record(id="lost", instruction="never mind").__enter__()
        episode = self.new(length, cameras, arrays)
        for place in range(length):
            rows = {key: rows[place] for key, rows in episode.arrays.items()}
            writer.add({name: video[place] for name, video in episode.videos.items()}, **rows)
        assert self.store._lock is not None
        self.store._lock.release()
        self.store._writer = None
        self.store = EpisodeStore.open(self.path, "a")

    @rule()
    def compact(self) -> None:
        self.store.compact()
        for reader, episodes in self.readers:
            if episodes:
                with pytest.raises(StoreError, match="compacted or replaced"):
                    reader[0].frames[0]
        self.readers.clear()

    @rule()
    def look(self) -> None:
        self.readers.append((EpisodeStore.open(self.path), list(self.expected)))

    @invariant()
    def holds_what_it_should(self) -> None:
        for store, episodes in (
            (self.store, self.expected),
            (EpisodeStore.open(self.path), self.expected),
            *self.readers[-2:],
        ):
            assert list(store.ids) == [episode.id for episode in episodes]
            for found, episode in zip(store, episodes, strict=True):
                assert_same(found, episode)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few rows fill chunks and shards."""
    monkeypatch.setattr(layout, "CHUNK_BYTES", 64)
    monkeypatch.setattr(layout, "CHUNKS_PER_SHARD", 2)


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)


def test_records_and_ends_cross_their_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aid_robot.data.store import records, snapshot

    monkeypatch.setattr(records, "CHUNK", 4)
    monkeypatch.setattr("aid_robot.data.store.writer.CHUNK", 4)
    monkeypatch.setattr(snapshot, "ENDS_CHUNK", 3)
    expected = [episode_of(seed, 1 + seed % 3, size=(2, 4)) for seed in range(19)]
    path = tmp_path / "s.zarr"
    with EpisodeStore.create(path, codec="png") as store:
        store.append(expected[0])
        store.extend(expected[1:4])
    for group in (expected[4:5], expected[5:13], expected[13:]):
        with EpisodeStore.open(path, "a") as store:
            store.extend(group)
    store = EpisodeStore.open(path)
    for found, episode in zip(store, expected, strict=True):
        assert_same(found, episode)
    assert store.verify() == []
