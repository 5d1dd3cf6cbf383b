"""The VAE's graphs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from aid_robot.export.source import Parts, Source, plain_source


class _VaeEncoder(nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pixels: Tensor) -> Tensor:
        latents: Tensor = self.vae.encode(pixels).latent_dist.mode()
        return latents


class _VaeDecoder(nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> Tensor:
        frames = latents.shape[1]
        pixels = self.vae.decode(latents.flatten(0, 1), num_frames=frames).sample
        clips: Tensor = pixels.unflatten(0, (-1, frames))
        return clips


def make_vae_encoder(parts: Parts) -> Source:
    """Make the source of the encoder of single frames."""
    config = parts.model.config
    _, channels, *size = parts.model.latent_shape
    pixels = parts.spec("pixels", ("rows", 3, config.height, config.width), "frames", "[-1, 1] RGB")
    latents = parts.spec("latents", ("rows", channels, *size), "mode of the posterior, unscaled")
    return plain_source(_VaeEncoder, parts.model.vae, (pixels,), (latents,), parts, "decoder.")


def make_vae_decoder(parts: Parts) -> Source:
    """Make the source of the decoder of whole clips."""
    config = parts.model.config
    latents = parts.spec("latents", ("rows", *parts.model.latent_shape), "clips, unscaled")
    pixels = parts.spec(
        "pixels",
        ("rows", config.num_frames, 3, config.height, config.width),
        "clips",
        "about [-1, 1] RGB",
    )
    return plain_source(_VaeDecoder, parts.model.vae, (latents,), (pixels,), parts, "encoder.")
