"""What makes one AID model differ from another, and the presets of the paper's protocols.

Every choice that the paper leaves open is a field here, so that another reading is one line away;
such fields are marked [our reading].
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from aid_robot.errors import ConfigError

ConditioningFill = Literal["repeat", "zeros", "learned", "draft"]
ImageTokens = Literal["pooled", "patches"]
NullText = Literal["empty", "zeros"]
TemporalContext = Literal["multimodal", "first_frame"]
LatentReference = Literal["none", "conditioning"]
GivenFrames = Literal["pinned", "sampled"]
ContextJoin = Literal["tokens", "channels"]
SamplerName = Literal["euler", "heun", "dpmpp_2m"]
SigmaSchedule = Literal["karras", "ays"]
PredictionType = Literal["v_prediction", "sample"]


def _check_choices(config: object, **choices: object) -> None:
    for name, literal in choices.items():
        value, known = getattr(config, name), get_args(literal)
        if value not in known:
            raise ConfigError(f"{name}={value!r} is unknown; it is one of {', '.join(known)}")


@dataclass(frozen=True)
class AdapterConfig:
    """The three adapters that every spatio-temporal transformer of the UNet hosts."""

    # Each can be left out; all three are the paper's full model.
    spatial: bool = True
    short_term: bool = True
    long_term: bool = True
    # Bottleneck width as a share of the transformer's width.
    ratio: float = 0.25
    # Depth-wise 3-D kernel (frames, height, width) of the short-term adapter.
    kernel_size: tuple[int, int, int] = (3, 3, 3)
    # Heads of the long-term adapter's attention over frames.
    num_attention_heads: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel_size", tuple(self.kernel_size))
        if not 0 < self.ratio <= 1:
            raise ConfigError(f"adapters.ratio={self.ratio} must be in (0, 1]")
        if len(self.kernel_size) != 3 or any(
            not 1 <= size <= 15 or size % 2 == 0 for size in self.kernel_size
        ):
            raise ConfigError(
                f"adapters.kernel_size={self.kernel_size} must be three odd numbers up to 15"
            )
        if self.num_attention_heads < 1:
            raise ConfigError(
                f"adapters.num_attention_heads={self.num_attention_heads} must be at least 1"
            )


@dataclass(frozen=True)
class DQFormerConfig:
    """The Dual Query Transformer, which turns image and text into the UNet's context."""

    # Off, the context is the tokens of instruction and image themselves, the same for all frames:
    # the ablation "no MCondition" [our reading].
    enabled: bool = True
    # Each branch can be left out, not both.
    multimodal: bool = True
    decomposed: bool = True
    # Off, the decomposed branch reads the instruction in place of its states.
    states: bool = True
    num_layers: int = 1
    # Inner width; None takes the width of the text embeddings.
    hidden_size: int | None = None
    num_attention_heads: int = 16
    # Learned query tokens for each frame (N_t in the paper).
    tokens_per_frame: int = 77
    # [our reading] How the branches are joined: tokens one after the other, or channels, which a
    # linear layer brings back to the context's width.
    join: ContextJoin = "tokens"
    # [our reading] Tell the states apart by a learned embedding.
    state_embedding: bool = True
    # Point at what the instruction names, and say by two tokens more where that is; for models
    # whose towers were trained to (stage `ground`). Not part of the paper.
    pointing: bool = False

    def __post_init__(self) -> None:
        _check_choices(self, join=ContextJoin)
        if not (self.multimodal or self.decomposed):
            raise ConfigError("dqformer: multimodal and decomposed are both off; keep one branch")
        for name in ("num_layers", "num_attention_heads", "tokens_per_frame"):
            if getattr(self, name) < 1:
                raise ConfigError(f"dqformer.{name}={getattr(self, name)} must be at least 1")


