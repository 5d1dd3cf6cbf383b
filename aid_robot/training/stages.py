"""The stages of training: what each one trains, and its loss on a batch of clips."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from diffusers.models.resnet import TemporalResnetBlock
from torch import Tensor, nn

from aid_robot.data.clips import Clip
from aid_robot.errors import ConfigError
from aid_robot.model.aid import AIDModel
from aid_robot.model.conditioning import Condition, Encodings, encode_image, micro_conditioning
from aid_robot.model.latents import encode, to_pixels
from aid_robot.model.states import make_state_predictor
from aid_robot.training.config import TrainingConfig
from aid_robot.training.losses import draw_sigmas, edm_loss, vae_loss


class Stage(ABC):
    """One stage of training on a shared model."""

    def __init__(self, model: AIDModel, config: TrainingConfig) -> None:
        self.model = model
        self.config = config
        self.parameters: dict[str, nn.Parameter] = {}
        names = self.trained_names()
        for module_name, module in model.modules.items():
            for name, parameter in module.named_parameters():
                full_name = f"{module_name}.{name}"
                trained = full_name in names
                parameter.requires_grad_(trained)
                if trained:
                    self.parameters[full_name] = parameter

    @property
    def frames_per_clip(self) -> int:
        """How many frames a batch's clips have."""
        return self.model.config.num_frames

    @abstractmethod
    def trained_names(self) -> set[str]:
        """Name the parameters that this stage trains, `<module>.<parameter>`."""

    @abstractmethod
    def loss(self, clips: Sequence[Clip], generator: torch.Generator) -> Tensor:
        """Return the loss of a batch."""

    def _pixels(self, clips: Sequence[Clip]) -> Tensor:
        frames = torch.from_numpy(np.stack([clip.frames for clip in clips]))
        return to_pixels(frames.to(self.model.device))

    def _first_pixels(self, clips: Sequence[Clip]) -> Tensor:
        return self._pixels([replace(clip, frames=clip.frames[:1]) for clip in clips])[:, 0]

    def _noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        # Drawn on the CPU: the same on every device.
        return torch.randn(tuple(shape), generator=generator).to(self.model.device)

    def _names_of(self, *modules: str) -> set[str]:
        return {
            f"{module}.{name}"
            for module in modules
            for name, _ in self.model.modules[module].named_parameters()
        }


