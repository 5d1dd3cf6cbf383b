"""AID whole: the towers, the VAE, the UNet and the condition encoder, and what they do together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from aid_robot.errors import ConfigError
from aid_robot.model.conditioning import (
    Condition,
    ConditionEncoder,
    Encodings,
    encode_image,
    encode_text,
    micro_conditioning,
    null_text_encoding,
)
from aid_robot.model.config import AIDConfig, PredictionType
from aid_robot.model.diffusion import Preconditioning
from aid_robot.model.dqformer import MCondition
from aid_robot.model.guidance import FULL, Branch
from aid_robot.model.latents import decode, encode, from_diffusion, keep_still, to_diffusion
from aid_robot.model.unet import AIDUNet, LayerContext


class Network(Protocol):
    """The UNet, whoever runs it; `AIDUNet.forward` is one."""

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        context: Sequence[LayerContext],
        added_time_ids: Tensor,
    ) -> Tensor:
        """Predict what `AIDConfig.prediction_type` says, v or x0.

        Args:
            sample: Scaled noisy latents and conditioning latents on channels, (rows, N, 2C, h, w).
            timestep: c_noise = ln(sigma) / 4, (rows,), float32.
            context: Keys and values by `AIDUNet.project_context`.
            added_time_ids: SVD's micro-conditioning, (rows, 3), float32.

        Returns:
            The network's output, (rows, N, C, h, w).
        """


def denoise(
    network: Network,
    latents: Tensor,
    sigma: float | Tensor,
    condition: Condition,
    prediction_type: PredictionType,
    dtype: torch.dtype,
) -> Tensor:
    """Predict x0 from noisy latents by any network, around the condition's draft if it has one.

    Args:
        network: Computes in `dtype`; the scales around it are in that of the latents.
        latents: (rows, N, C, h, w), any float dtype; the result has the same.
        sigma: One noise level, or one a row.
        condition: Of the same rows.
        prediction_type: What the network puts out.
        dtype: Of the network's inputs.
    """
    rows = len(latents)
    levels = sigma.reshape(-1, 1, 1, 1, 1) if isinstance(sigma, Tensor) else sigma
    at = Preconditioning.at(levels, prediction_type)
    noise = at.noise
    if not isinstance(noise, Tensor):  # filled on the device: a copy would wait for it
        noise = torch.full((rows,), noise, device=latents.device)
    draft = condition.draft
    if draft is not None:
        draft = draft.to(latents.dtype)
        latents = latents - draft
    sample = torch.cat([(at.in_ * latents).to(dtype), condition.latents.to(dtype)], dim=2)
    output = network(sample, noise.flatten(), condition.context, condition.added_time_ids)
    prediction: Tensor = at.skip * latents + at.out * output.to(latents.dtype)
    return prediction if draft is None else prediction + draft


@dataclass
class AIDModel:
    """The parts of an AID, each a module of diffusers, transformers or this package.

    All methods are free of state, so that threads may share one model.
    """

    config: AIDConfig
    unet: AIDUNet
    vae: Any  # diffusers.AutoencoderKLTemporalDecoder
    image_encoder: Any  # transformers.CLIPVisionModelWithProjection
    text_encoder: Any  # transformers.CLIPTextModel
    tokenizer: Any  # transformers.CLIPTokenizer
    condition_encoder: ConditionEncoder

    def __post_init__(self) -> None:
        config = self.config
        pixel = self.vae_factor * config.latent_patch_size
        factor = pixel * 2 ** (len(self.unet.config.block_out_channels) - 1)
        if config.height % pixel or config.width % pixel:
            raise ConfigError(
                f"height x width = {config.height}x{config.width} must be multiples of {pixel}, "
                f"the side of one pixel of the UNet, better of {factor}"
            )
        channels = self.vae.config.latent_channels * config.latent_patch_size**2
        if self.unet.config.out_channels != channels:
            raise ConfigError(
                f"latent_patch_size={config.latent_patch_size} of latents of "
                f"{self.vae.config.latent_channels} channels needs a UNet of {channels} output "
                f"channels, not {self.unet.config.out_channels}"
            )

    @property
    def vae_factor(self) -> int:
        """Pixels along one side of a latent pixel."""
        factor: int = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return factor

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The neural parts by the names of their folders."""
        return {
            "unet": self.unet,
            "vae": self.vae,
            "image_encoder": self.image_encoder,
            "text_encoder": self.text_encoder,
            "condition_encoder": self.condition_encoder,
        }

    @property
    def device(self) -> torch.device:
        device: torch.device = self.unet.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.unet.dtype
        return dtype

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """Shape of one clip's latents, (N, C, h, w)."""
        config = self.config
        size = (config.height // self.vae_factor, config.width // self.vae_factor)
        return config.num_frames, self.vae.config.latent_channels, *size

    def to(self, device: torch.device, dtype: torch.dtype) -> AIDModel:
        """Move all parts to a device and dtype, for inference.

        A VAE that asks to be upcast, as SVD's does, stays in float32 where the rest is float16.
        """
        for name, module in self.modules.items():
            upcast = name == "vae" and self.vae.config.force_upcast and dtype == torch.float16
            # Not diffusers' own `to`: it warns of float32 layers, of which there are none.
            nn.Module.to(module, device=device, dtype=torch.float32 if upcast else dtype)
            module.eval().requires_grad_(False)
        return self

    def encode(
        self,
        pixels: Tensor,
        noisy: Tensor,
        instructions: Sequence[str],
        states: Sequence[Sequence[str]],
    ) -> Encodings:
        """Run the frozen towers and the VAE's encoder.

        Args:
            pixels: The given frames in [-1, 1], (B, K, 3, H, W), for the image tower.
            noisy: The same with SVD's noise augmentation, for the VAE.
            instructions: B texts.
            states: S texts for each of them.
        """
        text, state_tokens, image = self.encode_towers(pixels[:, 0], instructions, states)
        return Encodings(text, state_tokens, image, given=encode(self.vae, noisy))

    def encode_towers(
        self, pixels: Tensor, instructions: Sequence[str], states: Sequence[Sequence[str]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the text and image towers alone.

        Args:
            pixels: First frames in [-1, 1], (B, 3, H, W).
            instructions: B texts.
            states: S texts for each of them.

        Returns:
            t1 (B, T, D), t2 (B, S, T, D) and v (B, P, D).
        """
        return (*self.encode_texts(instructions, states), self.encode_first(pixels))

    def encode_texts(
        self, instructions: Sequence[str], states: Sequence[Sequence[str]]
    ) -> tuple[Tensor, Tensor]:
        """Run the text tower alone: t1 (B, T, D) and t2 (B, S, T, D)."""
        count = len(instructions)
        flat_states = [state for group in states for state in group]
        texts = encode_text(self.text_encoder, self.tokenizer, [*instructions, *flat_states])
        return texts[:count], texts[count:].unflatten(0, (count, self.config.num_states))

    def encode_first(self, pixels: Tensor) -> Tensor:
        """Run the image tower alone on first frames in [-1, 1], (B, 3, H, W): v, (B, P, D)."""
        return encode_image(self.image_encoder, pixels, self.config)

    def null_text(self) -> tuple[Tensor, Tensor]:
        """Encode the null instruction: t1 (1, T, D) and t2 (1, S, T, D)."""
        return null_text_encoding(self.text_encoder, self.tokenizer, self.config)

    def condition(self, encodings: Encodings, branches: Sequence[Branch] = (FULL,)) -> Condition:
        """Build the condition of some branches, with every key and value of the UNet computed.

        Rows are ordered branch by branch: all clips of the first, then all of the second.
        """
        without_text = any(not with_text for _, with_text in branches)
        null_text = self.null_text() if without_text else None
        parts = [self.condition_encoder(encodings, null_text, branch) for branch in branches]
        with_image = [image for image, _ in branches for _ in range(len(encodings.given))]
        return self.condition_on(
            MCondition(
                torch.cat([context.spatial for context, _ in parts]),
                torch.cat([context.temporal for context, _ in parts]),
            ),
            torch.cat([latents for _, latents in parts]),
            torch.tensor(with_image, device=encodings.given.device),
        )

    def condition_on(self, context: MCondition, latents: Tensor, with_image: Tensor) -> Condition:
        """Build the condition from DQFormer's context and the filled conditioning latents.

        Args:
            context: Of some rows.
            latents: (rows, N, C, h, w), unscaled, zeros for the null image; where
                `conditioning_fill="draft"` frames to predict are drafted.
            with_image: Which rows see their image, (rows,) bool; others have no draft.
        """
        draft = None
        if self.condition_encoder.draft is not None:
            given = latents[:, : self.config.num_conditioning_frames]
            keep = with_image.reshape(-1, 1, 1, 1, 1)
            draft = self._draft(context, given)
            filled = self.from_diffusion(draft, given)[:, given.shape[1] :].to(given.dtype)
            draft, latents = draft * keep, torch.cat([given, filled * keep], dim=1)
        return Condition(
            context=self.unet.project_context(context.spatial, context.temporal),
            latents=latents,
            added_time_ids=micro_conditioning(self.config, len(latents), latents.device),
            draft=draft,
        )

    def _draft(self, context: MCondition, given: Tensor) -> Tensor:
        """Draft the frames to predict; given ones are as they are."""
        count, head = given.shape[1], self.condition_encoder.draft
        assert head is not None
        known = self.to_diffusion(given, given)
        spatial = context.spatial[:, count:]
        scaled = (given[:, -1] * self.vae.config.scaling_factor).to(spatial.dtype)
        # Its own loss trains it.
        return torch.cat([known, head(spatial, scaled).detach().to(known.dtype)], dim=1)

    def condition_without_text(self, encodings: Encodings) -> Condition:
        """Build SVD's own condition: the pooled image embedding is the whole context.

        `encodings.image` must be the pooled token. Used to train the prior.
        """
        latents = self.condition_encoder.fill(encodings.given)
        context = encodings.image[:, :1]
        return Condition(
            context=self.unet.project_context(
                context[:, None].expand(-1, self.config.num_frames, -1, -1), context
            ),
            latents=latents,
            added_time_ids=micro_conditioning(self.config, len(latents), latents.device),
        )

    def denoise(self, latents: Tensor, sigma: float | Tensor, condition: Condition) -> Tensor:
        """Predict x0 from noisy latents.

        Args:
            latents: (rows, N, C, h, w), any float dtype; the result has the same.
            sigma: One noise level, or one a row.
            condition: Of the same rows.
        """
        return denoise(
            self.unet, latents, sigma, condition, self.config.prediction_type, self.dtype
        )

    def to_diffusion(self, latents: Tensor, given: Tensor) -> Tensor:
        """Turn the VAE's latents into what is denoised."""
        return to_diffusion(latents, given, self.vae.config.scaling_factor, self.config)

    def from_diffusion(self, denoised: Tensor, given: Tensor) -> Tensor:
        """Turn what was denoised into the VAE's latents."""
        return from_diffusion(denoised, given, self.vae.config.scaling_factor, self.config)

    def decode(
        self,
        denoised: Tensor,
        given: Tensor,
        given_pixels: Tensor,
        still_threshold: float | None = None,
        chunk_size: int | None = None,
        tile_size: int | None = None,
    ) -> Tensor:
        """Decode what was denoised to pixels (B, N, 3, H, W), about [-1, 1].

        Args:
            denoised: (B, N, C, h, w).
            given: Unscaled latents of the given frames, (B, K, C, h, w).
            given_pixels: Pixels of the last of them, (B, 3, H, W).
            still_threshold: See `SamplingConfig`; None takes the config's.
            chunk_size: See `latents.decode`.
            tile_size: Likewise.
        """
        own = self.config.sampling.still_threshold
        threshold = own if still_threshold is None else still_threshold
        given = given.to(denoised.dtype)
        latents = self.from_diffusion(denoised, given)
        pixels = decode(self.vae, latents, chunk_size, tile_size)
        if threshold == 0:
            return pixels
        change = (denoised - self.to_diffusion(given[:, -1:], given)).float()
        return keep_still(pixels, change.square().mean(2).sqrt(), given_pixels, threshold)
