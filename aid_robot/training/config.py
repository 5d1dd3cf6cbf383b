"""What a recipe says: its data, its model, and its stages in order."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aid_robot.data.clips import Augmentation
from aid_robot.errors import ConfigError

StageName = Literal["vae", "ground", "clip", "draft", "prior", "aid"]
Precision = Literal["fp32", "bf16"]
CacheWhere = Literal["store", "memory", "none"]
Weighting = Literal["windows", "sqrt", "episodes"]
Trains = Literal["aid", "full", "decoder"]

STAGES: tuple[StageName, ...] = ("vae", "ground", "clip", "draft", "prior", "aid")


@dataclass(frozen=True)
class DataConfig:
    """Which clips are trained on. N, K, the frames a second and the size are the model's."""

    # An episode store, a path or URL.
    store: str = ""
    # A camera's name, "default", "random", or "all", each as a video of its own.
    camera: str = "all"
    # Control steps from one frame of a clip to the next.
    stride: int = 1
    weighting: Weighting = "sqrt"
    # Windows that change less, in grey levels a frame, are left out.
    min_motion: float = 0.0
    # Outcomes whose instructions are believed; "" is an unlabelled one. `vae` and `prior` believe
    # none, and also learn from what went wrong.
    outcomes: tuple[str, ...] = ("success", "demo", "")
    # Share of scenes that is held out, and the seed that draws them.
    held_out: float = 0.1
    split_seed: int = 0
    augment: Augmentation = field(default_factory=Augmentation)
    # Processes that read clips ahead; 0 reads between steps.
    workers: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"held_out={self.held_out} must be in [0, 1)")
        if self.workers < 0:
            raise ConfigError(f"workers={self.workers} must be 0 or more")
        for outcome in self.outcomes:
            if outcome not in ("success", "failure", "demo", ""):
                raise ConfigError(f"outcomes has '{outcome}'; known: success, failure, demo, ''")


@dataclass(frozen=True)
class ModelConfig:
    """What is trained."""

    # Model folder or hub id to start from: an AID, or a Stable Video Diffusion, which gets a fresh
    # AID part; "" builds a small model with random weights.
    start: str = ""
    # Preset of `aid_robot.model.config`, where `start` is no AID.
    preset: str = "small"
    # Fields of AIDConfig that differ from the preset's, or from those of `start`.
    config: dict[str, Any] = field(default_factory=dict)
    # Fields of ModelSizes that differ from the small model's, where `start` is "".
    sizes: dict[str, Any] = field(default_factory=dict)
    # Begin the AID part anew, where `start` has one, on the prior that it came from.
    fresh_aid: bool = False
    # Model folder or hub id whose VAE a model with random weights begins with, where `start` is "".
    vae: str = ""
    # The same of its image and text towers, with their vocabulary and at their sizes.
    towers: str = ""
    # Upper bound of a fresh model's vocabulary.
    vocabulary: int = 2048
    # Who splits instructions: "template", "llava:..." or "endpoint:...".
    states: str = "template"


@dataclass(frozen=True)
class CacheConfig:
    """What is computed once of each episode, instead of in every step."""

    # "store" writes into the episode store and streams from there; "memory" holds it in RAM, for
    # small sets; "none" computes it in every step.
    where: CacheWhere = "store"
    # Differently augmented copies of each video whose latents are kept; 1 is the plain one alone.
    versions: int = 1
    # Also the outputs of frozen towers: tokens of each frame and of each wording.
    embeddings: bool = False
    # Frames that are encoded at once.
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.versions < 1 or self.batch_size < 1:
            raise ConfigError(
                f"versions={self.versions} and batch_size={self.batch_size} must be at least 1"
            )
        if self.where == "none" and (self.versions > 1 or self.embeddings):
            raise ConfigError("where='none' keeps nothing: leave out versions and embeddings")


