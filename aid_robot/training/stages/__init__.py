"""The stages of training, in their order: each says what it trains, its loss, how it is judged."""

from __future__ import annotations

from collections.abc import Mapping

from aid_robot.model.aid import AIDModel
from aid_robot.model.states import StatePredictor
from aid_robot.training.config import StageConfig, StageName
from aid_robot.training.stages.aid import AIDStage
from aid_robot.training.stages.clip import CLIPStage
from aid_robot.training.stages.draft import DraftStage
from aid_robot.training.stages.ground import GroundStage
from aid_robot.training.stages.prior import PriorStage
from aid_robot.training.stages.stage import Stage
from aid_robot.training.stages.vae import VAEStage

STAGE_CLASSES: Mapping[StageName, type[Stage]] = {
    "vae": VAEStage,
    "ground": GroundStage,
    "clip": CLIPStage,
    "draft": DraftStage,
    "prior": PriorStage,
    "aid": AIDStage,
}


def make_stage(
    name: StageName,
    model: AIDModel,
    config: StageConfig,
    states: StatePredictor,
    *,
    cached: bool = False,
    embedded: bool = False,
) -> Stage:
    """Set up a stage, and set which parameters of the model need gradients."""
    return STAGE_CLASSES[name](model, config, states, cached=cached, embedded=embedded)


__all__ = ["STAGE_CLASSES", "AIDStage", "CLIPStage", "DraftStage", "GroundStage", "PriorStage",
           "Stage", "VAEStage", "make_stage"]  # fmt: skip
