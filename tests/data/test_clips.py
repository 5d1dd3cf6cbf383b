"""Clips: which windows there are, how often each comes, and what is in it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aid_robot.data.clips import (
    Augmentation,
    Clip,
    ClipConfig,
    ClipDataset,
    Split,
    cache_motion,
    collate,
    frame_motion,
    latents_key,
    load_episodes,
)
from aid_robot.data.episode import Episode
from aid_robot.data.frames import ArrayFrames
from aid_robot.data.ingest import open_recording
from aid_robot.data.store import EpisodeStore
from aid_robot.errors import ConfigError, DataFormatError, FrameRateError
from aid_robot.observation import resize_frames
from tests.data.clip_episodes import SIZE, make_episode, make_store, number_of


def places(clips: ClipDataset) -> Counter[tuple[str, str, int]]:
    """Count the windows of one epoch."""
    return Counter((clip.episode, clip.camera, clip.start) for clip in clips)


@given(
    length=st.integers(1, 30),
    num_frames=st.integers(2, 9),
    stride=st.integers(1, 4),
    needed=st.integers(2, 9),
    seed=st.integers(0, 2**40),
)
def test_a_clip_is_frames_in_order_and_then_the_last_one_again(
    length: int, num_frames: int, stride: int, needed: int, seed: int
) -> None:
    needed = min(needed, num_frames)
    config = ClipConfig(num_frames, stride=stride, min_frames=needed, actions=True)
    if length < (needed - 1) * stride + 1:
        with pytest.raises(DataFormatError, match="1 with fewer than"):
            ClipDataset([make_episode(length=length)], config)
        return
    clips = ClipDataset([make_episode(length=length)], config, seed=seed)
    for clip in clips:
        wanted = [clip.start + step * stride for step in range(num_frames)]
        real = [number for number in wanted if number < length]
        assert clip.valid == len(real) >= needed
        padded = real + real[-1:] * (num_frames - len(real))
        assert [number_of(frame) for frame in clip.frames] == padded
        assert clip.actions is not None
        assert clip.actions.shape == (num_frames * stride, 7)
        for row, action in enumerate(clip.actions, start=clip.start):
            assert (action[:6] == (row if row < length else 0)).all()
            assert action[6] == 1


@given(st.lists(st.integers(4, 12), min_size=1, max_size=5), st.integers(0, 3))
def test_an_epoch_has_every_window_once(lengths: list[int], epoch: int) -> None:
    episodes = [make_episode(f"e{i}", length) for i, length in enumerate(lengths)]
    clips = ClipDataset(episodes, ClipConfig(4, padding="drop"), seed=3)
    numbers = range(epoch * len(clips), (epoch + 1) * len(clips))
    found = [(clip.episode, clip.start) for clip in map(clips.__getitem__, numbers)]
    assert sorted(found) == [(f"e{i}", t) for i, n in enumerate(lengths) for t in range(n - 3)]


def test_epochs_and_seeds_differ_and_clips_can_be_read_in_any_order() -> None:
    def order(clips: ClipDataset, epoch: int) -> list[int]:
        return [clips[epoch * len(clips) + i].start for i in range(len(clips))]

    config = ClipConfig(4)
    clips = ClipDataset([make_episode(length=40)], config, augment=Augmentation(), seed=1)
    assert order(clips, 0) != order(clips, 1)
    assert order(clips, 0) != order(ClipDataset([make_episode(length=40)], config, seed=2), 0)
    later = clips[2 * len(clips) + 5].frames
    again = ClipDataset([make_episode(length=40)], config, augment=Augmentation(), seed=1)
    np.testing.assert_array_equal(again[2 * len(clips) + 5].frames, later)
    with pytest.raises(IndexError, match="counted from 0"):
        clips[-1]
    with pytest.raises(ConfigError, match="seed=-1"):
        ClipDataset([make_episode()], config, seed=-1)


@pytest.mark.parametrize(
    ("weighting", "shares"),
    [
        ("windows", [5, 20, 80]),
        ("sqrt", [math.sqrt(n) for n in (5, 20, 80)]),
        ("episodes", [1] * 3),
    ],
)
def test_windows_come_as_often_as_they_weigh(weighting: str, shares: list[float]) -> None:
    """Stratified draws: every count is within one or so of what is expected, at any seed."""
    episodes = [make_episode(f"e{i}", n + 3) for i, n in enumerate((5, 20, 80))]
    config = ClipConfig(4, padding="drop", weighting=weighting)  # type: ignore[arg-type]
    clips = ClipDataset(
        episodes, config, weight=lambda record: 3 if record.id == "e1" else 1, epoch=900, seed=7
    )
    counts = Counter(clip.episode for clip in clips)
    weights = np.array(shares) * [1, 3, 1]
    expected = 900 * weights / weights.sum()
    np.testing.assert_allclose([counts[f"e{i}"] for i in range(3)], expected, atol=2)
    starts = Counter(clip.start for clip in clips if clip.episode == "e1")
    assert sorted(starts) == list(range(20)), "within an episode all windows are as likely"
    # With slices of 900 / 20 n clips on each window the counts differ by 2 at most.
    assert max(starts.values()) - min(starts.values()) <= 2


def test_weight_zero_and_outcomes_leave_episodes_out() -> None:
    episodes = [
        make_episode("good", outcome="success", info={"skill": "put"}),
        make_episode("bad", outcome="failure"),
        make_episode("unknown"),
    ]
    skilled = ClipDataset(episodes, ClipConfig(4), weight=lambda record: "skill" in record.info)
    assert {clip.episode for clip in skilled} == {"good"}
    chosen = ClipDataset(episodes, ClipConfig(4, outcomes={"failure", None}))
    assert {clip.episode for clip in chosen} == {"bad", "unknown"}
    with pytest.raises(DataFormatError, match="found 2 with the outcome None, 1 of weight 0"):
        ClipDataset(
            [*episodes[1:], make_episode("c")],
            ClipConfig(4, outcomes=["failure"]),
            weight=lambda record: 0,
        )
    with pytest.raises(ConfigError, match="weight of episode 'good' is nan"):
        ClipDataset(episodes, ClipConfig(4), weight=lambda record: float("nan"))


def test_rates_are_checked() -> None:
    fast = make_episode("fast", fps=15.0)
    assert ClipDataset([fast], ClipConfig(4, stride=3, fps=5))[0].valid
    with pytest.raises(FrameRateError, match=r"'fast' has 15 .* 5: set stride=3"):
        ClipDataset([make_episode("a"), fast], ClipConfig(4, fps=5))
    with pytest.raises(FrameRateError, match=r"4; the clips shall have 5: resample"):
        ClipDataset([make_episode(fps=4.0)], ClipConfig(4, fps=5))
    with pytest.raises(FrameRateError, match="no known rate"):
        ClipDataset([make_episode(fps=None)], ClipConfig(4, fps=5))
    assert ClipDataset([make_episode(fps=None)], ClipConfig(4))[0].valid


def test_cameras() -> None:
    both = make_episode("both", cameras=("front", "wrist"))
    one = make_episode("one", cameras=("front",))

    def cameras(choice: str) -> Counter[tuple[str, str]]:
        clips = ClipDataset([both, one], ClipConfig(4, camera=choice), epoch=200)
        for clip in clips:
            assert (clip.frames[..., 1] == ("front", "wrist").index(clip.camera)).all()
        return Counter((clip.episode, clip.camera) for clip in clips)

    assert set(cameras("default")) == {("both", "front"), ("one", "front")}
    assert set(cameras("wrist")) == {("both", "wrist")}
    separate = cameras("all")
    assert separate["both", "wrist"] == pytest.approx(separate["both", "front"], abs=2)
    drawn = cameras("random")
    assert drawn["one", "front"] == pytest.approx(100, abs=2)
    assert 30 <= drawn["both", "wrist"] <= 70
    with pytest.raises(DataFormatError, match="1 without camera 'top' but with front, wrist"):
        ClipDataset([both], ClipConfig(4, camera="top"))


def test_wordings_are_drawn_and_an_episode_may_be_mute() -> None:
    texts = ("open the drawer", "pull it open", "drawer, open")
    clips = ClipDataset([make_episode(instructions=texts)], ClipConfig(4), epoch=300)
    counts = Counter(clip.instruction for clip in clips)
    assert set(counts) == set(texts)
    # Chi-square of 2 degrees of freedom: 13.8 is exceeded once in a thousand seeds.
    assert sum((n - 100) ** 2 / 100 for n in counts.values()) < 13.8
    assert ClipDataset([make_episode(instructions=())], ClipConfig(4))[0].instruction == ""


def test_sides_stay_when_episodes_are_added_and_scenes_stay_together(tmp_path: Path) -> None:
    def named(count: int) -> list[Episode]:
        scenes = [f"scene{i % 40}" if i % 3 else "" for i in range(count)]
        return [make_episode(f"e{i}", 4, scene=scenes[i]) for i in range(count)]

    def sides(episodes: list[Episode], split: Split) -> dict[str, str]:
        found = {}
        for side in ("train", "val"):
            clips = ClipDataset(episodes, ClipConfig(4), side=side, split=split)  # type: ignore[arg-type]
            found |= {clip.episode: side for clip in clips}
        return found

    few, many = sides(named(100), Split(0.3)), sides(named(300), Split(0.3))
    assert len(many) == 300, "every episode has a side"
    assert few == {name: many[name] for name in few}
    assert 60 <= Counter(many.values())["val"] <= 120
    assert many != sides(named(300), Split(0.3, seed=1))
    by_scene = {(e.scene, many[e.id]) for e in named(300) if e.scene}
    assert len(by_scene) == len({scene for scene, _ in by_scene})

    store = make_store(tmp_path, named(300))
    parts = store.split({"train": 0.7, "val": 0.3}, by="scene")
    assert {store.ids[i]: side for side, part in parts.items() for i in part} == many

    # What was once chosen is held out whatever the share, and so are its scenes.
    stored = Split(0.9, ids=frozenset({"e0", "e1"}))
    held_out = {name for name, side in sides(named(300), stored).items() if side == "val"}
    assert held_out == {"e0"} | {e.id for e in named(300) if e.scene == "scene1"}
    with pytest.raises(DataFormatError, match="this side of the split, found none at all"):
        ClipDataset(named(2), ClipConfig(4), side="val", split=Split(0))
    with pytest.raises(ConfigError, match="side='test'"):
        ClipDataset(named(2), ClipConfig(4), side="test")  # type: ignore[arg-type]


def test_still_windows_are_left_out(tmp_path: Path) -> None:
    def moving(name: str, still: int, length: int) -> Episode:
        """Stand still, under the noise of a camera, and then move a small object."""
        rng = np.random.default_rng(0)
        frames = rng.integers(98, 103, (length, 64, 64, 3), np.uint8)
        for t in range(still, length):
            frames[t, 30:36, 3 * (t - still) : 3 * (t - still) + 6] = 250
        return Episode(id=name, videos={"image_0": ArrayFrames(frames)}, fps=5.0)

    motion = frame_motion(moving("a", 10, 24).frames)
    assert motion.shape == (24,)
    assert motion[:10].max() < 3 < 20 < motion[10:].min()

    config = ClipConfig(4, padding="drop", min_motion=6)
    episodes = [moving("a", 10, 24), moving("still", 24, 24)]
    with make_store(tmp_path, episodes) as store:
        clips = ClipDataset(store, config)
        assert {clip.start for clip in clips} == set(range(7, 21))
        assert {clip.episode for clip in clips} == {"a"}
        assert [window.start for window in clips.fixed(2).windows] == [7, 20]
        writable = EpisodeStore.open(store.url, mode="a")
        cache_motion(writable)
        writable.close()
    with EpisodeStore.open(tmp_path / "store.zarr") as cached:
        assert places(ClipDataset(cached, config)) == places(clips)
        with pytest.raises(DataFormatError, match="in none of 1 videos"):
            ClipDataset(cached, config, weight=lambda record: record.id == "still")


def test_cached_latents_stand_for_the_frames_to_be_predicted(tmp_path: Path) -> None:
    episodes = [make_episode("a", 9), make_episode("b", 12)]
    store = make_store(tmp_path, episodes)
    config = ClipConfig(4, 2, stride=2, latents="vae1")
    for index, count in enumerate((9, 12)):
        with pytest.raises(DataFormatError, match=f"'{'ab'[index]}' has no 'latents_image_0'"):
            ClipDataset(EpisodeStore.open(store.url), config)
        numbers = np.arange(count, dtype=np.float32)[:, None, None, None]
        latents = np.broadcast_to(numbers, (count, 2, 3, 3))
        with EpisodeStore.open(store.url, mode="a") as writable:
            writable.write_cached(latents_key("image_0"), index, latents, model_hash="vae1")
    for clip in ClipDataset(EpisodeStore.open(store.url), config):
        assert clip.latents is not None
        assert clip.latents.shape == (4, 2, 3, 3)
        assert [number_of(frame) for frame in clip.frames] == [clip.start, clip.start + 2]
        real = [clip.start + 2 * step for step in range(clip.valid)]
        assert clip.latents[:, 0, 0, 0].tolist() == real + real[-1:] * (4 - clip.valid)
    with pytest.raises(DataFormatError, match="of the model 'vae2'"):
        ClipDataset(EpisodeStore.open(store.url), ClipConfig(4, latents="vae2"))
    with pytest.raises(ConfigError, match="augment=None"):
        ClipDataset(EpisodeStore.open(store.url), config, augment=Augmentation())


def test_a_store_and_episodes_at_hand_give_the_same_clips(tmp_path: Path) -> None:
    episodes = [make_episode(f"e{i}", 6 + i, cameras=("a", "b")) for i in range(4)]
    config = ClipConfig(4, camera="random", size=(8, 12), actions=True)
    stored = ClipDataset(make_store(tmp_path, episodes), config, augment=Augmentation(mirror=0.5))
    at_hand = ClipDataset(episodes, config, augment=Augmentation(mirror=0.5))
    assert stored.fingerprint == at_hand.fingerprint
    for one, other in zip(stored, at_hand, strict=True):
        np.testing.assert_array_equal(one.frames, other.frames)
        np.testing.assert_array_equal(one.actions, other.actions)
        assert one.frames.shape == (4, 8, 12, 3)
        assert one.episode == other.episode


def test_fixed_clips_are_evenly_spaced_and_always_the_same() -> None:
    episodes = [make_episode("long", 40), make_episode("short", 6), make_episode("one", 16)]
    texts = ("first", "second")
    episodes.append(make_episode("two", 17, cameras=("a", "b"), instructions=texts))
    config = ClipConfig(16, min_frames=2, camera="random")
    clips = ClipDataset(episodes, config, augment=Augmentation()).fixed(2)
    found = [(clip.episode, clip.start, clip.valid) for clip in clips]
    assert found == [("long", 0, 16), ("long", 24, 16), ("short", 0, 6), ("one", 0, 16),
                     ("two", 0, 16), ("two", 1, 16)]  # fmt: skip
    assert {(c.camera, c.instruction) for c in clips if c.episode == "two"} == {("a", "first")}
    np.testing.assert_array_equal(clips[1].frames, np.asarray(episodes[0].frames)[24:])
    with pytest.raises(IndexError):
        clips[6]


def test_a_batch() -> None:
    clips = ClipDataset([make_episode(length=6)], ClipConfig(4, min_frames=2, actions=True))
    batch = collate(list(clips))
    assert batch.frames.shape == (5, 4, SIZE, SIZE, 3)
    assert batch.actions is not None
    assert batch.actions.shape == (5, 4, 7)
    assert batch.latents is None
    assert batch.mask.sum(1).tolist() == batch.valid.tolist()
    assert batch.mask[:, 0].all()
    assert batch.to("cpu").instructions == ("open the drawer",) * 5
    large = Clip(np.zeros((4, 8, 8, 3), np.uint8), 4, "", "large", "image_0", 0)
    with pytest.raises(DataFormatError, match=r"'large' have the shapes .* set the clips' size"):
        collate([clips[0], large])


def test_episodes_are_loaded_into_memory_at_a_size() -> None:
    loaded = load_episodes([make_episode(cameras=("a", "b"))], (8, 8), all_cameras=False)
    assert list(loaded[0].videos) == ["a"]
    assert loaded[0].frames.shape == (20, 8, 8, 3)
    assert [number_of(frame) for frame in loaded[0].frames] == list(range(20))


@pytest.mark.bridge
def test_recorded_bridge(bridge_dir: Path) -> None:
    """Its frames come as they are, and the still ones it begins with can be left out."""
    episodes = [open_recording(bridge_dir / "irasim")[name] for name in ("train/c0", "train/c1")]
    config = ClipConfig(2, fps=5, padding="drop", size=(64, 64))
    clips = ClipDataset(episodes, config)
    for number in range(3):
        clip = clips[number]
        source = next(episode for episode in episodes if episode.id == clip.episode)
        frames = source.frames[clip.start : clip.start + 2]
        np.testing.assert_array_equal(clip.frames, resize_frames(frames, (64, 64)))
    moving = ClipDataset(load_episodes(episodes, (64, 64)), replace(config, min_motion=4))
    assert ("train/c0", "image_0", 0) in places(clips)
    assert ("train/c0", "image_0", 0) not in places(moving)
    assert 0.8 * len(clips) < len(moving) < len(clips)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 0}, "num_frames=0"),
        ({"num_frames": 4, "num_given": 4}, "num_given=4"),
        ({"stride": 0}, "stride=0"),
        ({"min_frames": 1}, "min_frames=1"),
        ({"min_frames": 4, "padding": "drop"}, "no meaning"),
        ({"padding": "zero"}, "padding='zero'"),
        ({"weighting": "uniform"}, "weighting='uniform'"),
        ({"fps": float("inf")}, "fps=inf"),
        ({"size": (0, 4)}, "size="),
        ({"min_motion": float("nan")}, "min_motion=nan"),
        ({"num_given": 0, "latents": "vae"}, "num_given=0"),
    ],
)
def test_configs_that_contradict_themselves(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClipConfig(**arguments)  # type: ignore[arg-type]
