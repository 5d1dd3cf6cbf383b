"""Episodes that are written while they happen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from aid_robot.data.store import EpisodeStore
from aid_robot.errors import StoreError
from tests.data.store.episodes import SIZE, episode_of, frames_of


def test_a_recording_is_committed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    frames = frames_of(1, 9)
    with EpisodeStore.create(path, codec="png", shard_frames=4) as store:
        with store.record(id="a", instruction=["lift it", "pick it up"], fps=5) as episode:
            for place, frame in enumerate(frames):
                episode.add({"image_0": frame}, np.full(7, place), state=[place] * 7, force=place)
                assert len(EpisodeStore.open(path)) == 0
            episode.note(outcome="success", info={"tries": 2})
            assert len(episode) == 9
        found = EpisodeStore.open(path)["a"]
    np.testing.assert_array_equal(found.frames[:], frames)
    assert found.actions is not None
    assert found.state is not None
    np.testing.assert_array_equal(found.actions[:, 3], np.arange(9))
    np.testing.assert_array_equal(found.state[:, 0], np.arange(9))
    np.testing.assert_array_equal(found.arrays["force"], np.arange(9))
    assert found.instructions == ("lift it", "pick it up")
    assert (found.fps, found.outcome, found.info) == (5.0, "success", {"tries": 2})


def test_a_cameras_jpegs_are_kept(tmp_path: Path) -> None:
    jpegs = [simplejpeg.encode_jpeg(frame, 90) for frame in frames_of(1, 3)]
    with EpisodeStore.create(tmp_path / "s.zarr") as store:
        with store.record(id="a") as episode:
            for jpeg in jpegs:
                episode.add({"image_0": jpeg})
        assert [store["a"].frames.encoded(i) for i in range(3)] == jpegs


def test_the_last_frame_needs_no_action(tmp_path: Path) -> None:
    with EpisodeStore.create(tmp_path / "s.zarr") as store:
        with store.record(id="a") as episode:
            episode.add({"image_0": frames_of(1, 1)[0]}, action=np.ones(7))
            episode.add({"image_0": frames_of(2, 1)[0]})
        found = store["a"]
    assert found.actions is not None
    assert found.actions.tolist() == [[1] * 7, [0, 0, 0, 0, 0, 0, 1]]
    assert "the last frame has no action of its own" in found.notes[0]


FRAME = frames_of(1, 1)[0]
STILL = np.zeros(7)


@pytest.mark.parametrize(
    ("moments", "match"),
    [
        ([((({"image_0": FRAME}),), {}), (({"wrist": FRAME},), {})], r"frame 1 .*\['wrist'\]"),
        ([(({},), {})], "the first frame shows no camera"),
        ([(({"image_0": FRAME},), {}), (({"image_0": FRAME[:4]},), {})], "'image_0' is 24x4"),
        ([(({"image_0": FRAME.astype(float)},), {})], "type float64; expected RGB"),
        ([(({"image_0": FRAME}, [1, 2]), {})], r"action has shape \(2,\)"),
        (
            [(({"image_0": FRAME}, STILL), {}), (({"image_0": FRAME},), {})] * 2,
            "the frame before this one has no action",
        ),
        ([(({"image_0": FRAME},), {}), (({"image_0": FRAME},), {"x": 3})], r"it has \['x'\]"),
        ([], "episode 'a' got no frames"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_kept(
    tmp_path: Path, moments: list[tuple[tuple[Any, ...], dict[str, Any]]], match: str
) -> None:
    def record(store: EpisodeStore) -> None:
        with store.record(id="a") as episode:
            for positional, named in moments:
                episode.add(*positional, **named)

    path = tmp_path / "s.zarr"
    with EpisodeStore.create(path) as store:
        with pytest.raises(StoreError, match=match):
            record(store)
        assert len(store) == 0
        assert store.keys == ()
        store.append(episode_of(1, size=(32, 32)))  # the size that failed is forgotten
    assert EpisodeStore.open(path).cameras == {"image_0": (32, 32)}


def test_what_is_noted_must_be_json(tmp_path: Path) -> None:
    def record(store: EpisodeStore) -> None:
        with store.record(id="a") as episode:
            episode.add({"image_0": FRAME})
            episode.note(info={"x": object()})

    with EpisodeStore.create(tmp_path / "s.zarr") as store:
        with pytest.raises(StoreError, match="can't be kept as JSON"):
            record(store)
        assert store.append(episode_of(1)) == 0


def test_one_recording_at_a_time(tmp_path: Path) -> None:
    with EpisodeStore.create(tmp_path / "s.zarr") as store:
        with store.record(id="a") as episode:
            episode.add({"image_0": FRAME})
            with pytest.raises(StoreError, match="an episode is being recorded"):
                store.append(episode_of(1))
            with pytest.raises(StoreError, match="an episode is being recorded"):
                store.record(id="b").__enter__()
            episode.add({"image_0": FRAME})
        assert list(store.ids) == ["a"]
        with pytest.raises(StoreError, match="has an episode 'a' already"):
            store.record(id="a")


def test_frames_belong_between_begin_and_end(tmp_path: Path) -> None:
    with EpisodeStore.create(tmp_path / "s.zarr") as store:
        with pytest.raises(StoreError, match=r"expected to be within `with store.record"):
            store.record(id="a").add({"image_0": FRAME})
        with store.record(id="a") as episode:
            episode.add({"image_0": FRAME})
        with pytest.raises(StoreError, match=r"expected to be within `with store.record"):
            episode.add({"image_0": FRAME})
        assert store.lengths.tolist() == [1]


def test_what_is_recorded_when_the_store_closes_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    with EpisodeStore.create(path, shard_frames=2) as store:
        store.append(episode_of(1))
        episode = store.record(id="a").__enter__()
        for _ in range(5):
            episode.add({"image_0": FRAME})
    assert list(EpisodeStore.open(path).ids) == ["e1"]
    assert EpisodeStore.open(path).cameras == {"image_0": SIZE}
