"""What goes into a store comes out of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aid_robot.data.episode import Episode
from aid_robot.data.frames import ArrayFrames, EncodedFrames
from aid_robot.data.store import EpisodeStore
from aid_robot.errors import StoreError
from tests.data.store.episodes import SIZE, assert_same, episode_of, frames_of

KEYS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,12}", fullmatch=True).filter(
    lambda key: key not in ("action", "state", ".", "..")
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
TYPES = st.sampled_from(["bool", "uint8", "int16", "int64", "float16", "float32", "float64", ">i4"])


@st.composite
def episodes(draw: st.DrawFn, id: str = "only") -> Episode:
    """Draw any episode that the store must keep."""
    length = draw(st.integers(1, 9))
    names = draw(st.lists(KEYS, min_size=1, max_size=4, unique=True))
    count = draw(st.integers(1, len(names)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    texts = draw(st.lists(st.text(), max_size=3, unique=True))
    row = hnp.array_shapes(min_dims=0, max_dims=3, max_side=3)
    arrays = {name: draw(hnp.arrays(draw(TYPES), (length, *draw(row)))) for name in names[count:]}
    return Episode(
        id=id,
        videos={
            name: ArrayFrames(rng.integers(0, 256, (length, *size, 3), dtype=np.uint8))
            for name in names[:count]
        },
        actions=rng.normal(size=(length, 7)).astype(np.float32) if draw(st.booleans()) else None,
        state=rng.normal(size=(length, 7)).astype(np.float32) if draw(st.booleans()) else None,
        instruction=texts[0] if texts else None,
        instructions=tuple(texts),
        outcome=draw(st.sampled_from(["demo", "success", "failure", None])),
        fps=draw(st.none() | st.floats(1e-3, 1e6)),
        source=draw(st.text()),
        scene=draw(st.text()),
        notes=tuple(draw(st.lists(st.text(), max_size=2))),
        arrays=arrays,
        info=draw(st.dictionaries(st.text(), JSON, max_size=3)),
    )


@settings(max_examples=40, deadline=None)
@given(episode=episodes())
def test_any_episode_comes_back(episode: Episode, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("any") / "store.zarr"
    native = {
        key: rows.astype(rows.dtype.newbyteorder("=")) for key, rows in episode.arrays.items()
    }
    expected = Episode(**{**episode.__dict__, "arrays": native})
    with EpisodeStore.create(path, codec="png", shard_frames=3) as store:
        assert store.append(episode) == 0
        assert_same(store["only"], expected)
    assert_same(EpisodeStore.open(path)[0], expected)


def test_episodes_are_found_by_number_and_id(tmp_path: Path) -> None:
    expected = [episode_of(seed, 3 + seed) for seed in range(5)]
    with EpisodeStore.create(tmp_path / "s.zarr", codec="png") as store:
        assert store.extend(expected) == [0, 1, 2, 3, 4]
    store = EpisodeStore.open(tmp_path / "s.zarr")
    assert len(store) == 5
    assert list(store.ids) == ["e0", "e1", "e2", "e3", "e4"]
    assert store.lengths.tolist() == [3, 4, 5, 6, 7]
    assert "e3" in store
    assert "e9" not in store
    assert_same(store["e3"], expected[3])
    assert_same(store[-1], expected[4])
    assert [episode.id for episode in store] == list(store.ids)
    assert store.records[2].instruction == "put block 2 down"
    assert store.cameras == {"image_0": SIZE}
    with pytest.raises(StoreError, match=r"no episode 'e33' \(did you mean 'e3'"):
        store["e33"]
    with pytest.raises(IndexError, match="episode 5"):
        store[5]


def test_frames_are_decoded_on_request(tmp_path: Path) -> None:
    frames = frames_of(1, 12)
    with EpisodeStore.create(tmp_path / "s.zarr", codec="png", shard_frames=5) as store:
        store.append(episode_of(0, 4))
        store.append(Episode(id="a", videos={"image_0": ArrayFrames(frames)}))
    video = EpisodeStore.open(tmp_path / "s.zarr")["a"].frames
    assert video.shape == (12, *SIZE, 3)
    np.testing.assert_array_equal(video[3], frames[3])
    np.testing.assert_array_equal(video[9:1:-3], frames[9:1:-3])
    np.testing.assert_array_equal(video[[0, 11, 0]], frames[[0, 11, 0]])
    np.testing.assert_array_equal(np.asarray(video), frames)
    video[3][:] = 0  # what is handed out is the caller's own
    np.testing.assert_array_equal(video[3], frames[3])


@settings(max_examples=40, deadline=None)
@given(start=st.integers(0, 29), frames=st.integers(1, 40), stride=st.integers(1, 9))
def test_clips_are_slices(
    start: int, frames: int, stride: int, clip_store: tuple[EpisodeStore, np.ndarray]
) -> None:
    store, expected = clip_store
    wanted = expected[start : start + frames * stride : stride][:frames]
    np.testing.assert_array_equal(store.clip("middle", start, frames, stride), wanted)


@pytest.fixture(scope="module")
def clip_store(tmp_path_factory: pytest.TempPathFactory) -> tuple[EpisodeStore, np.ndarray]:
    """Make a store whose episode "middle" has 30 frames in five shards."""
    path = tmp_path_factory.mktemp("clips") / "s.zarr"
    frames = frames_of(7, 30)
    with EpisodeStore.create(path, codec="png", shard_frames=7) as store:
        store.append(episode_of(0, 5))
        store.append(Episode(id="middle", videos={"image_0": ArrayFrames(frames)}))
        store.append(episode_of(2, 5))
    return EpisodeStore.open(path), frames


def test_impossible_clips_are_refused(clip_store: tuple[EpisodeStore, np.ndarray]) -> None:
    store, _ = clip_store
    for start, frames, stride in ((30, 4, 1), (-1, 4, 1), (0, 0, 1), (0, 4, 0)):
        with pytest.raises(StoreError, match="'middle' has frames 0 to 29"):
            store.clip("middle", start, frames, stride)
    with pytest.raises(StoreError, match="no camera 'wrist'; expected one of image_0"):
        store.clip(0, 0, camera="wrist")


def test_random_clips_are_whole_and_repeat(clip_store: tuple[EpisodeStore, np.ndarray]) -> None:
    store, frames = clip_store
    drawn = list(store.random_clips(50, frames=4, stride=2, seed=3))
    again = list(store.random_clips(50, frames=4, stride=2, seed=3))
    assert [(c.index, c.start) for c in drawn] == [(c.index, c.start) for c in again]
    # Short episodes have no such clip.
    assert {c.index for c in drawn} == {1}
    assert len({c.start for c in drawn}) > 10
    for clip in drawn:
        np.testing.assert_array_equal(clip.frames, frames[clip.start : clip.start + 7 : 2])


def test_jpegs_from_a_camera_are_kept_as_they_are(tmp_path: Path) -> None:
    frames = frames_of(3, 4)
    jpegs = [simplejpeg.encode_jpeg(frame, 80, "RGB", "444") for frame in frames]
    jpegs[1] += b"\0\0"  # some cameras pad
    with EpisodeStore.create(tmp_path / "s.zarr") as store:
        store.append(Episode(id="a", videos={"image_0": EncodedFrames(jpegs, "camera")}))
    video = EpisodeStore.open(tmp_path / "s.zarr")["a"].frames
    assert [video.encoded(i) for i in range(4)] == jpegs
    np.testing.assert_array_equal(video[0], simplejpeg.decode_jpeg(jpegs[0]))


def test_jpegs_that_others_could_not_read_are_compressed_again(tmp_path: Path) -> None:
    grey = frames_of(3, 1)[0].mean(axis=2, keepdims=True).astype(np.uint8)
    jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(grey), 95, "GRAY", "Gray")
    with EpisodeStore.create(tmp_path / "s.zarr") as store:
        store.append(Episode(id="a", videos={"image_0": EncodedFrames([jpeg], "camera")}))
        assert store["a"].frames.encoded(0) != jpeg
        assert abs(store["a"].frames[0].astype(int) - grey).max() < 12


def test_jpeg_loses_little_and_follows_quality(tmp_path: Path) -> None:
    episode = episode_of(5, 6, size=(64, 64))
    sizes = {}
    for quality in (30, 95):
        with EpisodeStore.create(tmp_path / f"{quality}.zarr", quality=quality) as store:
            store.append(episode)
            assert_same(store[0], episode, lossless=False)
            sizes[quality] = len(store[0].frames.encoded(0) or b"")
    assert sizes[30] < sizes[95]


def test_what_an_episode_lacks(tmp_path: Path) -> None:
    first = episode_of(1, 3, cameras=("image_0", "wrist"), arrays=("joints",))
    second = episode_of(2, 4, cameras=("wrist",), action=False)
    with EpisodeStore.create(tmp_path / "s.zarr", codec="png") as store:
        store.extend([first, second])
    store = EpisodeStore.open(tmp_path / "s.zarr")
    assert_same(store[0], first)
    assert_same(store[1], second)
    assert store.keys == ("image_0", "wrist", "action", "joints")
    np.testing.assert_array_equal(store.clip(1, 0, 9), second.videos["wrist"][:])
    with pytest.raises(StoreError, match="'e2' has no camera 'image_0'; expected one of wrist"):
        store.clip(1, 0, camera="image_0")
    with pytest.raises(StoreError, match="'e2' has no 'action'"):
        store.read(1, ["action"])


def test_read_slices_arrays_and_cameras_alike(tmp_path: Path) -> None:
    episode = episode_of(1, 9, arrays=("joints",))
    with EpisodeStore.create(tmp_path / "s.zarr", codec="png") as store:
        store.extend([episode_of(0, 4), episode])
    found = EpisodeStore.open(tmp_path / "s.zarr").read(
        "e1", ["image_0", "action", "joints"], 2, 8, 3
    )
    np.testing.assert_array_equal(found["image_0"], episode.frames[2:8:3])
    assert episode.actions is not None
    np.testing.assert_array_equal(found["action"], episode.actions[2:8:3])
    np.testing.assert_array_equal(found["joints"], episode.arrays["joints"][2:8:3])


def test_steps_have_the_form_of_rlds(tmp_path: Path) -> None:
    episode = episode_of(1, 3, outcome="success", arrays=("joints",))
    with EpisodeStore.create(tmp_path / "s.zarr", codec="png") as store:
        store.append(episode)
        steps = list(store.steps(0))
    assert [step["is_first"] for step in steps] == [True, False, False]
    assert [step["is_last"] for step in steps] == [False, False, True]
    assert [step["is_terminal"] for step in steps] == [False, False, True]
    assert [step["reward"] for step in steps] == [0.0, 0.0, 1.0]
    assert steps[0]["language_instruction"] == "put block 1 down"
    np.testing.assert_array_equal(steps[1]["observation"]["image_0"], episode.frames[1])
    np.testing.assert_array_equal(steps[1]["observation"]["joints"], episode.arrays["joints"][1])
    assert episode.actions is not None
    np.testing.assert_array_equal(steps[1]["action"], episode.actions[1])


def refused(path: Path, episode: Episode, match: str) -> None:
    with EpisodeStore.open(path, "a") as store:
        before = list(store.ids)
        with pytest.raises(StoreError, match=match):
            store.append(episode)
        store.append(episode_of(100, 3, id=f"after {len(before)}"))
    with EpisodeStore.open(path) as store:
        assert list(store.ids) == [*before, f"after {len(before)}"]
        assert store.verify(deep=True) == []


def test_what_the_store_cannot_take_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    with EpisodeStore.create(path) as store:
        store.append(episode_of(1, 3, arrays=("joints",)))
    refused(path, episode_of(2, 3, id="e1"), "has an episode 'e1' already")
    refused(
        path,
        episode_of(2, 3, size=(32, 48)),
        "'image_0' is 48x32 in this episode, but the store holds 24x16.*--size 24x16",
    )
    other = Episode(**{**episode_of(2, 3).__dict__, "arrays": {"joints": np.zeros((3, 4))}})
    refused(path, other, r"'joints' is float64 of shape \(4,\).*holds int32 of shape \(3,\)")
    texts = Episode(**{**episode_of(2, 3).__dict__, "arrays": {"words": np.array(["a", "b", "c"])}})
    refused(path, texts, "'words' holds <U1; expected numbers")
    slash = Episode(**{**episode_of(2, 3).__dict__, "arrays": {"../x": np.zeros(3)}})
    refused(path, slash, "'../x' can't be the name")
    twice = Episode(**{**episode_of(2, 3).__dict__, "arrays": {"image_0": np.zeros(3)}})
    refused(path, twice, "'image_0' both as a camera and as an array")
    for info in ({"x": object()}, {"x": math.nan}):
        refused(path, episode_of(2, 3, info=info), "episode 'e2' can't be kept as JSON")
    refused(path, episode_of(2, 3, fps=math.inf), "fps")


def test_cameras_can_be_told_ahead(tmp_path: Path) -> None:
    with EpisodeStore.create(tmp_path / "s.zarr", cameras={"image_0": (32, 48)}) as store:
        assert store.cameras == {"image_0": (32, 48)}
        with pytest.raises(StoreError, match="the store holds 48x32"):
            store.append(episode_of(1))
        store.append(episode_of(2, size=(32, 48)))
    with pytest.raises(StoreError, match=r"'image_0' is given as \(0, 48\)"):
        EpisodeStore.create(tmp_path / "t.zarr", cameras={"image_0": (0, 48)})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"codec": "gif"}, "codec is 'gif'; expected 'jpeg' or 'png'"),
        ({"quality": 0}, "quality is 0"),
        ({"shard_frames": 0}, "shard_frames 0"),
    ],
)
def test_impossible_settings_are_refused(
    tmp_path: Path, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(StoreError, match=match):
        EpisodeStore.create(tmp_path / "s.zarr", **options)
    assert not (tmp_path / "s.zarr").exists()


def test_a_store_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    with EpisodeStore.create(path, attributes={"robot": "WidowX"}) as store:
        store.append(episode_of(1))
    reader = EpisodeStore.open(path)
    assert reader.attributes == {"robot": "WidowX"}
    with pytest.raises(StoreError, match="not empty; open it with mode='a'"):
        EpisodeStore.create(path)
    EpisodeStore.create(path, overwrite=True).close()
    assert len(EpisodeStore.open(path)) == 0
    with pytest.raises(StoreError, match="was compacted or replaced"):
        reader[0]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match=r"holds no store but .*thesis\.tex"):
        EpisodeStore.create(tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").exists()


def test_a_reader_does_not_write(tmp_path: Path) -> None:
    EpisodeStore.create(tmp_path / "s.zarr").close()
    with (
        EpisodeStore.open(tmp_path / "s.zarr") as store,
        pytest.raises(StoreError, match=r"open for reading; expected .*mode='a'"),
    ):
        store.append(episode_of(1))
    with pytest.raises(StoreError, match="there is no episode store at"):
        EpisodeStore.open(tmp_path / "none.zarr")
    with pytest.raises(StoreError, match="there is no episode store at"):
        EpisodeStore.open(tmp_path / "none.zarr", "a")
    assert list(tmp_path.iterdir()) == [tmp_path / "s.zarr"]


def test_annotations_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    with EpisodeStore.create(path) as store:
        store.extend([episode_of(1, info={"task": "pick"}), episode_of(2)])
        store.annotate("e1", outcome="failure", instructions="lift", info={"why": "slipped"})
        assert store.records[0].outcome == "failure"
        with pytest.raises(StoreError, match="'actions' can't be annotated; expected one of"):
            store.annotate(0, actions=None)
        with pytest.raises(StoreError, match="outcome 'great'; expected demo, success"):
            store.annotate(0, outcome="great")
        store.append(episode_of(3))
    store = EpisodeStore.open(path)
    assert store["e1"].info == {"task": "pick", "why": "slipped"}
    assert store["e1"].instructions == ("lift",)
    assert [record.outcome for record in store.records] == ["failure", None, None]


def test_info_prints_as_a_table(tmp_path: Path) -> None:
    with EpisodeStore.create(tmp_path / "s.zarr") as store:
        store.extend([episode_of(1, 4, outcome="success"), episode_of(2, 6, instructions=())])
        info = store.info()
    assert info["episodes"] == 2
    assert info["frames"] == 10
    assert info["outcomes"] == {"success": 1, "unknown": 1}
    assert info["without_instruction"] == 1
    assert info["cameras"] == {"image_0": "24x16"}
    assert info["bytes"] > 0
    assert "frames" in str(info)
    assert "10" in str(info)
