"""Towers that find what an instruction names, before anything is drawn from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aid_robot.model.adapters import attend
from aid_robot.model.aid import AIDModel
from aid_robot.model.conditioning import encode_image, encode_text
from aid_robot.model.latents import to_pixels
from aid_robot.model.states import StatePredictor
from aid_robot.training.config import StageConfig
from aid_robot.training.noise import Noise
from aid_robot.training.samples import Batch
from aid_robot.training.stages.stage import Figures, Stage
from aid_robot.training.views import ROLES

# How far from a place its neighbours still count, and what is found, in sides of the picture.
_SPREAD, _NEAR = 0.04, 0.1


class Pointer(nn.Module):
    """A text asks for what it moves and where to, and each patch of the picture answers.

    Matching words with places is what DQFormer's attention has to do later; here it is all that is
    learned, at ten times the clips a second.
    """

    def __init__(self, text_dim: int, image_dim: int) -> None:
        super().__init__()
        self.heads = 4 if text_dim % 4 == 0 else 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.roles = nn.Parameter(torch.randn(len(ROLES), text_dim))
            self.to_k, self.to_v = nn.Linear(text_dim, text_dim), nn.Linear(text_dim, text_dim)
            self.ask = nn.Sequential(
                nn.LayerNorm(text_dim), nn.Linear(text_dim, text_dim), nn.GELU(),
                nn.Linear(text_dim, image_dim),
            )  # fmt: skip
            self.answer = nn.Sequential(nn.LayerNorm(image_dim), nn.Linear(image_dim, image_dim))

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        """Return logits of places.

        Args:
            text: Tokens of instructions, (B, T, text_dim).
            image: Tokens of patches, row by row, (B, h*w, image_dim).

        Returns:
            (B, 2, h*w), for each of `ROLES`.
        """
        roles = self.roles.expand(len(text), -1, -1)
        named = attend(roles, self.to_k(text), self.to_v(text), self.heads)
        logits: Tensor = self.ask(named) @ self.answer(image).transpose(1, 2)
        return 2 * logits / math.sqrt(image.shape[-1])


def make_pointer(model: AIDModel) -> Pointer:
    """Return a new pointer that fits a model's towers."""
    return Pointer(model.text_encoder.config.hidden_size, model.image_encoder.config.projection_dim)


def pointing_loss(pointer: Pointer, model: AIDModel, batch: Batch) -> Tensor:
    """Return how far the towers are from pointing where a batch knows it, a number."""
    if batch.pointed_frames is None or batch.pointed_places is None:
        # It takes part even so, or processes would wait for its gradient.
        return 0 * torch.stack([parameter.sum() for parameter in pointer.parameters()]).sum()
    logits = _point(pointer, model, batch.pointed_frames, batch.pointed_texts)
    return place_loss(logits, batch.pointed_places)


def _point(pointer: Pointer, model: AIDModel, frames: Tensor, texts: Sequence[str]) -> Tensor:
    """Return the logits of places (b, 2, h*w) of frames (b, H, W, 3) uint8 and instructions."""
    config = model.config.replace(image_tokens="patches")
    # The first is the class token.
    image = encode_image(model.image_encoder, to_pixels(frames), config)[:, 1:]
    text = encode_text(model.text_encoder, model.tokenizer, texts)
    logits: Tensor = pointer(text, image)
    return logits


def place_loss(logits: Tensor, places: Tensor) -> Tensor:
    """Return the cross-entropy of places that are known, a number.

    Args:
        logits: (b, 2, h*w), of a square picture.
        places: x, y in [0, 1], (b, 2, 2); NaN where unknown.
    """
    distance = (_centres(logits) - places.nan_to_num()[:, :, None]).square().sum(-1)
    target = (-distance / (2 * _SPREAD**2)).softmax(-1)
    error = -(target * logits.float().log_softmax(-1)).sum(-1)
    known = ~places.isnan().any(-1)
    return (error * known).sum() / known.sum().clamp(min=1)


def _centres(logits: Tensor) -> Tensor:
    side = round(logits.shape[-1] ** 0.5)
    at = (torch.arange(side, device=logits.device) + 0.5) / side
    return torch.stack(torch.meshgrid(at, at, indexing="xy"), -1).flatten(0, 1)


class GroundStage(Stage):
    """Train image and text towers to point at what an instruction moves and where to.

    For small models, whose towers know no words and no things; of CLIP's size they do.
    """

    name = "ground"
    whole_clips = False
    texts = True
    points = True
    places = True
    used = ("image_encoder", "text_encoder")

    def __init__(
        self,
        model: AIDModel,
        config: StageConfig,
        states: StatePredictor,
        *,
        cached: bool = False,
        embedded: bool = False,
    ) -> None:
        super().__init__(model, config, states, cached=cached, embedded=embedded)
        self.pointer = make_pointer(model)

    def trained_names(self) -> set[str]:
        return self.names_of("image_encoder", "text_encoder")

    def loss(self, batch: Batch, noise: Noise) -> Tensor:
        return pointing_loss(self.pointer, self.model, batch)

    def measure(self, batch: Batch, predictions: int) -> Figures:
        """Return the share of things that are found, by their own instruction and by another."""
        if batch.pointed_frames is None or batch.pointed_places is None:
            return {}
        places = batch.pointed_places
        known = ~places.isnan().any(-1)
        figures: Figures = {}
        for name, texts in (
            ("found", batch.pointed_texts),
            ("found_by_the_next_text", (*batch.pointed_texts[1:], batch.pointed_texts[0])),
        ):
            logits = _point(self.pointer, self.model, batch.pointed_frames, texts)
            found = _centres(logits)[logits.argmax(-1)]
            near = ((found - places).norm(dim=-1) < _NEAR) & known
            share = near.sum(1) / known.sum(1).clamp(min=1)
            figures[name] = share[known.any(1)].float().cpu().numpy()
        return figures
