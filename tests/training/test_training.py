"""Training: losses, what each stage changes, and going on after a stop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from aid_robot.data.clips import Clip, ClipConfig, ClipDataset
from aid_robot.data.episode import Episode
from aid_robot.data.frames import ArrayFrames
from aid_robot.errors import CheckpointError, ConfigError, TrainingError
from aid_robot.model.build import zero_residual_branches
from aid_robot.model.latents import encode, to_pixels
from aid_robot.training.config import TrainingConfig
from aid_robot.training.losses import draw_sigmas, edm_loss
from aid_robot.training.run import encode_versions, split_episodes, train_stage
from aid_robot.training.stages import Stage, make_stage
from aid_robot.training.trainer import Trainer
from tests.recordings import write_irasim
from tests.tiny import tiny_model

CONFIG = TrainingConfig(batch_size=2, learning_rate=1e-3, warmup_steps=1)


def episodes(count: int = 3, length: int = 6) -> list[Episode]:
    rng = np.random.default_rng(0)
    return [
        Episode(
            id=f"{i}",
            videos={"image_0": ArrayFrames(rng.integers(0, 256, (length, 36, 36, 3), np.uint8))},
            instructions=("open the drawer", "lift the red cube") if i % 2 else (),
            fps=5.0,
        )
        for i in range(count)
    ]


def clips(num_frames: int = 4) -> ClipDataset:
    given = min(1, num_frames - 1)
    return ClipDataset(episodes(), ClipConfig(num_frames, given, size=(32, 32)))


def weights(stage: Stage) -> dict[str, Tensor]:
    return {
        f"{module}.{name}": tensor.detach().clone()
        for module, part in stage.model.modules.items()
        for name, tensor in part.state_dict().items()
    }


def test_edm_loss_is_the_v_loss() -> None:
    """The weight (s^2+1)/s^2 on x0 is what makes it the plain error of SVD's network output."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(3, 4, 2, 5, 5, generator=generator)
    sigma = draw_sigmas(3, generator)
    level = sigma.reshape(-1, 1, 1, 1, 1)
    noisy = target + level * torch.randn(target.shape, generator=generator)
    output = torch.randn(target.shape, generator=generator)
    norm = level**2 + 1
    prediction = noisy / norm - level / norm.sqrt() * output
    v = (noisy / norm - target) * norm.sqrt() / level
    expected = (output - v).square().mean()
    loss = edm_loss(prediction, target, sigma, torch.ones(3, 4))
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_frames_of_weight_zero_do_not_count() -> None:
    target = torch.zeros(1, 3, 1, 2, 2)
    prediction = target.clone()
    prediction[:, 0] = 100.0
    weight = torch.tensor([[0.0, 1.0, 1.0]])
    assert edm_loss(prediction, target, torch.ones(1), weight) == 0


def test_sigmas_follow_the_distribution() -> None:
    logs = draw_sigmas(20000, torch.Generator().manual_seed(0), 0.7, 1.6).log()
    assert logs.mean().item() == pytest.approx(0.7, abs=0.05)
    assert logs.std().item() == pytest.approx(1.6, abs=0.05)


@pytest.mark.parametrize(
    ("name", "moves", "stays"),
    [
        ("vae", {"vae"}, {"unet", "image_encoder", "text_encoder", "condition_encoder"}),
        ("prior", {"unet", "image_encoder"}, {"vae", "text_encoder", "condition_encoder"}),
        ("aid", {"unet", "image_encoder", "text_encoder", "condition_encoder"}, {"vae"}),
    ],
)
def test_each_stage_trains_its_parts_and_no_others(
    tmp_path: Path, name: str, moves: set[str], stays: set[str]
) -> None:
    stage = make_stage(name, tiny_model(), CONFIG)
    before = weights(stage)
    trainer = Trainer(stage, clips(stage.frames_per_clip), CONFIG, tmp_path, minutes=1)
    for _ in range(3):
        trainer._step()
    changed = {n for n, tensor in weights(stage).items() if not torch.equal(tensor, before[n])}
    assert {n.split(".")[0] for n in changed} == moves
    assert not {n.split(".")[0] for n in changed} & stays
    assert changed <= set(stage.parameters)
    if name == "aid":
        frozen = {n for n in before if n.startswith("unet.")} - set(stage.parameters)
        assert frozen, "the prior stays, bit for bit"
        assert all(".attn2." in n or ".norm2." in n or ".adapters." in n
                   for n in changed if n.startswith("unet."))  # fmt: skip
    if name == "prior":
        assert not any(".adapters." in n for n in changed)


