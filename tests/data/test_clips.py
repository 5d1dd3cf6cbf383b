"""Windows for training: how they are cut, padded and augmented."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aid_robot.data.clips import ClipSampler, LoadedEpisode, fixed_clips
from aid_robot.errors import DataFormatError


def episode(length: int, text: str = "open the drawer") -> LoadedEpisode:
    """Frames that show their own number, brighter to the right."""
    frames = np.zeros((length, 36, 36, 3), np.uint8)
    frames += np.arange(length, dtype=np.uint8)[:, None, None, None] * 4 + 40
    frames[:, :, 18:] += 60
    return LoadedEpisode(f"e{length}/image_0", frames, (text,), 5.0)


@given(st.integers(3, 30), st.integers(0, 2**32 - 1))
def test_clips_are_consecutive_and_padded_by_their_last_frame(length: int, seed: int) -> None:
    sampler = ClipSampler([episode(length)], 8, (32, 32), min_frames=3)
    clip = sampler.draw(np.random.default_rng(seed))
    assert clip.frames.shape == (8, 32, 32, 3)
    assert min(3, length) <= clip.valid <= 8
    assert clip.valid <= length
    level = clip.frames.astype(int).mean(axis=(1, 2, 3))
    assert (np.diff(level[: clip.valid]) > 0).all(), "frames in order, one look for all of them"
    assert (clip.frames[clip.valid :] == clip.frames[clip.valid - 1]).all()


def test_same_generator_same_clips() -> None:
    sampler = ClipSampler([episode(9), episode(12)], 4, (32, 32))
    one, other = (sampler.draw(np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one.frames, other.frames)


@pytest.mark.parametrize(("text", "mirrors"), [("open the drawer", True), ("push LEFT", False)])
def test_a_mirror_never_turns_left_into_right(text: str, mirrors: bool) -> None:
    sampler = ClipSampler([episode(9, text)], 4, (32, 32))
    rng = np.random.default_rng(0)
    drawn = [sampler.draw(rng).frames.astype(int) for _ in range(30)]
    mirrored = [frames[:, :, :8].mean() > frames[:, :, -8:].mean() for frames in drawn]
    assert any(mirrored) == mirrors


def test_short_recordings_are_refused_with_the_remedy() -> None:
    with pytest.raises(DataFormatError, match="none of 1 episodes has 8 frames"):
        ClipSampler([episode(5)], 16, (32, 32))


def test_validation_clips_are_always_the_same() -> None:
    clips = fixed_clips([episode(40), episode(6)], 16, (36, 36), per_episode=2)
    assert [clip.valid for clip in clips] == [16, 16, 6]
    np.testing.assert_array_equal(clips[0].frames, episode(40).frames[:16])
    np.testing.assert_array_equal(clips[1].frames, episode(40).frames[24:])
