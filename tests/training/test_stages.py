"""What each stage changes, that it learns, and what it sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from aid_robot.errors import ConfigError, DataFormatError
from aid_robot.model.build import zero_residual_branches
from aid_robot.training.config import StageName
from aid_robot.training.noise import Noise
from aid_robot.training.samples import collate_samples, draw_pair
from aid_robot.training.stages import Stage
from aid_robot.training.stages.aid import AIDStage
from aid_robot.training.stages.diffusion import DiffusionStage
from aid_robot.training.views import View
from tests.tiny import tiny_model
from tests.training.episodes import square_episode
from tests.training.tiny_stage import SMALL, tiny_clips, tiny_stage, tiny_trainer

TOWERS = {"image_encoder", "text_encoder"}


def weights(stage: Stage) -> dict[str, Tensor]:
    parts = {**stage.model.modules, **dict(stage.named_children())}
    return {
        f"{part}.{name}": tensor.detach().clone()
        for part, module in parts.items()
        for name, tensor in module.named_parameters()
    }


@pytest.mark.parametrize(
    ("name", "config", "moves"),
    [
        ("vae", {}, {"vae"}),
        ("ground", {}, TOWERS | {"pointer"}),
        ("clip", {}, TOWERS | {"condition_encoder", "head", "contrast", "pointer"}),
        ("draft", {}, {"condition_encoder", "head"}),
        ("prior", {}, {"unet"}),
        ("prior", {"train_towers": True}, {"unet", "image_encoder"}),
        ("aid", {}, {"unet", "condition_encoder"}),
        ("aid", {"train_towers": True}, TOWERS | {"unet", "condition_encoder"}),
        ("aid", {"auxiliary_weight": 0.1}, {"unet", "condition_encoder", "head"}),
        ("aid", {"trains": "full"}, {"unet", "condition_encoder"}),
    ],
)
def test_each_stage_trains_its_parts_and_no_others(
    tmp_path: Path, name: StageName, config: dict[str, object], moves: set[str]
) -> None:
    stage = tiny_stage(name, **{"steps": 2, **config})
    before = weights(stage)
    tiny_trainer(tmp_path, stage).run()
    changed = {n for n, tensor in weights(stage).items() if not tensor.equal(before[n])}
    assert {n.split(".")[0] for n in changed} == moves
    assert changed <= set(stage.trained)
    of_unet = {n for n in changed if n.startswith("unet.")}
    if name == "aid" and config.get("trains") != "full":
        parts = (".attn2.", ".norm2.", ".adapters.")
        assert all(any(part in n for part in parts) for n in of_unet), "the prior stays"
    if name == "prior":
        assert not any(".adapters." in n for n in of_unet)
    table = stage.table()
    assert f"{sum(p.numel() for p in stage.trained.values()):,d}" in table


@pytest.mark.parametrize("name", ["clip", "aid"])
def test_a_model_s_own_draft_trains_in_place_of_a_head(tmp_path: Path, name: StageName) -> None:
    model = tiny_model(sizes=SMALL, conditioning_fill="draft")
    stage = tiny_stage(name, model, steps=2, auxiliary_weight=0.1)
    before = weights(stage)
    tiny_trainer(tmp_path, stage).run()
    changed = {n for n, tensor in weights(stage).items() if not tensor.equal(before[n])}
    assert any(n.startswith("condition_encoder.draft.") for n in changed)
    assert not any(n.startswith("head.") for n in before)


def test_only_its_own_loss_trains_a_draft() -> None:
    model = tiny_model(sizes=SMALL, conditioning_fill="draft")
    with pytest.raises(ConfigError, match=r"auxiliary_weight=0: nothing would train the draft"):
        tiny_stage("aid", model)
    stage = tiny_stage("aid", model, auxiliary_weight=0.1)
    assert isinstance(stage, AIDStage)
    batch, noise = collate_samples([tiny_clips("aid")[0]]), Noise(0, 0, 1)
    latents = stage.latents_of(batch)
    condition, own = stage.condition(batch, noise, latents)
    head = model.condition_encoder.draft
    assert head is not None
    stage.denoising_loss(batch, latents, condition, torch.ones(1), noise).mean().backward(
        retain_graph=True
    )
    assert all(parameter.grad is None for parameter in head.parameters())
    own.backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


@pytest.mark.parametrize(
    ("prediction_type", "given", "bound"),
    [("v_prediction", None, None), ("sample", None, 5.0), ("sample", 9.0, 9.0)],
)
def test_small_noise_has_a_bound_where_x0_is_predicted(
    prediction_type: str, given: float | None, bound: float | None
) -> None:
    model = tiny_model(sizes=SMALL, prediction_type=prediction_type)
    stage = tiny_stage("prior", model, snr_gamma=given)
    assert isinstance(stage, DiffusionStage)
    assert stage.snr_gamma == bound


def test_a_better_decoder_leaves_latents_as_they_are(tmp_path: Path) -> None:
    stage = tiny_stage("vae", trains="decoder", steps=2)
    before, config = weights(stage), dict(stage.model.vae.config)
    clips = tiny_clips("vae")
    tiny_trainer(tmp_path, stage).run()
    stage.finish(collate_samples([clips[0]]))
    changed = {n for n, tensor in weights(stage).items() if not tensor.equal(before[n])}
    assert changed
    assert all(name.startswith("vae.decoder.") for name in changed)
    assert dict(stage.model.vae.config) == config, "and so is their scale"


@pytest.mark.parametrize("name", ["vae", "ground", "clip", "draft", "prior", "aid"])
def test_a_stage_learns(name: StageName) -> None:
    """Twenty steps on two clips must lower the loss on them."""
    model = tiny_model(sizes=SMALL)
    zero_residual_branches(model.vae)
    stage = tiny_stage(name, model, text_dropout=0.0, image_dropout=0.0)
    clips = tiny_clips(name)
    batch = collate_samples([clips[number] for number in range(2)])

    def mean_loss() -> float:
        with torch.no_grad():
            return float(np.mean([stage(batch, Noise(7, step, 2)) for step in range(4)]))

    start = mean_loss()
    optimizer = torch.optim.AdamW(stage.trained.values(), lr=3e-3)
    for step in range(20):
        loss = stage(batch, Noise(0, step, 2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert mean_loss() < 0.97 * start


def test_a_draft_is_the_same_whether_all_frames_are_encoded_or_those_it_needs() -> None:
    stage, clips = tiny_stage("clip"), tiny_clips("clip")
    computed = collate_samples([clips[number] for number in range(2)])
    assert computed.clips.latents is None
    latents = stage.latents_of(computed)
    cached = replace(computed, clips=replace(computed.clips, latents=latents))
    torch.testing.assert_close(stage.latents_of(computed, [1, 3]), latents[:, [1, 3]])
    torch.testing.assert_close(stage(computed, Noise(0, 0, 2)), stage(cached, Noise(0, 0, 2)))


@pytest.mark.parametrize("option", ["motion_weight", "conditioning_noise", "auxiliary_weight"])
def test_options_reach_the_loss(option: str) -> None:
    clips = tiny_clips("aid")
    batch = collate_samples([clips[number] for number in range(2)])
    # The mask token starts at zero and the adapters, too: only the option can differ.
    losses = [
        tiny_stage("aid", **{option: value})(batch, Noise(0, 0, 2)).item() for value in (0.0, 0.5)
    ]
    assert losses[0] != losses[1]


def test_noise_on_given_frames_reaches_training() -> None:
    clips = tiny_clips("prior")
    batch = collate_samples([clips[number] for number in range(2)])
    plain, noisy = (
        tiny_stage("prior", tiny_model(sizes=SMALL, noise_aug_strength=strength))(
            batch, Noise(0, 0, 2)
        )
        for strength in (0.0, 0.5)
    )
    assert plain.item() != noisy.item()


def test_a_clip_without_instruction_is_trained_as_one_whose_text_is_dropped() -> None:
    clips = tiny_clips("aid")
    clip = clips[0]
    with_text = collate_samples([clip])
    without = collate_samples([type(clip)(**{**vars(clip), "instruction": ""})])
    stage = tiny_stage("aid", text_dropout=0.0, image_dropout=0.0)
    dropped = tiny_stage("aid", text_dropout=0.999999, image_dropout=0.0)
    noise = [Noise(0, 0, 1) for _ in range(3)]
    assert stage(without, noise[0]).equal(dropped(with_text, noise[1]))
    assert not stage(with_text, noise[2]).equal(stage(without, Noise(0, 0, 1)))


def test_a_prediction_starts_with_the_given_frame_and_hears_the_text() -> None:
    stage = tiny_stage("aid")
    assert isinstance(stage, AIDStage)
    # As after training: an untrained cross-attention takes nothing from the text.
    clips = tiny_clips("aid")
    batch = collate_samples([clips[number] for number in range(3)])
    figures = stage(batch, task="measure", count=2)
    assert figures["psnr"].shape == (2,)
    assert figures["loss_sigma_5"].shape == (3,)
    with torch.no_grad():
        made = stage.predict(batch)
    assert made.shape == batch.clips.frames.shape
    assert made[:, 0].equal(batch.clips.frames[:, 0])


def test_pictures_go_with_what_is_true_of_them() -> None:
    episode = square_episode(1)
    view = View(episode, 0, 0, episode.videos)
    clip = next(iter(tiny_clips("clip", count=2)))
    clip = type(clip)(**{**vars(clip), "episode": episode.id, "instruction": "", "start": 3})
    pair = draw_pair(view, clip, np.random.default_rng(0), None, (32, 32))
    true, false = (caption["text"] for caption in episode.info["captions"]["end"])
    assert (pair.caption, pair.false_caption) == (true, false)
    np.testing.assert_array_equal(pair.frame, episode.frames[-1])
    bare = square_episode(1, info={})
    with pytest.raises(DataFormatError, match="neither an instruction nor captions"):
        draw_pair(View(bare, 0, 0, bare.videos), clip, np.random.default_rng(0), None, None)
    odd = square_episode(1, info={"captions": {"end": ["a text"]}})
    with pytest.raises(DataFormatError, match="captions in another form"):
        draw_pair(View(odd, 0, 0, odd.videos), clip, np.random.default_rng(0), None, None)
