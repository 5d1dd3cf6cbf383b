"""From frames, instruction and states to everything that the UNet is conditioned on.

Shapes: B clips, K given frames, N frames, S states, T text tokens, D context width.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aid_robot.model.config import AIDConfig
from aid_robot.model.dqformer import DQFormer, MCondition
from aid_robot.model.draft import DraftHead
from aid_robot.model.guidance import Branch
from aid_robot.model.latents import fill_conditioning, to_clip_pixels
from aid_robot.model.unet import LayerContext

# A fast tokenizer is not safe for two threads: setting its padding while it encodes raises.
_TOKENIZER_LOCK = threading.Lock()


@dataclass(frozen=True)
class Encodings:
    """What the frozen towers say of a request; the same for every branch and step."""

    text: Tensor  # t1, (B, T, text_dim)
    states: Tensor  # t2, (B, S, T, text_dim)
    image: Tensor  # v, (B, P, image_dim)
    given: Tensor  # unscaled latents of the given frames, (B, K, C, h, w)

    def select(self, requests: list[int]) -> Encodings:
        """Take the rows of some requests, in that order; repeats are allowed."""
        return Encodings(
            self.text[requests], self.states[requests], self.image[requests], self.given[requests]
        )


@dataclass(frozen=True)
class Condition:
    """All that the UNet sees besides the noisy latents. Rows are branches x clips."""

    context: list[LayerContext]
    latents: Tensor  # conditioning latents of all frames, (rows, N, C, h, w)
    added_time_ids: Tensor  # (rows, 3)
    # What the UNet's prediction is added to, in the space that is denoised, (rows, N, C, h, w).
    draft: Tensor | None = None

    def rows(self, selection: slice | list[int]) -> Condition:
        """Select rows; a slice makes no copy."""
        return Condition(
            [layer.rows(selection) for layer in self.context],
            self.latents[selection],
            self.added_time_ids[selection],
            None if self.draft is None else self.draft[selection],
        )


class ConditionEncoder(nn.Module):
    """AID's trained part outside the UNet: DQFormer, and what fills the frames to predict."""

    def __init__(
        self,
        config: AIDConfig,
        *,
        context_dim: int,
        text_dim: int,
        image_dim: int,
        latent_channels: int,
        latent_size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.config = config
        self.dqformer = DQFormer(config, context_dim, text_dim, image_dim)
        self.mask_token = (
            nn.Parameter(torch.zeros(latent_channels, 1, 1))
            if config.conditioning_fill == "learned"
            else None
        )
        self.draft = (
            DraftHead.sized(context_dim, latent_channels, latent_size, config.draft_layers)
            if config.conditioning_fill == "draft"
            else None
        )

    def fill(self, given: Tensor) -> Tensor:
        """Extend unscaled latents (B, K, C, h, w) of the given frames to all N frames."""
        return fill_conditioning(given, self.config, self.mask_token)

    def forward(
        self, encodings: Encodings, null_text: tuple[Tensor, Tensor] | None, branch: Branch
    ) -> tuple[MCondition, Tensor]:
        """Return context and conditioning latents as one branch of the guidance sees them.

        Args:
            encodings: Of B requests.
            null_text: t1 and t2 of the null instruction, (1, T, D) and (1, S, T, D); needed for
                branches without text.
            branch: Whether the image and whether the text counts.
        """
        with_image, with_text = branch
        text, states = encodings.text, encodings.states
        if not with_text:
            assert null_text is not None
            text, states = (
                null.to(like).expand_as(like)
                for null, like in zip(null_text, (text, states), strict=True)
            )
        image, latents = encodings.image, self.fill(encodings.given)
        if not with_image:
            image, latents = torch.zeros_like(image), torch.zeros_like(latents)
        return self.dqformer(text, states, image), latents


def tokenize(tokenizer: Any, texts: Sequence[str], length: int) -> Tensor:
    """Tokenize to exactly `length` tokens, cutting what is longer. Safe for threads."""
    with _TOKENIZER_LOCK:
        rows = tokenizer(list(texts), padding="max_length", max_length=length).input_ids
        cut = tokenizer(
            list(texts), padding="max_length", max_length=length, truncation=True
        ).input_ids
    for text, row in zip(texts, rows, strict=True):
        if len(row) > length:
            warnings.warn(
                f"'{text}' has {len(row)} tokens, the text tower takes {length}: its end is not "
                "read; shorten it",
                stacklevel=2,
            )
    return torch.tensor(cut)


def encode_text(text_encoder: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Encode texts by CLIP's text tower: all its tokens after the last norm, (n, T, D)."""
    length = text_encoder.config.max_position_embeddings
    ids = tokenize(tokenizer, texts, length).to(text_encoder.device)
    tokens: Tensor = text_encoder(ids).last_hidden_state
    return tokens


def encode_image(image_encoder: Any, pixels: Tensor, config: AIDConfig) -> Tensor:
    """Encode (B, 3, H, W) pixels in [-1, 1] by CLIP's vision tower, (B, P, D).

    "pooled" gives the one token that SVD was trained on; "patches" all tokens, each through the
    final norm and the projection that CLIP applies to the pooled one.
    """
    clip_pixels = to_clip_pixels(pixels, image_encoder.config.image_size)
    clip_pixels = clip_pixels.to(image_encoder.dtype)
    if config.image_tokens == "pooled":
        pooled: Tensor = image_encoder(clip_pixels).image_embeds[:, None]
        return pooled
    vision = image_encoder.vision_model
    hidden = vision(clip_pixels).last_hidden_state
    tokens: Tensor = image_encoder.visual_projection(vision.post_layernorm(hidden))
    return tokens


def null_text_encoding(
    text_encoder: Any, tokenizer: Any, config: AIDConfig
) -> tuple[Tensor, Tensor]:
    """Return t1 (1, T, D) and t2 (1, S, T, D) of the null instruction."""
    text = encode_text(text_encoder, tokenizer, [""])
    if config.null_text == "zeros":
        text = torch.zeros_like(text)
    return text, text[:, None].expand(-1, config.num_states, -1, -1)


def micro_conditioning(config: AIDConfig, rows: int, device: torch.device) -> Tensor:
    """Return SVD's added time ids [fps - 1, motion bucket, noise augmentation], (rows, 3)."""
    ids = [config.fps - 1, config.motion_bucket_id, config.noise_aug_strength]
    return torch.tensor([ids], device=device).expand(rows, -1)
