"""Run one stage of the bundled model's training, from recordings to a saved model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from aid_robot.data.clips import (
    Augmentation,
    ClipConfig,
    ClipDataset,
    latents_key,
    load_episodes,
)
from aid_robot.data.episode import Episode, FloatArray, UInt8Array
from aid_robot.data.frames import ArrayFrames
from aid_robot.data.ingest import open_recording
from aid_robot.errors import ConfigError, FrameRateError
from aid_robot.model.aid import AIDModel
from aid_robot.model.build import SMALL_SIZES, build_model, build_tokenizer, zero_residual_branches
from aid_robot.model.checkpoint import load_base_unet, load_model, save_model
from aid_robot.model.config import preset
from aid_robot.model.latents import encode, to_pixels
from aid_robot.model.states import make_state_predictor
from aid_robot.runtime.denoiser import choose_device
from aid_robot.training.config import STAGE_DEFAULTS, TrainingConfig
from aid_robot.training.stages import STAGES, make_stage
from aid_robot.training.trainer import Trainer

# Every so manieth episode of a recording is held out, in the order of their names.
HOLD_OUT_EVERY = 5
_VOCABULARY = 2048
AUGMENTATION = Augmentation(mirror=0.5)


def split_episodes(episodes: Sequence[Episode]) -> tuple[list[Episode], list[Episode]]:
    """Split one recording into training and held-out episodes."""
    names = sorted({episode.id for episode in episodes})
    held_out = set(names[HOLD_OUT_EVERY // 2 :: HOLD_OUT_EVERY])
    train = [episode for episode in episodes if episode.id not in held_out]
    return train, [episode for episode in episodes if episode.id in held_out]


def load_sources(
    sources: Sequence[Path],
    height: int,
    width: int,
    *,
    all_cameras: bool = True,
    margin: bool = True,
) -> tuple[list[Episode], list[Episode]]:
    """Load and split recordings of any readable layout.

    Args:
        sources: Recordings.
        height: Of the clips.
        width: Of the clips.
        all_cameras: Every camera, else the default one alone.
        margin: Load at 8/7 of the size, so that augmentation can crop.
    """
    size = (height * 8 // 7, width * 8 // 7) if margin else (height, width)
    train: list[Episode] = []
    held_out: list[Episode] = []
    for source in sources:
        episodes = load_episodes(open_recording(source), size, all_cameras=all_cameras)
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
    device: str = "auto",
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
        device: "auto", "cpu", "cuda", ...

    Returns:
        The folder of the saved model.
    """
    if name not in STAGES:
        raise ConfigError(f"no training stage '{name}'; known: {', '.join(STAGES)}")
    config = config or STAGE_DEFAULTS[name]
    shape = preset("small")
    train, _ = load_sources(sources, shape.height, shape.width)
    # Video of unknown rate teaches how things look, not how they move.
    usable = train if name == "vae" else [e for e in train if has_rate(e, shape.fps)]
    if not usable:
        rates = sorted({str(episode.fps) for episode in train})
        raise FrameRateError(
            f"no training episode has the model's {shape.fps:g} frames a second; theirs are "
            f"{', '.join(rates)}: resample the recordings"
        )
    if name == "aid":
        usable = [e for e in usable if e.instructions]
    order = list(STAGES)
    if start is None and name != order[0]:
        start = folder / order[order.index(name) - 1] / "model"
    model = _starting_model(start, train)
    target_device = choose_device(device)
    for module in model.modules.values():
        nn.Module.to(module, device=target_device)
    size = (shape.height, shape.width)
    if name == "vae":
        # Single frames, as the stage asks for.
        cut = ClipConfig(1, 0, size, camera="all", weighting="sqrt")
        clips = ClipDataset(usable, cut, augment=AUGMENTATION, seed=config.seed)
    else:
        usable = encode_versions(usable, size, _encoder(model), config)
        cut = ClipConfig(
            shape.num_frames,
            shape.num_conditioning_frames,
            fps=shape.fps,
            camera="all",
            weighting="sqrt",
            latents="vae",
        )
        clips = ClipDataset(usable, cut, seed=config.seed)
    if name == "prior":
        _fit_scales(model, clips)
    # What AID is about to change stays on disk as the prior's.
    base_unet = load_base_unet(start) if name == "aid" and start is not None else None

    stage = make_stage(name, model, config)
    count = sum(parameter.numel() for parameter in stage.parameters.values())
    print(
        f"stage {name}: {count / 1e6:.2f} M parameters train on {len(clips.windows)} windows of "
        f"{len(usable)} episodes",
        flush=True,
    )
    recipe = {"sources": [str(source) for source in sources], "start": str(start)}
    Trainer(stage, clips, config, folder / name, minutes, recipe).run()
    target = folder / name / "model"
    save_model(model, target, base_unet=base_unet)
    return target


def _starting_model(start: Path | None, train: Sequence[Episode]) -> AIDModel:
    if start is not None:
        return load_model(start)
    return new_small_model([text for episode in train for text in episode.instructions])


def has_rate(episode: Episode, fps: float) -> bool:
    """Tell whether an episode was recorded at a rate."""
    return episode.fps is not None and abs(episode.fps - fps) < 1e-3


def _encoder(model: AIDModel) -> Callable[[UInt8Array], FloatArray]:
    def encode_frames(frames: UInt8Array) -> FloatArray:
        with torch.inference_mode():
            pixels = to_pixels(torch.from_numpy(frames)[None].to(model.device))
            latents: FloatArray = encode(model.vae, pixels)[0].cpu().numpy()
        return latents

    return encode_frames


def encode_versions(
    episodes: Sequence[Episode],
    size: tuple[int, int],
    encode_frames: Callable[[UInt8Array], FloatArray],
    config: TrainingConfig,
) -> list[Episode]:
    """Augment every video a few times over, and encode it: an episode of one camera each.

    Args:
        episodes: In memory.
        size: Height and width of the augmented frames.
        encode_frames: (T, H, W, 3) uint8 -> (T, C, h, w) latents.
        config: Says how many versions, and the seed.
    """
    rng = np.random.default_rng(config.seed)
    found = []
    for episode in tqdm(episodes, desc="encode", unit="episode"):
        for camera, video in episode.videos.items():
            for version in range(config.cached_versions):
                # Whatever wording is drawn later, it must be true of the frames.
                look = AUGMENTATION.draw(rng, " ".join(episode.instructions))
                frames = look.frames(np.asarray(video), size)
                found.append(
                    replace(
                        episode,
                        id=f"{episode.id}/{camera}#{version}",
                        videos={camera: ArrayFrames(frames)},
                        actions=None,
                        state=None,
                        arrays={latents_key(camera): encode_frames(frames)},
                    )
                )
    return found


def _fit_scales(model: AIDModel, clips: ClipDataset, count: int = 256) -> None:
    """Bring what is denoised to unit variance: the latents, then their change over a clip."""
    drawn = [clips[number].latents for number in range(count)]
    latents = torch.from_numpy(np.stack([part for part in drawn if part is not None]))
    scale = 1.0 / latents.std().item()
    model.vae.register_to_config(scaling_factor=scale)
    moved = (latents[:, 1:] - latents[:, :1]) * scale
    model.config = replace(model.config, latent_reference_scale=1.0 / moved.std().item())
    # The condition encoder reads the shared config, too.
    model.condition_encoder.config = model.config
    print(json.dumps({"scaling_factor": scale, "change_scale": 1.0 / moved.std().item()}))
