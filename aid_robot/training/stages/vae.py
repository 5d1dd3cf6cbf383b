"""The autoencoder of frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.models.resnet import TemporalResnetBlock
from torch import Tensor, nn

from aid_robot.data.episode import UInt8Array
from aid_robot.model.latents import decode, encode, to_frames
from aid_robot.training.losses import vae_loss
from aid_robot.training.noise import Noise
from aid_robot.training.samples import Batch
from aid_robot.training.stages.stage import Figures, Stage, psnr_by_clip, tiled


class VAEStage(Stage):
    """Train the VAE on single frames, as SVD's was; its mixing of frames stays the identity.

    Most steps see crops of half the side, which cost a quarter; the others a quarter of the frames,
    whole. `trains="decoder"` leaves latents as they are, so that a better decoder goes with the
    UNet and the cache of before.
    """

    name = "vae"
    whole_clips = False
    used = ("vae",)

    def trained_names(self) -> set[str]:
        start = "vae.decoder." if self.config.trains == "decoder" else "vae."
        return {
            name
            for name in self.names_of("vae")
            if name.startswith(start)
            and not any(part in name for part in ("temporal_res_block", "time_mixer", "time_conv"))
        }

    def loss(self, batch: Batch, noise: Noise) -> Tensor:
        pixels = self.pixels(batch).flatten(0, 1)  # (B, 3, H, W)
        crops, top, left = noise.shared() < 0.75, noise.shared(), noise.shared()
        half = (pixels.shape[-2] // 2, pixels.shape[-1] // 2)
        if crops:
            top, left = int(top * (half[0] + 1)), int(left * (half[1] + 1))
            pixels = pixels[..., top : top + half[0], left : left + half[1]]
        else:
            pixels = pixels[: max(1, len(pixels) // 4)]
        vae = self.model.vae
        posterior = vae.encode(pixels).latent_dist
        drawn = noise.normal(*posterior.mean.shape[1:])[: len(pixels)]
        with _frames_apart(vae.decoder):
            latents = posterior.mean + posterior.std * drawn
            reconstruction = vae.decode(latents, num_frames=1).sample
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar)
        return vae_loss(reconstruction.float(), pixels, kl.float())

    def measure(self, batch: Batch, predictions: int) -> Figures:
        weight = torch.ones(batch.clips.frames.shape[:2], device=batch.clips.frames.device)
        return {"psnr": psnr_by_clip(self._reconstruction(batch), batch.clips.frames, weight)}

    def draw(self, batch: Batch, count: int) -> UInt8Array | None:
        made = self._reconstruction(batch)
        return tiled([batch.clips.frames[:, 0], made[:, 0]])

    def finish(self, batch: Batch) -> None:
        """Bring what is denoised to unit variance: the latents, then their change over a clip."""
        if self.config.trains == "decoder":
            return
        model = self.model
        latents = self.latents_of(batch)
        scale = 1.0 / latents.std().item()
        model.vae.register_to_config(scaling_factor=scale)
        change = ((latents[:, 1:] - latents[:, :1]) * scale).std().item()
        # A data set in which nothing moves has nothing to be scaled by.
        model.config = model.config.replace(latent_reference_scale=1.0 / max(change, 1e-3))
        model.condition_encoder.config = model.config

    def _reconstruction(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            return to_frames(decode(self.model.vae, encode(self.model.vae, self.pixels(batch))))


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
