"""Stages of a tiny model on squares, for tests of the loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from aid_robot.data.clips import Augmentation, ClipConfig
from aid_robot.model.aid import AIDModel
from aid_robot.model.states import make_state_predictor
from aid_robot.training.config import StageConfig, StageName
from aid_robot.training.samples import SampleDataset
from aid_robot.training.stages import STAGE_CLASSES, Stage, make_stage
from aid_robot.training.trainer import Trainer
from aid_robot.training.views import View
from tests.tiny import SIZES, tiny_model
from tests.training.episodes import square_episode

SMALL = replace(SIZES, unet_channels=(32, 32), unet_heads=(2, 2))
CONFIG = {"steps": 4, "batch_size": 2, "learning_rate": 1e-3, "warmup_steps": 1, "log_every": 1}


def tiny_clips(name: StageName = "prior", count: int = 4) -> SampleDataset:
    """Cut clips of squares, that are held in memory."""
    views = []
    for number in range(count):
        episode = square_episode(number)
        views.append(View(episode, number, 0, episode.videos))
    kind = STAGE_CLASSES[name]
    cut = ClipConfig(4, 1, (32, 32)) if kind.whole_clips else ClipConfig(1, 0, (32, 32))
    pairs, points = (Augmentation() if on else None for on in (kind.captions, kind.points))
    return SampleDataset(views, cut, pairs=pairs, points=points)


def tiny_stage(name: StageName = "prior", model: AIDModel | None = None, **config: Any) -> Stage:
    """Set up a stage of a tiny model."""
    settings = StageConfig(**{**CONFIG, **config})
    return make_stage(
        name, model or tiny_model(sizes=SMALL), settings, make_state_predictor("template")
    )


def tiny_trainer(folder: Path, stage: Stage, **arguments: Any) -> Trainer:
    """Set up the loop in this process, on the CPU."""
    held_out = arguments.pop("held_out", ())
    clips = arguments.pop("clips", None) or tiny_clips(stage.name)
    return Trainer(
        stage, clips, stage.config, folder, Accelerator(cpu=True), held_out=held_out, **arguments
    )
