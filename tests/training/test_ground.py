"""Towers point at what an instruction names, wherever a varied picture shows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aid_robot.data.clips import Augmentation, ClipConfig, Look
from aid_robot.errors import DataFormatError
from aid_robot.model.config import DQFormerConfig
from aid_robot.training.config import DataConfig
from aid_robot.training.data import TrainingData, training_clips
from aid_robot.training.noise import Noise
from aid_robot.training.samples import SampleDataset, collate_samples, distinct
from aid_robot.training.stages.aid import AIDStage
from aid_robot.training.stages.clip import CLIPStage
from aid_robot.training.stages.ground import GroundStage, place_loss
from aid_robot.training.views import View
from tests.tiny import tiny_config, tiny_model
from tests.training.episodes import COLOURS, square_episode, square_store
from tests.training.tiny_stage import tiny_clips, tiny_stage

ONE_FRAME = ClipConfig(1, 0, (32, 32))


def clips_of(count: int, points: Augmentation, **fields: Any) -> SampleDataset:
    episodes = [square_episode(number, **fields) for number in range(count)]
    views = [View(episode, n, 0, episode.videos) for n, episode in enumerate(episodes)]
    return SampleDataset(views, ONE_FRAME, points=points, seed=3)


def test_places_follow_the_picture() -> None:
    """However a frame is cut and mirrored, the place that is told shows the named colour."""
    wild = Augmentation(crop=0.8, mirror=0.5, brightness=0, contrast=0, colour=0)
    clips = clips_of(12, wild)
    seen = hidden = 0
    for number in range(60):
        pointed = clips[number].pointed
        assert pointed is not None
        x, y = pointed.places[0]
        if np.isnan(x):
            hidden += 1
            continue
        colour = next(c for name, c in COLOURS.items() if name in pointed.instruction)
        pixel = pointed.frame[int(y * 32), int(x * 32)].astype(int)
        assert np.abs(pixel - colour).max() < 60, (pointed.instruction, pixel)
        seen += 1
    assert seen > 30
    assert hidden, "what is cut away has no place"
    places = collate_samples([clips[0]]).pointed_places
    assert places is not None
    assert places[:, 1].isnan().all(), "it goes nowhere that has a name"


def test_a_frame_as_it_is_keeps_its_places() -> None:
    pointed = clips_of(4, Augmentation(crop=0.5)).choose(4)
    for number, sample in enumerate(pointed):
        assert sample.pointed is not None
        told = square_episode(number).info["places"]["image_0"]["object"]
        assert sample.pointed.places[0] == pytest.approx(told)


def test_a_look_moves_places_as_it_moves_pixels() -> None:
    look = Look(zoom=0.5, top=1.0, left=0.0, mirrored=True)
    assert look.places(np.array([[0.25, 0.75], [0.0, 0.5]], np.float32)) == pytest.approx(
        np.array([[0.5, 0.5], [1.0, 0.0]])
    )


def test_the_loss_asks_for_known_places_alone() -> None:
    logits = torch.zeros(1, 2, 16)
    logits[0, 0, 6] = 9  # row 1, column 2
    near = torch.tensor([[[0.625, 0.375], [torch.nan, torch.nan]]])
    far = torch.tensor([[[0.125, 0.875], [torch.nan, torch.nan]]])
    assert place_loss(logits, near) < 0.1
    assert place_loss(logits, far) > 5
    assert place_loss(logits, torch.full((1, 2, 2), torch.nan)) == 0


def test_what_is_found_is_measured_against_another_text() -> None:
    stage = tiny_stage("ground")
    assert isinstance(stage, GroundStage)
    figures = stage(collate_samples([tiny_clips("ground")[n] for n in range(4)]), task="measure")
    assert set(figures) == {"found", "found_by_the_next_text"}
    assert all(((values >= 0) & (values <= 1)).all() for values in figures.values())


def test_a_model_s_own_pointer_is_taught() -> None:
    model = tiny_model(dqformer=DQFormerConfig(num_attention_heads=2, pointing=True))
    stage = tiny_stage("ground", model)
    assert isinstance(stage, GroundStage)
    assert stage.pointer is None
    assert not any(name.startswith("pointer.") for name in stage.state_dict())
    names = {name for name in stage.trained if name.startswith("condition_encoder.")}
    assert names
    assert all(name.startswith("condition_encoder.dqformer.pointer.") for name in names)
    batch = collate_samples([tiny_clips("ground")[number] for number in range(2)])
    stage(batch, Noise(0, 0, 2)).backward()
    assert all(parameter.grad is not None for parameter in stage.trained.values())


@pytest.mark.parametrize("cached", [True, False])
def test_a_pointer_is_taught_beside_aid_where_the_towers_are_at_hand(cached: bool) -> None:
    model = tiny_model(dqformer=DQFormerConfig(num_attention_heads=2, pointing=True))
    stage = tiny_stage("aid", model)
    assert isinstance(stage, AIDStage)
    batch, noise = (
        collate_samples([tiny_clips("aid")[number] for number in range(2)]),
        Noise(0, 0, 2),
    )
    if cached:
        known = stage.encodings(batch, stage.latents_of(batch, slice(1)))
        text = torch.cat([known.text[:, None], known.states], dim=1)
        batch = replace(batch, text=text, image=known.image)
    further = stage.condition(batch, noise, stage.latents_of(batch))[1]
    assert bool(further > 0) == (not cached)


def test_a_draft_leaves_the_pointer_where_the_towers_were_taught() -> None:
    model = tiny_model(dqformer=DQFormerConfig(num_attention_heads=2, pointing=True))
    trained = tiny_stage("draft", model).trained
    assert any(name.startswith("condition_encoder.dqformer.places.") for name in trained)
    assert not any(".pointer." in name for name in trained)


def test_a_row_of_alternatives_shows_one_picture() -> None:
    """What begins alike looks alike, so that it is encoded once."""
    look = Augmentation(crop=0.3, mirror=0.5)
    episodes = [
        replace(square_episode(number), info=square_episode(0).info | {"alternatives_group": "a"})
        for number in range(4)
    ]
    first = episodes[0].videos["image_0"][:1]
    episodes = [
        replace(e, videos={"image_0": np.concatenate([first, e.videos["image_0"][1:]])})
        for e in episodes
    ]
    views = [View(episode, n, 0, episode.videos) for n, episode in enumerate(episodes)]
    clips = SampleDataset(
        views, ClipConfig(4, 1, (32, 32)), augment=look, points=look, alternatives=4, seed=3
    )
    rows = [[clips[row * 4 + place] for place in range(4)] for row in range(3)]
    for row in rows:
        batch = collate_samples(row)
        assert batch.pointed_frames is not None
        for frames in (batch.clips.frames[:, 0], batch.pointed_frames):
            different, places = distinct(frames)
            assert len(different) == 1
            assert different[places].equal(frames)
        assert len({sample.instruction for sample in row}) > 1
    looks = [row[0].frames[0].tobytes() for row in rows]
    assert len(set(looks)) > 1, "another row, another look"


def test_clips_without_places_still_train_the_towers() -> None:
    stage = tiny_stage("clip")
    assert isinstance(stage, CLIPStage)
    clips, pointer = tiny_clips("clip"), stage.pointer
    assert pointer is not None
    samples = [replace(clips[number], pointed=None) for number in range(2)]
    batch = collate_samples(samples)
    assert batch.pointed_frames is None
    stage(batch, Noise(0, 0, 2)).backward()
    # No process may wait for a gradient that another one lacks.
    assert all(p.grad is not None and not p.grad.any() for p in pointer.parameters())


def test_a_store_that_knows_no_places_is_refused(tmp_path: Path) -> None:
    store = square_store(tmp_path, info={})
    data = TrainingData.open(DataConfig(store=str(store), held_out=0.3))
    with pytest.raises(DataFormatError, match=r"none of \d+ .* leave out the stage 'ground'"):
        training_clips(data, GroundStage, tiny_config(), None, 0)


@pytest.mark.parametrize("places", [{"object": [0.5]}, {"object": "left"}, {"target": [[1, 2], 3]}])
def test_places_in_another_form_are_named(places: dict[str, Any]) -> None:
    clips = clips_of(1, Augmentation(), info={"places": {"image_0": places}})
    with pytest.raises(DataFormatError, match=r"'square-0' has places in another form"):
        clips[0]