@dataclass(frozen=True)
class StageConfig:
    """How one stage is trained."""

    # Budget: what is reached first ends the stage, and the learning rate falls to zero towards it.
    # Only a run limited by steps alone has the same weights after a stop as without one.
    steps: int | None = None
    minutes: float | None = None
    # Clips a step, of all processes and parts together.
    batch_size: int = 16
    # Parts that a step is computed in, one after the other, to save memory.
    accumulation: int = 1
    # Clips in a row that show different futures of one start, where the store has such. Nothing but
    # the instruction then tells them apart, which a small model learns to read much sooner.
    alternatives: int = 1
    # Take latents from the cache, where there is one; else they are computed in every step, of
    # clips that are varied anew every time. `clip` then encodes only the frames that it drafts.
    use_cache: bool = True
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    warmup_steps: int = 100
    grad_clip: float = 1.0
    ema_decay: float = 0.999
    # ln sigma ~ N(p_mean, p_std^2), of the diffusion stages.
    p_mean: float = 0.7
    p_std: float = 1.4
    # Greatest weight of a noise level against x0's error, SNR + 1 otherwise (EDM at sigma_data 1),
    # as Min-SNR's gamma (Hang et al. 2023). None: 5 where the UNet predicts x0, else no bound.
    snr_gamma: float | None = None
    # Share of clips whose instruction, or image, is left out, for the guidance's null branches.
    text_dropout: float = 0.1
    image_dropout: float = 0.05
    # Noise on the conditioning latents, of a strength drawn up to this share of their deviation.
    conditioning_noise: float = 0.0
    # How much more a latent pixel counts where the scene moves; 0 weighs all alike.
    motion_weight: float = 0.0
    # Train the image and text towers too, for models whose towers are not pretrained.
    train_towers: bool = False
    # Of `aid`: "aid" keeps the prior, "full" trains the whole UNet. Of `vae`: "decoder" keeps the
    # encoder, and so all latents and what was trained on them.
    trains: Trains = "aid"
    # Weight, beside the diffusion loss, of regressing the latents from the context's tokens.
    auxiliary_weight: float = 0.0
    gradient_checkpointing: bool = False
    compile: bool = False
    # Minutes between two saves of the state to resume from.
    save_every_minutes: float = 5.0
    # Steps between two lines of the log, and between two validations; 0 validates at the end alone.
    log_every: int = 20
    validate_every: int = 0
    # Held-out clips of a validation, and how many of them are predicted.
    validation_clips: int = 32
    validation_predictions: int = 4

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ConfigError("neither steps nor minutes is set: say how long to train")
        for name in ("steps", "minutes", "batch_size", "accumulation", "alternatives",
                     "learning_rate", "grad_clip", "p_std", "snr_gamma", "log_every",
                     "validation_clips"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name}={value} must be positive")
        for name in ("weight_decay", "warmup_steps", "conditioning_noise", "motion_weight",
                     "auxiliary_weight", "validate_every", "validation_predictions"):  # fmt: skip
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be 0 or more")
        for name in ("text_dropout", "image_dropout", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be in [0, 1)")
        if self.batch_size % self.accumulation:
            raise ConfigError(
                f"batch_size={self.batch_size} must be a multiple of "
                f"accumulation={self.accumulation}"
            )

    @property
    def identity(self) -> dict[str, Any]:
        """Return the settings that the weights depend on."""
        unseen = {"save_every_minutes", "log_every", "validate_every", "validation_clips",
                  "validation_predictions"}  # fmt: skip
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in unseen}


STAGE_DEFAULTS: Mapping[StageName, Mapping[str, Any]] = {
    "vae": {"learning_rate": 2e-3, "warmup_steps": 50, "ema_decay": 0.998},
    "ground": {"batch_size": 64, "learning_rate": 1e-3, "ema_decay": 0.998, "train_towers": True},
    "clip": {"batch_size": 64, "learning_rate": 1e-3, "train_towers": True},
    "draft": {"learning_rate": 1e-3, "ema_decay": 0.998},
    "prior": {"learning_rate": 1e-3},
    "aid": {"learning_rate": 1e-3},
}


# Which other value of `trains` than the default a stage knows.
_ALSO_TRAINS: Mapping[StageName, Trains] = {"vae": "decoder", "aid": "full"}


@dataclass(frozen=True)
class Recipe:
    """One training from its data to its model."""

    name: str
    # A line for the list of recipes.
    about: str
    stages: Mapping[StageName, StageConfig]
    data: DataConfig
    model: ModelConfig
    cache: CacheConfig
    # Of the matrix products; weights stay float32.
    precision: Precision = "fp32"
    seed: int = 0
    # Write figures and pictures for TensorBoard beside the JSON lines.
    tensorboard: bool = False
    # Name -> settings that a variant of the last stage changes, as {"model.config.fps": 5}.
    ablations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # The tables that it was built from.
    tables: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.stages:
            raise ConfigError("stages is empty: name at least one of " + ", ".join(STAGES))
        order = [name for name in STAGES if name in self.stages]
        if list(self.stages) != order:
            raise ConfigError(
                f"stages={list(self.stages)} are out of order; expected {order}, since each "
                "builds on those before"
            )
        for name, stage in self.stages.items():
            if stage.trains not in ("aid", _ALSO_TRAINS.get(name)):
                raise ConfigError(
                    f"{name}.trains='{stage.trains}' means nothing: 'full' is of the stage 'aid', "
                    "'decoder' of 'vae'; leave it out"
                )
        vae = self.stages.get("vae")
        if self.model.start and vae is not None and vae.trains != "decoder":
            raise ConfigError(
                f"stages={list(self.stages)} would change the VAE that the UNet of "
                f"model.start='{self.model.start}' knows: leave out 'vae', train "
                "vae.trains='decoder' alone, or start from ''"
            )
        if not (self.model.start or self.model.vae) and "vae" not in self.stages:
            raise ConfigError(
                f"stages={list(self.stages)} would train on a VAE with random weights: add 'vae', "
                "or set model.start or model.vae"
            )
        for part in ("vae", "towers"):
            other = getattr(self.model, part)
            if self.model.start and other:
                raise ConfigError(
                    f"model.{part}='{other}' would replace what the UNet of "
                    f"model.start='{self.model.start}' knows: leave one of the two out"
                )
        if self.model.start and self.model.sizes:
            raise ConfigError(
                f"model.sizes={self.model.sizes} would change the parts of "
                f"'{self.model.start}': leave it out"
            )
        if self.cache.where == "memory" and self.data.workers:
            raise ConfigError(
                "cache.where='memory' would be copied to each of "
                f"data.workers={self.data.workers}: "
                "use 'store', or no workers"
            )
        aid = self.stages.get("aid")
        if aid and aid.train_towers and self.cache.embeddings:
            raise ConfigError(
                "cache.embeddings keeps what frozen towers give, but aid.train_towers trains "
                "them: set one of the two to false"
            )
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} must be 0 or more")

    def digest(self) -> str:
        """Name what the recipe's weights depend on, in a few letters."""
        text = json.dumps(self.tables, sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
