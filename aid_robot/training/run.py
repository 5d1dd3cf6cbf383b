"""Run one stage of the bundled model's training, from recordings to a saved model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aid_robot.data.clips import Clip, ClipSampler, LoadedEpisode, load_episodes
from aid_robot.data.ingest import open_recording
from aid_robot.errors import ConfigError
from aid_robot.model.aid import AIDModel
from aid_robot.model.build import SMALL_SIZES, build_model, build_tokenizer, zero_residual_branches
from aid_robot.model.checkpoint import load_model, save_model
from aid_robot.model.config import preset
from aid_robot.model.latents import encode, to_pixels
from aid_robot.model.states import make_state_predictor
from aid_robot.training.config import STAGE_DEFAULTS, TrainingConfig
from aid_robot.training.stages import STAGES, make_stage
from aid_robot.training.trainer import Trainer

# Every so manieth episode of a recording is held out, in the order of their names.
HOLD_OUT_EVERY = 5
_VOCABULARY = 2048


def split_episodes(
    episodes: Sequence[LoadedEpisode],
) -> tuple[list[LoadedEpisode], list[LoadedEpisode]]:
    """Split one recording into training and held-out episodes, cameras of one together."""
    names = sorted({episode.id.rsplit("/", 1)[0] for episode in episodes})
    held_out = set(names[HOLD_OUT_EVERY // 2 :: HOLD_OUT_EVERY])
    train = [e for e in episodes if e.id.rsplit("/", 1)[0] not in held_out]
    return train, [e for e in episodes if e.id.rsplit("/", 1)[0] in held_out]


def load_sources(
    sources: Sequence[Path], height: int, width: int, *, all_cameras: bool = True
) -> tuple[list[LoadedEpisode], list[LoadedEpisode]]:
    """Load and split recordings of any readable layout, at 8/7 of the clips' size."""
    train: list[LoadedEpisode] = []
    held_out: list[LoadedEpisode] = []
    for source in sources:
        episodes = load_episodes(
            open_recording(source), height * 8 // 7, width * 8 // 7, all_cameras=all_cameras
        )
        parts = split_episodes(episodes)
        train += parts[0]
        held_out += parts[1]
    return train, held_out


def new_small_model(instructions: Sequence[str], seed: int = 0) -> AIDModel:
    """Build the bundled model's architecture with random weights and a vocabulary."""
    states = make_state_predictor("template")
    blank = np.zeros((16, 16, 3), np.uint8)
    texts = [*instructions, *(s for text in instructions for s in states(blank, text))]
    tokenizer = build_tokenizer(texts, _VOCABULARY, SMALL_SIZES.text_length)
    model = build_model(preset("small"), SMALL_SIZES, tokenizer, seed)
    zero_residual_branches(model.vae)
    zero_residual_branches(model.unet)
    return model


def train_stage(
    name: str,
    sources: Sequence[Path],
    folder: Path,
    minutes: float,
    *,
    start: Path | None = None,
    config: TrainingConfig | None = None,
) -> Path:
    """Train a stage and save the whole model.

    Args:
        name: "vae", "prior" or "aid".
        sources: Recordings of any readable layout.
        folder: Of the run; the stage works in `folder/<name>`.
        minutes: Length of the stage.
        start: Model folder to start from; None takes the stage before, and a fresh model for
            the first.
        config: Settings; None takes the stage's defaults.

    Returns:
        The folder of the saved model.
    """
    if name not in STAGES:
        raise ConfigError(f"no training stage '{name}'; known: {', '.join(STAGES)}")
    config = config or STAGE_DEFAULTS[name]
    shape = preset("small")
    train, _ = load_sources(sources, shape.height, shape.width)
    # Video of unknown rate teaches how things look, not how they move.
    usable = train if name == "vae" else [e for e in train if e.fps == shape.fps]
    if name == "aid":
        usable = [e for e in usable if e.instructions]
    model = _starting_model(name, folder, start, train)
    clips = ClipSampler(usable, shape.num_frames, (shape.height, shape.width))
    if name == "prior":
        _fit_scales(model, clips)
    base_unet = _base_unet(model) if name == "aid" else None

    stage = make_stage(name, model, config)
    count = sum(parameter.numel() for parameter in stage.parameters.values())
    frames = sum(len(episode.frames) for episode in clips.episodes)
    print(
        f"stage {name}: {count / 1e6:.2f} M parameters train on {len(clips.episodes)} videos "
        f"({frames} frames)",
        flush=True,
    )
    Trainer(stage, clips, config, folder / name, minutes).run()
    target = folder / name / "model"
    save_model(model, target, base_unet=base_unet)
    return target


def _starting_model(
    name: str, folder: Path, start: Path | None, train: Sequence[LoadedEpisode]
) -> AIDModel:
    order = list(STAGES)
    if start is None and name != order[0]:
        start = folder / order[order.index(name) - 1] / "model"
    if start is not None:
        return load_model(start)
    return new_small_model([text for episode in train for text in episode.instructions])


def _fit_scales(model: AIDModel, clips: ClipSampler, count: int = 64) -> None:
    """Bring what is denoised to unit variance: the latents, then their change over a clip."""
    rng = np.random.default_rng(0)
    drawn: list[Clip] = [clips.draw(rng) for _ in range(count)]
    with torch.inference_mode():
        latents: Tensor = torch.cat(
            [encode(model.vae, to_pixels(torch.from_numpy(clip.frames[None]))) for clip in drawn]
        )
    scale = 1.0 / latents.std().item()
    model.vae.register_to_config(scaling_factor=scale)
    moved = (latents[:, 1:] - latents[:, :1]) * scale
    model.config = replace(model.config, latent_reference_scale=1.0 / moved.std().item())
    # The condition encoder reads the shared config, too.
    model.condition_encoder.config = model.config
    print(json.dumps({"scaling_factor": scale, "change_scale": 1.0 / moved.std().item()}))


def _base_unet(model: AIDModel) -> dict[str, Tensor]:
    """Copy the prior's cross-attention, which AID is about to train."""
    trained = set(model.unet.aid_parameter_names())
    return {
        name: tensor.detach().clone()
        for name, tensor in model.unet.state_dict().items()
        if name in trained and ".adapters." not in name
    }
