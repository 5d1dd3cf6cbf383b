"""Graphs of what the UNet is conditioned on: towers, DQFormer, draft."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from aid_robot.export.source import Parts, Source, plain_source


class _DQFormer(nn.Module):
    def __init__(self, dqformer: nn.Module) -> None:
        super().__init__()
        self.dqformer = dqformer

    def forward(self, text: Tensor, states: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        context = self.dqformer(text, states, image)
        return context.spatial, context.temporal


def make_dqformer(parts: Parts) -> Source:
    """Make the source of DQFormer."""
    model = parts.model
    spatial, temporal = parts.context_shapes()
    inputs = (
        parts.spec("text", ("rows", *parts.text_shape), "tokens of the instruction"),
        parts.spec(
            "states", ("rows", model.config.num_states, *parts.text_shape), "tokens of its states"
        ),
        parts.spec(
            "image", ("rows", *parts.image_shape), "tokens of the first frame; zeros for none"
        ),
    )
    outputs = (
        parts.spec("spatial", ("rows", *spatial), "context of each frame"),
        parts.spec("temporal", ("rows", *temporal), "context of the clip"),
    )
    dqformer = model.condition_encoder.dqformer
    return plain_source(_DQFormer, dqformer, inputs, outputs, parts)


class _Draft(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, spatial: Tensor, given: Tensor) -> Tensor:
        drawn: Tensor = self.head(spatial, given)
        return drawn


def make_draft(parts: Parts) -> Source:
    """Make the source of the head that drafts the frames to predict."""
    model = parts.model
    head = model.condition_encoder.draft
    assert head is not None
    frames, channels, *size = model.latent_shape
    frames -= model.config.num_conditioning_frames
    spatial, _ = parts.context_shapes()
    inputs = (
        parts.spec("spatial", ("rows", frames, *spatial[1:]), "context of each frame to predict"),
        parts.spec("given", ("rows", channels, *size), "last given frame's latents, scaled"),
    )
    drawn = parts.spec(
        "draft",
        ("rows", frames, channels, *size),
        "in the space that is denoised; a given frame is its own",
    )
    return plain_source(_Draft, head, inputs, (drawn,), parts)


class _ImageEncoder(nn.Module):
    def __init__(self, tower: Any, pooled: bool) -> None:
        super().__init__()
        self.tower, self.pooled = tower, pooled

    def forward(self, pixels: Tensor) -> Tensor:
        if self.pooled:
            embeddings: Tensor = self.tower(pixels).image_embeds[:, None]
            return embeddings
        vision = self.tower.vision_model
        hidden = vision.post_layernorm(vision(pixels).last_hidden_state)
        tokens: Tensor = self.tower.visual_projection(hidden)
        return tokens


def make_image_encoder(parts: Parts) -> Source:
    """Make the source of CLIP's image tower, as `model.conditioning.encode_image` uses it."""
    model = parts.model
    side = model.image_encoder.config.image_size
    inputs = (
        parts.spec(
            "pixels",
            ("rows", 3, side, side),
            "first frame, resized to CLIP's square and normalised by its mean and deviation",
            "(RGB in [0, 1] - mean) / deviation",
        ),
    )
    outputs = (parts.spec("tokens", ("rows", *parts.image_shape), "image tokens"),)
    pooled = model.config.image_tokens == "pooled"
    return plain_source(
        lambda m: _ImageEncoder(m, pooled), model.image_encoder, inputs, outputs, parts
    )


class _TextEncoder(nn.Module):
    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, ids: Tensor) -> Tensor:
        tokens: Tensor = self.tower(ids).last_hidden_state
        return tokens


def make_text_encoder(parts: Parts) -> Source:
    """Make the source of CLIP's text tower."""
    length, width = parts.text_shape
    ids = parts.spec("ids", ("rows", length), "token ids, padded to the length", dtype="int64")
    tokens = parts.spec("tokens", ("rows", length, width), "text tokens after the last norm")
    return plain_source(_TextEncoder, parts.model.text_encoder, (ids,), (tokens,), parts)