@pytest.mark.parametrize("name", ["vae", "prior", "aid"])
def test_a_stage_learns(name: str, tmp_path: Path) -> None:
    """Thirty steps on two clips must lower the loss on them."""
    model = tiny_model()
    zero_residual_branches(model.vae)
    config = replace(CONFIG, learning_rate=3e-3, text_dropout=0, image_dropout=0)
    stage = make_stage(name, model, config)
    batch = [clips(stage.frames_per_clip)[number] for number in range(2)]

    def mean_loss() -> float:
        with torch.no_grad():
            return float(
                np.mean([stage.loss(batch, torch.Generator().manual_seed(i)) for i in range(8)])
            )

    start = mean_loss()
    optimizer = torch.optim.AdamW(stage.parameters.values(), lr=3e-3)
    generator = torch.Generator().manual_seed(99)
    for _ in range(30):
        loss = stage.loss(batch, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert mean_loss() < 0.97 * start


def test_noise_augmentation_reaches_training(tmp_path: Path) -> None:
    def loss(strength: float) -> float:
        stage = make_stage("aid", tiny_model(noise_aug_strength=strength), CONFIG)
        batch = [clips()[number] for number in range(2)]
        return stage.loss(batch, torch.Generator().manual_seed(0)).item()

    assert loss(0.0) != loss(0.5)


def constant_rate(trainer: Trainer, steps: int) -> None:
    for _ in range(steps):
        trainer.elapsed = 1.0  # the learning rate follows the clock; hold it
        trainer._step()


def test_a_run_goes_on_with_the_same_weights_and_noise(tmp_path: Path) -> None:
    whole = Trainer(make_stage("prior", tiny_model(), CONFIG), clips(), CONFIG, tmp_path / "a", 1)
    constant_rate(whole, 6)

    first = Trainer(make_stage("prior", tiny_model(), CONFIG), clips(), CONFIG, tmp_path / "b", 1)
    constant_rate(first, 3)
    first._save()
    second = Trainer(make_stage("prior", tiny_model(), CONFIG), clips(), CONFIG, tmp_path / "b", 1)
    assert second.step == 3
    constant_rate(second, 3)
    for name, parameter in whole.stage.parameters.items():
        assert torch.equal(parameter, second.stage.parameters[name]), name
        assert torch.equal(whole.average[name], second.average[name]), name


def test_another_recipe_is_refused(tmp_path: Path) -> None:
    stage = make_stage("vae", tiny_model(), CONFIG)
    single = clips(1)
    Trainer(stage, single, CONFIG, tmp_path, 1, {"sources": ["a"]})._save()
    for changes in ({"minutes": 2.0}, {"recipe": {"sources": ["b"]}}):
        arguments = {"minutes": 1, "recipe": {"sources": ["a"]}, **changes}
        with pytest.raises(CheckpointError, match="another recipe"):
            Trainer(stage, single, CONFIG, tmp_path, **arguments)
    with pytest.raises(CheckpointError, match="another recipe"):
        Trainer(stage, single, replace(CONFIG, seed=1), tmp_path, 1, {"sources": ["a"]})
    with pytest.raises(CheckpointError, match="another recipe"):
        Trainer(stage, ClipDataset(episodes(4), single.config), CONFIG, tmp_path, 1,
                {"sources": ["a"]})  # fmt: skip
    Trainer(stage, single, CONFIG, tmp_path, 1, {"sources": ["a"]})
    with pytest.raises(ConfigError, match="num_frames=4; the stage takes 1"):
        Trainer(stage, clips(), CONFIG, tmp_path / "other", 1)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    class Broken(Stage):
        def trained_names(self) -> set[str]:
            return {"condition_encoder.mask_token"}

        def loss(self, batch: Sequence[Clip], generator: torch.Generator) -> Tensor:
            return self.parameters["condition_encoder.mask_token"].sum() * float("nan")

    with pytest.raises(TrainingError, match="the loss is nan at step 0: lower learning_rate"):
        Trainer(Broken(tiny_model(), CONFIG), clips(), CONFIG, tmp_path, 1)._step()


def test_cached_latents_are_those_of_the_frames() -> None:
    model = tiny_model()

    def encode_frames(frames: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return encode(model.vae, to_pixels(torch.from_numpy(frames)[None]))[0].numpy()

    config = TrainingConfig(cached_versions=2)
    versions = encode_versions(episodes(), (32, 32), encode_frames, config)
    assert len({episode.id for episode in versions}) == 3 * 2
    cached = ClipDataset(versions, ClipConfig(4, 1, camera="all", latents="vae"))
    whole = ClipDataset(versions, ClipConfig(4, 1, camera="all"))
    for number in range(4):
        clip, frames = cached[number], whole[number].frames
        assert clip.latents is not None
        np.testing.assert_array_equal(clip.frames, frames[:1])
        np.testing.assert_allclose(clip.latents, encode_frames(frames), atol=1e-4)


def test_split_leaves_no_episode_out() -> None:
    whole = episodes(11)
    train, held_out = split_episodes(whole)
    names = [{episode.id for episode in part} for part in (train, held_out)]
    assert not names[0] & names[1]
    assert names[0] | names[1] == {episode.id for episode in whole}
    assert len(names[1]) == 2


def test_three_stages_on_a_recording_end_in_a_model(tmp_path: Path) -> None:
    """The whole recipe of the bundled model, for seconds, by the functions that the CLI calls."""
    source = write_irasim(tmp_path / "recording", episodes=5, frames=9)
    config = TrainingConfig(batch_size=1, cached_versions=1)
    for name in ("vae", "prior", "aid"):
        model = train_stage(name, [source], tmp_path / "run", 0.02, config=config, device="cpu")
    saved = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    prior = load_file(
        tmp_path / "run" / "prior" / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    )
    assert all(torch.equal(saved[name], prior[name]) for name in prior), "the prior is kept"
    config_file = json.loads((model / "aid" / "config.json").read_text())
    assert config_file["latent_reference_scale"] > 0
    with pytest.raises(ConfigError, match="known: vae, prior, aid"):
        train_stage("text", [source], tmp_path / "run", 1)
