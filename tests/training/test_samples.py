"""Clips in a row that begin alike and end differently."""

from __future__ import annotations

import numpy as np

from aid_robot.data.clips import ClipConfig, ClipLoader
from aid_robot.training.samples import SampleDataset, collate_samples, other_instructions
from aid_robot.training.views import View
from tests.training.episodes import square_episode

CUT = ClipConfig(4, 1, (32, 32), fps=5.0)


def clips(starts: int = 6, futures: int = 3, row: int = 4, **options: object) -> SampleDataset:
    """Make `futures` episodes of each start, and one that has no alternatives."""
    episodes = []
    for start in range(starts):
        alike = {"alternatives_group": f"{start}"}
        for future in range(futures):
            name = f"{start}-{future}"
            episodes.append(square_episode(10 * start + future, id=name, info=alike))
    episodes.append(square_episode(99, id="alone-0"))
    views = [View(episode, i, 0, dict(episode.videos)) for i, episode in enumerate(episodes)]
    return SampleDataset(views, CUT, alternatives=row, **options)  # type: ignore[arg-type]


def test_a_row_shows_all_futures_of_one_start() -> None:
    dataset = clips()
    free = 0
    for row in range(16):
        drawn = [dataset[4 * row + place] for place in range(4)]
        starts = {clip.episode.split("-")[0] for clip in drawn}
        if len(starts) > 1 or "alone" in starts:
            free += 1
            continue
        assert {clip.start for clip in drawn} == {0}
        # Three futures in a row of four: one comes twice.
        assert len({clip.episode for clip in drawn}) == 3
        assert all(clip.valid == 4 for clip in drawn)
    assert 4 <= free <= 6, "a quarter of the rows is free, and those that begin with no alternative"


def test_without_alternatives_the_stream_is_as_it_was() -> None:
    plain, rows = clips(row=1), clips(row=4)
    assert plain.fingerprint != rows.fingerprint
    found = [(clip.episode, clip.start) for clip in (plain[n] for n in range(12))]
    free = [(clip.episode, clip.start) for clip in (rows[n] for n in range(12, 16))]
    drawn = [(clip.episode, clip.start) for clip in (plain[n] for n in range(12, 16))]
    assert free == drawn
    assert len({name.split("-")[0] for name, _ in found[:4]}) > 1


def test_two_processes_share_the_rows_of_one() -> None:
    def batch(rank: int, world: int) -> list[str]:
        loader = ClipLoader(
            clips(), 4 // world, infinite=True, rank=rank, world_size=world,
            collate_fn=collate_samples,
        )  # fmt: skip
        return list(next(iter(loader)).clips.episodes)

    assert sorted(batch(0, 2) + batch(1, 2)) == sorted(batch(0, 1))


def test_the_same_number_is_the_same_clip() -> None:
    first, second = clips(seed=3), clips(seed=3)
    for number in (0, 5, 14, 1000):
        assert first[number].episode == second[number].episode
        assert np.array_equal(first[number].frames, second[number].frames)


def test_held_out_clips_come_in_pairs_that_begin_alike() -> None:
    chosen = clips().choose(6)
    names = [sample.episode.split("-")[0] for sample in chosen]
    assert names == ["0", "0", "3", "3", "alone"]
    chosen = chosen[:4]
    batch = collate_samples(chosen)
    other = other_instructions(batch, batch)
    for number, text in enumerate(other.clips.instructions):
        partner = number ^ 1
        if batch.clips.instructions[partner] != batch.clips.instructions[number]:
            assert text == batch.clips.instructions[partner]
        else:
            assert text != batch.clips.instructions[number]


def test_held_out_clips_without_alternatives_are_spread_evenly() -> None:
    episodes = [square_episode(number) for number in range(9)]
    views = [View(episode, i, 0, dict(episode.videos)) for i, episode in enumerate(episodes)]
    chosen = SampleDataset(views, CUT).choose(3)
    assert [sample.episode for sample in chosen] == ["square-0", "square-4", "square-8"]
