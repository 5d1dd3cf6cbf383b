"""Between pixels and the latents that the UNet denoises.

SVD's two conventions meet here: latents to denoise are scaled by the VAE's factor, latents to
condition on are not. Shapes: B clips, N frames, K given frames, C latent channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aid_robot.model.config import AIDConfig


def to_pixels(frames: Tensor) -> Tensor:
    """Turn (..., H, W, 3) uint8 into (..., 3, H, W) float32 in [-1, 1]."""
    return frames.movedim(-1, -3).to(torch.float32) / 127.5 - 1.0


def to_frames(pixels: Tensor) -> Tensor:
    """Turn (..., 3, H, W) in [-1, 1] into (..., H, W, 3) uint8, clipping what is outside."""
    levels = ((pixels.float() + 1.0) * 127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).movedim(-3, -1)


def encode(vae: Any, pixels: Tensor, chunk_size: int = 16) -> Tensor:
    """Encode (B, K, 3, H, W) pixels to unscaled latents, the mode of the posterior.

    At most `chunk_size` frames go through the encoder at once.
    """
    flat = pixels.flatten(0, 1).to(vae.dtype)
    chunks = [vae.encode(chunk).latent_dist.mode() for chunk in flat.split(chunk_size)]
    latents: Tensor = torch.cat(chunks).unflatten(0, pixels.shape[:2])
    return latents


def decode(
    vae: Any, latents: Tensor, chunk_size: int | None = None, tile_size: int | None = None
) -> Tensor:
    """Decode (B, N, C, h, w) unscaled latents to (B, N, 3, H, W) pixels, about [-1, 1].

    Args:
        vae: An `AutoencoderKLTemporalDecoder`.
        latents: Unscaled latents.
        chunk_size: Frames of a clip that are decoded at once; None takes them all. The decoder
            mixes neighbouring frames, so that chunks differ slightly at their seams.
        tile_size: Side of square tiles in latent pixels, for frames too large to decode at
            once; None decodes whole frames. Tiles overlap by a quarter and are blended.
    """
    num_frames = latents.shape[1]
    clips = []
    for clip in latents.to(vae.dtype):  # (N, C, h, w)
        parts = [
            _decode_tiled(vae, part, tile_size) for part in clip.split(chunk_size or num_frames)
        ]
        clips.append(torch.cat(parts))
    return torch.stack(clips)


def _decode_tiled(vae: Any, latents: Tensor, tile_size: int | None) -> Tensor:
    frames, _, height, width = latents.shape
    if tile_size is None or (height <= tile_size and width <= tile_size):
        whole: Tensor = vae.decode(latents, num_frames=frames).sample
        return whole
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    overlap = max(1, tile_size // 4)
    result = latents.new_zeros(frames, 3, height * factor, width * factor, dtype=torch.float32)
    total = torch.zeros_like(result[:1, :1])
    for top in _starts(height, tile_size, overlap):
        for left in _starts(width, tile_size, overlap):
            tile = latents[:, :, top : top + tile_size, left : left + tile_size]
            pixels = vae.decode(tile, num_frames=frames).sample.float()
            window = _ramp(pixels.shape[-2], overlap * factor)[:, None] * _ramp(
                pixels.shape[-1], overlap * factor
            )
            window = window.to(pixels)
            rows = slice(top * factor, top * factor + pixels.shape[-2])
            columns = slice(left * factor, left * factor + pixels.shape[-1])
            result[:, :, rows, columns] += pixels * window
            total[:, :, rows, columns] += window
    return result / total


def _starts(size: int, tile: int, overlap: int) -> list[int]:
    """Place tiles so that they overlap by at least `overlap` and end with the frame."""
    if size <= tile:
        return [0]
    count = -(-(size - overlap) // (tile - overlap))
    return [round(i * (size - tile) / (count - 1)) for i in range(count)]


def _ramp(size: int, overlap: int) -> Tensor:
    """Rise over the overlap at both ends, never zero."""
    distance = torch.arange(1, size + 1).minimum(torch.arange(size, 0, -1))
    return (distance / (overlap + 1)).clamp(max=1.0)


def fill_conditioning(given: Tensor, config: AIDConfig, mask_token: Tensor | None) -> Tensor:
    """Extend the latents of the K given frames to all N frames.

    Args:
        given: Unscaled latents of the given frames, (B, K, C, h, w).
        config: `num_frames` and `conditioning_fill` are used; "draft" is filled in later, and
            without a context as "repeat".
        mask_token: (C, 1, 1), added to the masked frames where the fill is "learned".
    """
    missing = config.num_frames - given.shape[1]
    fill = given[:, -1:].expand(-1, missing, -1, -1, -1)
    if config.conditioning_fill == "zeros":
        fill = torch.zeros_like(fill)
    elif config.conditioning_fill == "learned":
        assert mask_token is not None
        fill = fill + mask_token
    return torch.cat([given, fill], dim=1)


def to_diffusion(
    latents: Tensor, given: Tensor, scaling_factor: float, config: AIDConfig
) -> Tensor:
    """Turn unscaled latents into what is denoised, about unit variance.

    Args:
        latents: Unscaled latents of a clip, (B, N, C, h, w).
        given: Unscaled latents of its given frames, (B, K, C, h, w).
        scaling_factor: The VAE's.
        config: `latent_reference` and its scale are used.
    """
    if config.latent_reference == "none":
        return latents * scaling_factor
    return (latents - given[:, -1:]) * scaling_factor * config.latent_reference_scale


def from_diffusion(
    denoised: Tensor, given: Tensor, scaling_factor: float, config: AIDConfig
) -> Tensor:
    """Undo `to_diffusion`."""
    if config.latent_reference == "none":
        return denoised / scaling_factor
    return denoised / (scaling_factor * config.latent_reference_scale) + given[:, -1:]


def keep_still(pixels: Tensor, change: Tensor, given: Tensor, threshold: float) -> Tensor:
    """Show a given frame's own pixels where little changes; the VAE takes the grain of all others.

    What is decoded fades in as the change grows from half the threshold to one and a half of it.

    Args:
        pixels: Decoded frames, (B, N, 3, H, W).
        change: How far their latents are from the given frame's, (B, N, h, w), not negative.
        given: Pixels of that frame, (B, 3, H, W).
        threshold: Of the change, > 0.
    """
    mask = (change.float() / threshold - 0.5).clamp(0, 1)
    mask = F.interpolate(mask, pixels.shape[-2:], mode="bilinear", align_corners=False)
    still = given[:, None].to(pixels)
    return still + mask[:, :, None].to(pixels) * (pixels - still)


# CLIP's own normalisation, in [0, 1] RGB.
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def to_clip_pixels(pixels: Tensor, size: int) -> Tensor:
    """Resize (B, 3, H, W) pixels in [-1, 1] to CLIP's square and normalise them its way."""
    if pixels.shape[-2:] != (size, size):
        pixels = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    mean = torch.tensor(_CLIP_MEAN, device=pixels.device).reshape(3, 1, 1)
    std = torch.tensor(_CLIP_STD, device=pixels.device).reshape(3, 1, 1)
    return ((pixels + 1.0) / 2.0 - mean) / std
