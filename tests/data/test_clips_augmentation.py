"""Augmentation: every frame of a clip alike, and nothing that makes the text a lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aid_robot.data.clips import Augmentation, ClipConfig, ClipDataset, Look, names_a_side
from aid_robot.errors import ConfigError
from tests.data.clip_episodes import make_episode

FULL = Augmentation(crop=0.4, mirror=0.5, brightness=40, contrast=0.4, colour=0.3)


@given(st.integers(0, 2**32), st.integers(1, 5), st.sampled_from([None, (16, 16), (9, 20)]))
def test_all_frames_of_a_clip_are_augmented_alike(
    seed: int, count: int, size: tuple[int, int] | None
) -> None:
    rng = np.random.default_rng(seed)
    look = FULL.draw(rng, "open the drawer")
    frame = rng.integers(0, 256, (13, 17, 3), np.uint8)
    others = rng.integers(0, 256, (count, 13, 17, 3), np.uint8)
    alone = look.frames(frame[None], size)[0]
    together = look.frames(np.concatenate([others, frame[None]]), size)
    assert together.shape == (count + 1, *(size or (13, 17)), 3)
    np.testing.assert_array_equal(together[-1], alone)


@given(st.integers(0, 2**32))
def test_parts_are_off_at_zero(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (3, 8, 8, 3), np.uint8)
    off = Augmentation(0, 0, 0, 0, 0).draw(rng, "open the drawer")
    np.testing.assert_array_equal(off.frames(frames), frames)
    mirror = Augmentation(0, 1, 0, 0, 0).draw(rng, "open the drawer")
    np.testing.assert_array_equal(mirror.frames(frames), frames[:, :, ::-1])


def test_each_part_varies_what_it_names() -> None:
    grey = np.full((1, 8, 8, 3), 128, np.uint8)
    grey[:, :, 4:] = 60

    def values(augmentation: Augmentation) -> np.ndarray:
        looks = (augmentation.draw(np.random.default_rng(i), "") for i in range(20))
        return np.stack([look.frames(grey)[0, 0].astype(int) for look in looks])  # (20, 8, 3)

    brightness = values(Augmentation(0, 0, 20, 0, 0)) - grey[0, 0]
    assert (brightness == brightness[:, :1, :1]).all(), "the same for all pixels and colours"
    assert 10 < abs(brightness).max() <= 20
    contrast = values(Augmentation(0, 0, 0, 0.5, 0))
    assert (abs(contrast[:, 0] - 128) <= 1).all(), "mid-grey stays"
    assert contrast[:, 4].std() > 5
    colour = values(Augmentation(0, 0, 0, 0, 0.5))
    assert (colour.max(axis=2) - colour.min(axis=2)).max() > 10
    crop = values(Augmentation(0.5, 0, 0, 0, 0))
    assert len({int((row > 94).sum()) for row in crop[..., 0]}) > 3, "the edge is elsewhere"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("put the spoon LEFT of the pot", True),
        ("push to the right", True),
        ("take the leftmost cup", True),
        ("use the right-hand drawer", True),
        ("turn the knob clockwise", True),
        ("turn it counter-clockwise", True),
        ("turn it anticlockwise", True),
        ("put the bright cup upright", False),
        ("open the drawer", False),
        ("", False),
    ],
)
def test_texts_that_name_a_side_forbid_the_mirror(text: str, says: bool) -> None:
    assert names_a_side(text) == says
    always = Augmentation(0, 1, 0, 0, 0)
    assert always.draw(np.random.default_rng(0), text).mirrored != says


def test_no_mirror_unless_asked_for() -> None:
    rng = np.random.default_rng(0)
    assert not any(Augmentation().draw(rng, "open the drawer").mirrored for _ in range(200))
    share = np.mean([FULL.draw(rng, "open the drawer").mirrored for _ in range(400)])
    assert 0.4 < share < 0.6


def test_the_drawn_wording_decides_on_the_mirror() -> None:
    texts = ("open the left drawer", "open the drawer")
    clips = ClipDataset(
        [make_episode(instructions=texts)],
        ClipConfig(4, actions=True),
        augment=Augmentation(0, 1, 0, 0, 0),
        epoch=60,
    )
    seen = set()
    for clip in clips:
        # Unmirrored frames are bright blue on their left.
        mirrored = bool(clip.frames[0, 0, 0, 2] < clip.frames[0, 0, -1, 2])
        assert mirrored == (clip.instruction == texts[1])
        assert clip.actions is not None
        assert clip.actions[1, 1] == (-1 if mirrored else 1) * (clip.start + 1)
        seen.add(mirrored)
    assert seen == {True, False}


def rotation(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """Turn about x, then y, then z."""
    (cr, cp, cy), (sr, sp, sy) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6), st.floats(0, 1))
def test_mirrored_actions_are_the_motion_seen_in_a_mirror(
    motion: list[float], gripper: float
) -> None:
    action = np.array([[*motion, gripper]], np.float32)
    mirrored = Look(mirrored=True).actions(action)[0].astype(float)
    mirror = np.diag([1.0, -1.0, 1.0])
    np.testing.assert_allclose(mirrored[:3], mirror @ action[0, :3])
    np.testing.assert_allclose(
        rotation(*mirrored[3:6]), mirror @ rotation(*action[0, 3:6]) @ mirror, atol=1e-6
    )
    assert mirrored[6] == action[0, 6]
    assert Look().actions(action) is action


@pytest.mark.parametrize(
    ("part", "value"), [("crop", 1.0), ("mirror", 1.5), ("brightness", -1), ("colour", np.nan)]
)
def test_parts_out_of_range(part: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{part}="):
        Augmentation(**{part: value})