@dataclass(frozen=True)
class SamplingConfig:
    """How a trained model is sampled when the caller does not say otherwise."""

    steps: int = 25
    sampler: SamplerName = "euler"
    schedule: SigmaSchedule = "karras"
    sigma_min: float = 0.002
    sigma_max: float = 700.0
    rho: float = 7.0
    # s_v and s_t of the dual classifier-free guidance. A pair for s_v grows linearly from the first
    # frame to the last, as SVD's own guidance does (1 to 3).
    image_guidance_scale: float | tuple[float, float] = 2.0
    text_guidance_scale: float = 3.0
    # Guidance acts where low <= sigma <= high; outside, one branch is enough.
    guidance_interval: tuple[float, float] = (0.0, float("inf"))
    # Where the predicted latents are about as near to the last given frame's as this (root mean
    # square over channels, in the space that is denoised), the frame keeps that one's own pixels;
    # 0 decodes all of it. For cameras that stand still. Not part of the paper.
    still_threshold: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "guidance_interval", tuple(self.guidance_interval))
        if not isinstance(self.image_guidance_scale, int | float):
            object.__setattr__(self, "image_guidance_scale", tuple(self.image_guidance_scale))
        _check_choices(self, sampler=SamplerName, schedule=SigmaSchedule)
        if self.steps < 1:
            raise ConfigError(f"sampling.steps={self.steps} must be at least 1")
        if not 0 < self.sigma_min < self.sigma_max:
            raise ConfigError(
                f"sampling.sigma_min={self.sigma_min} and sigma_max={self.sigma_max} "
                "must be 0 < sigma_min < sigma_max"
            )
        if not 0 <= self.still_threshold < float("inf"):
            raise ConfigError(
                f"sampling.still_threshold={self.still_threshold} must be at least 0 and finite"
            )
        if self.schedule == "ays" and self.sigma_max != 700.0:
            raise ConfigError(
                f"schedule='ays' is made for SVD's sigma_max of 700, not {self.sigma_max}: "
                "use schedule='karras'"
            )


