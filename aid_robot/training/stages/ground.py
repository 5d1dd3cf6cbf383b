"""Towers that find what an instruction names, before anything is drawn from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aid_robot.model.aid import AIDModel
from aid_robot.model.conditioning import encode_image, encode_text
from aid_robot.model.latents import to_pixels
from aid_robot.model.pointer import Pointer
from aid_robot.model.states import StatePredictor
from aid_robot.training.config import StageConfig
from aid_robot.training.noise import Noise
from aid_robot.training.samples import Batch, distinct
from aid_robot.training.stages.stage import Figures, Stage

# How far from a place its neighbours still count, and what is found, in sides of the picture.
_SPREAD, _NEAR = 0.04, 0.1
# Weight of pointing beside other losses.
POINTING = 0.2


def teaching_pointer(model: AIDModel) -> Pointer | None:
    """Return a new pointer that only teaches, or None where the model has its own."""
    if model.condition_encoder.dqformer.pointer is not None:
        return None
    return Pointer(model.text_encoder.config.hidden_size, model.image_encoder.config.projection_dim)


def pointing_loss(pointer: Pointer | None, model: AIDModel, batch: Batch) -> Tensor:
    """Return how far a batch's known places are from where the model points, a number.

    Args:
        pointer: See `teaching_pointer`.
        model: Whose towers it asks.
        batch: Of clips with and without known places.
    """
    pointer = pointer or model.condition_encoder.dqformer.pointer
    assert pointer is not None
    if batch.pointed_frames is None or batch.pointed_places is None:
        # It takes part even so, or processes would wait for its gradient.
        return 0 * torch.stack([parameter.sum() for parameter in pointer.parameters()]).sum()
    logits = _point(pointer, model, batch.pointed_frames, batch.pointed_texts)
    return place_loss(logits, batch.pointed_places)


def _point(pointer: Pointer, model: AIDModel, frames: Tensor, texts: Sequence[str]) -> Tensor:
    """Return the logits of places (b, 2, h*w) of frames (b, H, W, 3) uint8 and instructions."""
    config = model.config.replace(image_tokens="patches")
    different, places = distinct(frames)
    image = encode_image(model.image_encoder, to_pixels(different), config)[places]
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


def found_shares(pointer: Pointer | None, model: AIDModel, batch: Batch) -> Figures:
    """Return the share of things that are found, by their own instruction and by another.

    Args:
        pointer: See `teaching_pointer`.
        model: Whose towers it asks.
        batch: Held-out clips.
    """
    pointer = pointer or model.condition_encoder.dqformer.pointer
    if pointer is None or batch.pointed_frames is None or batch.pointed_places is None:
        return {}
    places = batch.pointed_places
    known = ~places.isnan().any(-1)
    figures: Figures = {}
    for name, texts in (
        ("found", batch.pointed_texts),
        ("found_by_the_next_text", (*batch.pointed_texts[1:], batch.pointed_texts[0])),
    ):
        logits = _point(pointer, model, batch.pointed_frames, texts)
        found = _centres(logits)[logits.argmax(-1)]
        near = ((found - places).norm(dim=-1) < _NEAR) & known
        share = near.sum(1) / known.sum(1).clamp(min=1)
        figures[name] = share[known.any(1)].float().cpu().numpy()
    return figures


class GroundStage(Stage):
    """Train image and text towers to point at what an instruction moves and where to.

    For small models, whose towers know no words and no things; of CLIP's size they do.
    """

    name = "ground"
    whole_clips = False
    texts = True
    points = True
    places = True
    used = ("image_encoder", "text_encoder", "condition_encoder")

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
        self.pointer = teaching_pointer(model)

    def trained_names(self) -> set[str]:
        return self.names_of("image_encoder", "text_encoder") | {
            name
            for name in self.names_of("condition_encoder")
            if name.startswith("condition_encoder.dqformer.pointer.")
        }

    def loss(self, batch: Batch, noise: Noise) -> Tensor:
        return pointing_loss(self.pointer, self.model, batch)

    def measure(self, batch: Batch, predictions: int) -> Figures:
        return found_shares(self.pointer, self.model, batch)
