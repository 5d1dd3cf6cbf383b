"""The order of clips: the same for any workers, shared out to ranks, gone on with exactly."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aid_robot.data.clips import (
    Augmentation,
    ClipBatch,
    ClipConfig,
    ClipDataset,
    ClipLoader,
    ClipSampler,
)
from aid_robot.errors import CheckpointError, ConfigError
from tests.data.clip_episodes import make_episode, make_store

TEXTS = ("open the drawer", "pull it open")


def make_clips(folder: Path, **arguments: object) -> ClipDataset:
    episodes = [make_episode(f"e{i}", 5 + i, instructions=TEXTS) for i in range(4)]
    augment = Augmentation(mirror=0.5)
    return ClipDataset(make_store(folder, episodes), ClipConfig(4), augment=augment, **arguments)  # type: ignore[arg-type]


def of_length(epoch: int) -> ClipDataset:
    return ClipDataset([make_episode()], ClipConfig(4), epoch=epoch)


def same(one: Iterable[ClipBatch], other: Iterable[ClipBatch]) -> bool:
    pairs = list(zip(one, other, strict=True))
    for a, b in pairs:
        assert (a.episodes, a.instructions) == (b.episodes, b.instructions)
        np.testing.assert_array_equal(a.frames, b.frames)
    return bool(pairs)


@pytest.mark.parametrize("start", ["forkserver", "spawn"])
def test_workers_change_nothing(tmp_path: Path, start: str) -> None:
    clips = make_clips(tmp_path)
    alone = list(islice(ClipLoader(clips, 4, infinite=True), 8))
    loader = ClipLoader(clips, 4, infinite=True, num_workers=2, multiprocessing_context=start)
    assert same(alone, islice(loader, 8))


def test_forked_workers_which_may_hang_are_refused() -> None:
    with pytest.raises(ConfigError, match="forkserver"):
        ClipLoader(of_length(4), 2, num_workers=2, multiprocessing_context="fork")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("infinite", [True, False])
def test_a_run_goes_on_with_the_very_next_clip(
    tmp_path: Path, workers: int, infinite: bool
) -> None:
    clips = make_clips(tmp_path)
    options = {"infinite": infinite, "num_workers": workers}
    whole = list(islice(ClipLoader(clips, 3, **options), 5))  # type: ignore[arg-type]

    first = ClipLoader(clips, 3, **options)  # type: ignore[arg-type]
    for number, _ in enumerate(first, 1):
        # Workers have read ahead by now.
        if number == 2:
            state = json.loads(json.dumps(first.state_dict()))
            break
    second = ClipLoader(clips, 3, **options)  # type: ignore[arg-type]
    second.load_state_dict(state)
    assert same(whole[2:], islice(second, 3))
    # A loop that was left early goes on, too.
    assert same(whole[2:], islice(first, 3))


def test_each_loop_is_the_next_epoch(tmp_path: Path) -> None:
    clips = make_clips(tmp_path)
    loader = ClipLoader(clips, 4)
    epochs = [[start for batch in loader for start in batch.starts.tolist()] for _ in range(2)]
    assert [len(epoch) for epoch in epochs] == [len(clips)] * 2
    assert epochs[0] != epochs[1]
    assert loader.state_dict()["position"] == 2 * len(clips)
    assert len(loader) == -(-len(clips) // 4)
    wanted = [clips[number].start for number in range(2 * len(clips))]
    assert epochs[0] + epochs[1] == wanted


@given(
    epoch=st.integers(1, 40),
    world=st.integers(1, 5),
    later_world=st.integers(1, 5),
    steps=st.integers(0, 30),
    infinite=st.booleans(),
)
def test_ranks_share_the_stream_and_go_on_with_another_number_of_them(
    epoch: int, world: int, later_world: int, steps: int, infinite: bool
) -> None:
    clips = of_length(epoch)
    if not infinite and epoch < max(world, later_world):
        with pytest.raises(ConfigError, match="none for some of"):
            ClipSampler(clips, rank=0, world_size=max(world, later_world))
        return

    def samplers(count: int) -> list[ClipSampler]:
        return [
            ClipSampler(clips, rank=rank, world_size=count, infinite=infinite)
            for rank in range(count)
        ]

    def take(part: list[ClipSampler], count: int) -> list[int]:
        taken = [list(islice(sampler, count)) for sampler in part]
        assert len({len(numbers) for numbers in taken}) == 1, "all ranks take as many steps"
        assert len({sampler.position for sampler in part}) == 1
        return sorted(number for numbers in taken for number in numbers)

    first = samplers(world)
    early = take(first, steps)
    second = samplers(later_world)
    for sampler in second:
        sampler.load_state_dict(first[0].state_dict())
    later = take(second, 40)
    numbers = early + later
    assert len(set(numbers)) == len(numbers), "no clip twice"
    if infinite:
        assert numbers == list(range(len(numbers))), "none left out"
    else:
        gone_by = set(range(numbers[-1] + 1)) - set(numbers)
        ends = [number for number in gone_by if epoch - number % epoch >= max(world, later_world)]
        assert not ends, "left out is less than one step at an epoch's end"
        assert second[0].position % epoch == 0, "a loop ends with its epoch"


def test_sampler_arguments(tmp_path: Path) -> None:
    clips = of_length(5)
    with pytest.raises(ConfigError, match="rank=2"):
        ClipSampler(clips, rank=2, world_size=2)
    assert (ClipSampler(clips).rank, ClipSampler(clips).world_size) == (0, 1)
    assert len(ClipSampler(clips, rank=1, world_size=2)) == 2
    with pytest.raises(TypeError, match="infinite"):
        len(ClipSampler(clips, infinite=True))


def test_a_state_of_other_clips_is_refused() -> None:
    episodes = [make_episode("a"), make_episode("b")]
    config = ClipConfig(4)
    state = ClipSampler(ClipDataset(episodes, config)).state_dict()
    ClipSampler(ClipDataset(episodes, config)).load_state_dict(state)
    others = [
        ClipDataset(episodes[:1], config),
        ClipDataset([*episodes, make_episode("c")], config),
        ClipDataset([make_episode("a"), make_episode("c")], config),
        ClipDataset([make_episode("a"), make_episode("b", 21)], config),
        ClipDataset(episodes, ClipConfig(5)),
        ClipDataset(episodes, config, seed=1),
        ClipDataset(episodes, config, augment=Augmentation()),
        ClipDataset(episodes, config, epoch=7),
        ClipDataset(episodes, config, weight=lambda record: 2 if record.id == "a" else 1),
    ]
    for other in others:
        with pytest.raises(CheckpointError, match="saved on other clips"):
            ClipSampler(other).load_state_dict(state)


def test_a_dataset_that_is_sent_to_a_worker_stays_small(tmp_path: Path) -> None:
    """Neither records nor the order of the epoch go along, which are large in large stores."""
    clips = make_clips(tmp_path, epoch=1_000_000)
    assert clips[5].valid
    sent = pickle.dumps(clips)
    assert len(sent) < 10_000
    np.testing.assert_array_equal(pickle.loads(sent)[5].frames, clips[5].frames)
