"""Which clips are judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aid_robot.data.clips import Split
from aid_robot.errors import ConfigError, DataFormatError
from aid_robot.evaluation.clips import Source, choose_clips, cut_clip
from tests.evaluation.worlds import PROTOCOL, make_episodes, make_store, push, still_picture


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Source:
    path = make_store(tmp_path_factory.mktemp("clips") / "s.zarr", make_episodes(6))
    return Source(str(path))


def test_alternatives_stay_together_and_share_their_start(store: Source) -> None:
    chosen = choose_clips([store], PROTOCOL)
    assert (chosen.facts.clips, chosen.facts.episodes, chosen.facts.clusters) == (24, 24, 6)
    for task in chosen.tasks(6):
        assert len(task) == 4
        assert len({clip.group for clip in task}) == 1
    recording = store.open()
    first, second = (cut_clip(recording[clip.index], clip, PROTOCOL) for clip in chosen.clips[:2])
    assert np.array_equal(first[0], second[0])
    assert not np.array_equal(first[-1], second[-1])


def test_a_clip_is_what_was_recorded(store: Source) -> None:
    recording = store.open()
    for clip in choose_clips([store], PROTOCOL).clips[:4]:
        start, way = clip.episode.removeprefix("s").split("-")
        expected = push(still_picture(int(start)), way, 4)
        assert np.array_equal(cut_clip(recording[clip.index], clip, PROTOCOL), expected)


def test_other_instructions_mean_something_else(store: Source) -> None:
    for clip in choose_clips([store], PROTOCOL).clips:
        assert clip.paraphrase.replace("shove", "push") == clip.instruction
        assert clip.other.startswith("push")
        assert clip.other != clip.instruction


def test_fewer_clips_are_whole_groups_and_the_same_ones(store: Source) -> None:
    every = choose_clips([store], PROTOCOL)
    some = choose_clips([store], PROTOCOL.replace(clips=10))
    assert [clip.key for clip in some.clips] == [clip.key for clip in every.clips[:8]]


def test_strides_come_from_the_rates(tmp_path: Path) -> None:
    slow, fast, odd = make_episodes(1, length=8, ways=("up", "down", "left"))
    episodes = [slow, replace(fast, fps=10.0), replace(odd, fps=7.0)]
    chosen = choose_clips([Source(str(make_store(tmp_path / "s.zarr", episodes)))], PROTOCOL)
    assert {clip.episode: clip.stride for clip in chosen.clips} == {"s0-up": 1, "s0-down": 2}
    assert chosen.facts.left_out == {"of 7 fps": 1}


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    short, mute, unknown = make_episodes(1, ways=("up", "down", "left"))
    short = make_episodes(1, length=3, ways=("up",))[0]
    episodes = [
        short,
        replace(mute, instruction=None, instructions=()),
        replace(unknown, fps=None),
    ]
    with pytest.raises(DataFormatError) as caught:
        choose_clips([Source(str(make_store(tmp_path / "s.zarr", episodes)))], PROTOCOL)
    for said in ("1 too short", "1 without instruction", "1 of unknown rate", "at least 4 frames"):
        assert said in str(caught.value)


def test_sides_of_a_split_have_nothing_in_common(store: Source) -> None:
    split = Split(share=0.5)
    sides = {
        side: {c.episode for c in choose_clips([store], PROTOCOL.replace(split=side), split).clips}
        for side in ("held-out", "train")
    }
    assert sides["held-out"]
    assert not sides["held-out"] & sides["train"]
    assert len(sides["held-out"]) + len(sides["train"]) == 24


def test_a_list_of_episodes_is_a_split(store: Source, tmp_path: Path) -> None:
    names = tmp_path / "seer.json"
    names.write_text(json.dumps(["s1-up", "s2-down", "of another set"]))
    chosen = choose_clips([store], PROTOCOL.replace(split=str(names)))
    assert {clip.episode for clip in chosen.clips} == {"s1-up", "s2-down"}
    assert chosen.facts.split == "2 of the 3 episodes in seer.json"
    names.write_text(json.dumps({"share": 0.1, "held_out": ["s1-up"]}))
    chosen = choose_clips([store], PROTOCOL.replace(split=str(names)))
    assert {clip.episode for clip in chosen.clips} == {"s1-up"}
    names.write_text(json.dumps({"held_out": 3}))
    with pytest.raises(DataFormatError, match="no list of episode ids"):
        choose_clips([store], PROTOCOL.replace(split=str(names)))
    names.write_text("of another set\n")
    with pytest.raises(DataFormatError, match="none of the 1 episodes"):
        choose_clips([store], PROTOCOL.replace(split=str(names)))
    with pytest.raises(ConfigError, match="neither 'held-out'"):
        choose_clips([store], PROTOCOL.replace(split="nowhere.txt"))


def test_later_clips_of_an_episode_stand_alone(store: Source) -> None:
    chosen = choose_clips([store], PROTOCOL.replace(clips_per_episode=2))
    assert chosen.facts.clips == 48
    later = [clip for clip in chosen.clips if clip.start]
    assert {clip.start for clip in later} == {4}
    assert len({clip.group for clip in later}) == len(later)