class VAEStage(Stage):
    """Train the VAE on single frames, as SVD's was; its mixing of frames stays the identity.

    Most steps see crops of half the side, which cost a quarter; the others whole frames.
    """

    @property
    def frames_per_clip(self) -> int:
        return 1

    def trained_names(self) -> set[str]:
        return {
            name
            for name in self._names_of("vae")
            if not any(part in name for part in ("temporal_res_block", "time_mixer", "time_conv"))
        }

    def loss(self, clips: Sequence[Clip], generator: torch.Generator) -> Tensor:
        pixels = self._pixels(clips).flatten(0, 1)  # (B, 3, H, W)
        if torch.rand((), generator=generator) < 0.75:
            half = pixels.shape[-1] // 2
            top, left = torch.randint(half + 1, (2,), generator=generator).tolist()
            pixels = pixels[..., top : top + half, left : left + half]
        else:
            pixels = pixels[: max(1, len(pixels) // 4)]
        vae = self.model.vae
        posterior = vae.encode(pixels).latent_dist
        noise = self._noise(posterior.mean.shape, generator)
        with _frames_apart(vae.decoder):
            latents = posterior.mean + posterior.std * noise
            reconstruction = vae.decode(latents, num_frames=1).sample
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar)
        return vae_loss(reconstruction, pixels, kl)


@contextmanager
def _frames_apart(decoder: nn.Module) -> Iterator[None]:
    """Skip the decoder's temporal blocks, which are the identity, to save their time."""
    blocks = [module for module in decoder.modules() if isinstance(module, TemporalResnetBlock)]
    for block in blocks:
        block.forward = _identity
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _identity(hidden: Tensor, temb: Tensor | None = None) -> Tensor:
    return hidden


class _DiffusionStage(Stage):
    def _diffusion_loss(
        self,
        clips: Sequence[Clip],
        latents: Tensor,
        condition: Condition,
        generator: torch.Generator,
    ) -> Tensor:
        config = self.model.config
        count = config.num_conditioning_frames
        target = self.model.to_diffusion(latents, latents[:, :count])
        sigma = draw_sigmas(len(clips), generator, self.config.p_mean, self.config.p_std)
        sigma = sigma.to(target.device)
        noise = self._noise(target.shape, generator)
        noisy = target + sigma.reshape(-1, 1, 1, 1, 1) * noise
        prediction = self.model.denoise(noisy, sigma, condition)
        index = torch.arange(config.num_frames)
        valid = torch.tensor([clip.valid for clip in clips])
        first = count if config.given_frames == "pinned" else 0
        weight = ((index >= first) & (index < valid[:, None])).float().to(target.device)
        return edm_loss(prediction, target, sigma, weight)

    def _latents(self, clips: Sequence[Clip]) -> Tensor:
        cached = [clip.latents for clip in clips if clip.latents is not None]
        if len(cached) == len(clips):
            return torch.from_numpy(np.stack(cached)).to(self.model.device)
        with torch.no_grad():
            return encode(self.model.vae, self._pixels(clips), chunk_size=64)

    def _given(self, clips: Sequence[Clip], latents: Tensor, generator: torch.Generator) -> Tensor:
        """Return the conditioning latents (B, K, C, h, w), of frames with SVD's noise on them."""
        count, strength = self.model.config.num_conditioning_frames, self._noise_strength
        if strength == 0:
            return latents[:, :count]
        given = [replace(clip, frames=clip.frames[:count]) for clip in clips]
        pixels = self._pixels(given)
        with torch.no_grad():
            noisy = pixels + strength * self._noise(pixels.shape, generator)
            return encode(self.model.vae, noisy)

    @property
    def _noise_strength(self) -> float:
        return self.model.config.noise_aug_strength

    def _dropped(self, count: int, share: float, generator: torch.Generator) -> Tensor:
        return (torch.rand(count, generator=generator) < share).to(self.model.device)


class PriorStage(_DiffusionStage):
    """Train image-to-video without text, as SVD: the image's pooled token is the whole context."""

    def trained_names(self) -> set[str]:
        names = {name for name in self._names_of("unet") if ".adapters." not in name}
        return names | self._names_of("image_encoder")

    def loss(self, clips: Sequence[Clip], generator: torch.Generator) -> Tensor:
        model = self.model
        latents = self._latents(clips)
        keep = ~self._dropped(len(clips), self.config.image_dropout, generator)
        pooled = replace(model.config, image_tokens="pooled")
        image = encode_image(model.image_encoder, self._first_pixels(clips), pooled)
        empty = torch.zeros(len(clips), 1, 1, device=latents.device)
        encodings = Encodings(
            empty, empty, image * keep[:, None, None], self._given(clips, latents, generator)
        )
        condition = model.condition_without_text(encodings)
        condition = replace(condition, latents=condition.latents * keep.reshape(-1, 1, 1, 1, 1))
        return self._diffusion_loss(clips, latents, condition, generator)


class AIDStage(_DiffusionStage):
    """Train AID on the frozen prior and VAE: adapters, cross-attention, DQFormer, mask token.

    `train_towers` also trains the image and text towers, which a small model, unlike CLIP, has
    not pretrained.
    """

    def __init__(self, model: AIDModel, config: TrainingConfig) -> None:
        super().__init__(model, config)
        self._states = make_state_predictor("template", num_states=model.config.num_states)

    def trained_names(self) -> set[str]:
        names = {f"unet.{name}" for name in self.model.unet.aid_parameter_names()}
        names |= self._names_of("condition_encoder")
        if self.config.train_towers:
            names |= self._names_of("image_encoder", "text_encoder")
        return names

    def loss(self, clips: Sequence[Clip], generator: torch.Generator) -> Tensor:
        model, count = self.model, len(clips)
        latents = self._latents(clips)

        image_dropped = self._dropped(count, self.config.image_dropout, generator)
        # A null branch without the image has no text either; clips without instruction have none.
        text_dropped = self._dropped(count, self.config.text_dropout, generator) | image_dropped
        text_dropped |= torch.tensor(
            [not clip.instruction for clip in clips], device=latents.device
        )
        instructions = [clip.instruction or "-" for clip in clips]
        states = [
            self._states(clip.frames[0], text)
            for clip, text in zip(clips, instructions, strict=True)
        ]
        encodings = self._encode(
            self._first_pixels(clips), self._given(clips, latents, generator), instructions, states
        )
        null_text, null_states = model.null_text()
        keep = (~image_dropped).float()
        encodings = replace(
            encodings,
            text=torch.where(text_dropped[:, None, None], null_text, encodings.text),
            states=torch.where(text_dropped[:, None, None, None], null_states, encodings.states),
            image=encodings.image * keep[:, None, None],
        )
        context = model.condition_encoder.dqformer(
            encodings.text, encodings.states, encodings.image
        )
        filled = model.condition_encoder.fill(encodings.given) * keep.reshape(-1, 1, 1, 1, 1)
        condition = Condition(
            context=model.unet.project_context(context.spatial, context.temporal),
            latents=filled,
            added_time_ids=micro_conditioning(model.config, count, filled.device),
        )
        return self._diffusion_loss(clips, latents, condition, generator)

    def _encode(
        self,
        pixels: Tensor,
        given: Tensor,
        instructions: Sequence[str],
        states: Sequence[Sequence[str]],
    ) -> Encodings:
        with torch.set_grad_enabled(self.config.train_towers):
            text, state_tokens, image = self.model.encode_towers(pixels, instructions, states)
        return Encodings(text, state_tokens, image, given)


STAGES: dict[str, type[Stage]] = {"vae": VAEStage, "prior": PriorStage, "aid": AIDStage}


def make_stage(name: str, model: AIDModel, config: TrainingConfig) -> Stage:
    """Set up a stage by name, and set which parameters of the model need gradients."""
    if name not in STAGES:
        raise ConfigError(f"no training stage '{name}'; known: {', '.join(STAGES)}")
    return STAGES[name](model, config)