@dataclass(frozen=True)
class AIDConfig:
    """An AID model: what it is trained on, what it is built of, and how it is sampled."""

    # Frames of a clip (N), how many of them are given (K), and at which rate. [our reading] The
    # paper gives no rate for SSv2, Epic-Kitchens and UCF; theirs here is Bridge's.
    num_frames: int = 16
    num_conditioning_frames: int = 1
    fps: float = 5.0
    height: int = 256
    width: int = 256
    # Steps that the instruction is split into (S).
    num_states: int = 4
    # Hub id or folder of the model whose UNet and VAE stay frozen; None for a model saved whole.
    base_model: str | None = "stabilityai/stable-video-diffusion-img2vid"
    # Hub id or folder of the text tower, which SVD does not carry.
    text_model: str | None = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"

    adapters: AdapterConfig = field(default_factory=AdapterConfig)
    dqformer: DQFormerConfig = field(default_factory=DQFormerConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    # [our reading] Latents of the frames to predict: the last given one again, zeros, or the last
    # given one plus a learned token that starts at zero; or, not part of the paper, a draft
    # regressed from DQFormer's context, to which the UNet adds what is missing.
    conditioning_fill: ConditioningFill = "learned"
    # Layers in which a frame's tokens see each other before the draft is drawn from them.
    draft_layers: int = 0
    # [our reading] What DQFormer sees of the image: CLIP's pooled embedding or its patch tokens.
    image_tokens: ImageTokens = "patches"
    # [our reading] The null instruction: the empty string's embedding, or zeros.
    null_text: NullText = "empty"
    # [our reading] Context of the temporal cross-attention: the multimodal embedding, or (as in
    # diffusers) the first frame's whole context.
    temporal_context: TemporalContext = "multimodal"
    # Predict latents ("none", SVD) or their scaled difference to the last given frame's
    # ("conditioning"), which lets a small model keep the still scene. Not part of the paper.
    latent_reference: LatentReference = "none"
    latent_reference_scale: float = 1.0
    # What the UNet puts out, in diffusers' terms: v, as SVD's, or x0 itself. To leave a place as it
    # is a UNet of v must carry its noise to its end, which a small one can't; with a
    # `latent_reference` one of x0 just says nothing there. Not part of the paper.
    prediction_type: PredictionType = "v_prediction"
    # Side of the squares of latent pixels that the UNet takes as one pixel, their channels stacked,
    # as the patches of diffusion transformers; 1 is SVD's. Not part of the paper.
    latent_patch_size: int = 1
    # Whether the UNet's own weights were trained along with AID, so that it is no image-to-video
    # prior without it. The paper's stay frozen.
    tuned_base: bool = False

    # Frames that are given: held at their own latents in every denoising step and left out of the
    # loss, or predicted like the others and overwritten at the end. [our reading]
    given_frames: GivenFrames = "pinned"

    # SVD's micro-conditioning.
    motion_bucket_id: int = 127
    noise_aug_strength: float = 0.02

    def __post_init__(self) -> None:
        _check_choices(
            self,
            conditioning_fill=ConditioningFill,
            image_tokens=ImageTokens,
            null_text=NullText,
            temporal_context=TemporalContext,
            latent_reference=LatentReference,
            prediction_type=PredictionType,
            given_frames=GivenFrames,
        )
        if not 1 <= self.num_conditioning_frames < self.num_frames:
            raise ConfigError(
                f"num_conditioning_frames={self.num_conditioning_frames} must be at least 1 and "
                f"less than num_frames={self.num_frames}"
            )
        if self.fps <= 0:
            raise ConfigError(f"fps={self.fps} must be positive")
        if self.height < 16 or self.width < 16:
            raise ConfigError(f"height x width = {self.height}x{self.width} must be >= 16x16")
        if self.latent_reference_scale <= 0:
            raise ConfigError(
                f"latent_reference_scale={self.latent_reference_scale} must be positive"
            )
        if self.latent_patch_size < 1:
            raise ConfigError(f"latent_patch_size={self.latent_patch_size} must be at least 1")
        if self.noise_aug_strength < 0:
            raise ConfigError(f"noise_aug_strength={self.noise_aug_strength} must not be negative")
        if self.num_states < 1:
            raise ConfigError(f"num_states={self.num_states} must be at least 1")
        if self.draft_layers < 0:
            raise ConfigError(f"draft_layers={self.draft_layers} must not be negative")
        if self.dqformer.pointing and self.image_tokens != "patches":
            raise ConfigError(
                f"dqformer.pointing points at patches, but image_tokens='{self.image_tokens}': "
                "use image_tokens='patches'"
            )
        if self.temporal_context == "multimodal" and not self.dqformer.multimodal:
            raise ConfigError(
                "temporal_context='multimodal' needs dqformer.multimodal; "
                "use temporal_context='first_frame' with the decomposed branch alone"
            )

    def replace(self, **changes: Any) -> AIDConfig:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as written to `aid/config.json` (infinity as the text "inf")."""
        values = dataclasses.asdict(self)
        low, high = self.sampling.guidance_interval
        values["sampling"]["guidance_interval"] = [low, "inf" if high == float("inf") else high]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AIDConfig:
        """Build from plain values; an unknown name is an error, not ignored."""
        parts = {"adapters": AdapterConfig, "dqformer": DQFormerConfig, "sampling": SamplingConfig}
        if not isinstance(values, Mapping):
            raise ConfigError(f"the AID config is {values!r}, expected names and values")
        plain = dict(values)
        for name, part in parts.items():
            if name in plain:
                plain[name] = _build(part, plain[name], prefix=f"{name}.")
        config = _build(cls, plain)
        assert isinstance(config, cls)
        return config


def _build(cls: type, values: Any, prefix: str = "") -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"'{prefix.rstrip('.') or 'the AID config'}' is {values!r}, expected names and values"
        )
    known = [f.name for f in dataclasses.fields(cls)]
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean '{prefix}{close[0]}'?" if close else ""
            raise ConfigError(f"'{prefix}{name}' is not a field of the AID config{hint}")
    values = dict(values)
    try:
        if "guidance_interval" in values:
            low, high = values["guidance_interval"]
            values["guidance_interval"] = (float(low), float(high))
        return cls(**values)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the AID config does not fit {cls.__name__}: {error}") from error


PRESETS: dict[str, AIDConfig] = {
    # The paper's four protocols on the full-size model; "svd" is the one for Bridge.
    "svd": AIDConfig(),
    "ssv2": AIDConfig(num_frames=12, num_conditioning_frames=2),
    "epic": AIDConfig(num_frames=12),
    "ucf-1": AIDConfig(),
    "ucf-5": AIDConfig(num_conditioning_frames=5),
    # The bundled model: the same classes, small enough for two CPU cores.
    "small": AIDConfig(
        height=64,
        width=64,
        base_model=None,
        text_model=None,
        adapters=AdapterConfig(ratio=0.5),
        dqformer=DQFormerConfig(num_attention_heads=4, tokens_per_frame=16),
        sampling=SamplingConfig(
            steps=4,
            sampler="dpmpp_2m",
            sigma_min=0.02,
            sigma_max=60.0,
            image_guidance_scale=1.0,
            text_guidance_scale=1.5,
        ),
        latent_reference="conditioning",
        noise_aug_strength=0.0,
    ),
}


def preset(name: str) -> AIDConfig:
    """Return a preset by name; an unknown one answers "did you mean"."""
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise ConfigError(f"no preset '{name}': {hint}Known: {', '.join(PRESETS)}")
    return PRESETS[name]
