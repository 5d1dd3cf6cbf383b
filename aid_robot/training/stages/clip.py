"""Image and text towers for a domain that CLIP's don't know, and DQFormer with them."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from aid_robot.model.aid import AIDModel
from aid_robot.model.conditioning import tokenize
from aid_robot.model.latents import to_clip_pixels, to_pixels
from aid_robot.model.states import StatePredictor
from aid_robot.training.config import StageConfig
from aid_robot.training.losses import contrastive_loss
from aid_robot.training.noise import Noise
from aid_robot.training.samples import Batch
from aid_robot.training.stages.draft import DraftStage
from aid_robot.training.stages.ground import (
    POINTING,
    found_shares,
    pointing_loss,
    teaching_pointer,
)
from aid_robot.training.stages.stage import Figures

# Weight of the contrastive loss beside the draft's.
_CONTRAST = 0.2


class _Contrast(nn.Module):
    """Bring texts to where pictures are; CLIPTextModel has no projection of its own."""

    def __init__(self, text_dim: int, image_dim: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.text_projection = nn.Linear(text_dim, image_dim, bias=False)
        # CLIP's own start.
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))


class CLIPStage(DraftStage):
    """Train the towers by contrast of pictures and captions, and by a draft of the whole clip.

    The draft is drawn from DQFormer's tokens, which therefore trains too. Where episodes say where
    things are, the towers go on pointing at them.
    """

    name = "clip"
    captions = True
    points = True

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
        self.contrast = _Contrast(
            model.text_encoder.config.hidden_size, model.image_encoder.config.projection_dim
        )
        self.pointer = teaching_pointer(model)

    def trained_names(self) -> set[str]:
        towers = self.names_of("image_encoder", "text_encoder")
        return towers | self.names_of_drawing("dqformer.", "draft.")

    def loss(self, batch: Batch, noise: Noise) -> Tensor:
        loss = super().loss(batch, noise) + _CONTRAST * self._contrast(batch)
        return loss + POINTING * pointing_loss(self.pointer, self.model, batch)

    def _contrast(self, batch: Batch) -> Tensor:
        images, texts, negatives = self._embeddings(batch)
        captions, groups = list(batch.captions), list(batch.groups)
        # Where no false text is known, one that could not be farther off takes no part.
        absent = torch.tensor([not text for text in batch.false_captions], device=images.device)
        negatives = torch.where(absent[:, None], -images.detach(), negatives)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            images, texts, negatives = (_gathered(part) for part in (images, texts, negatives))
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, (captions, groups))
            captions = [text for part in parts for text in part[0]]
            groups = [name for part in parts for name in part[1]]
        # What is said of the same scene may well be true of this picture, too.
        told = list(zip(captions, groups, strict=True))
        same = torch.tensor(
            [[a == b or group == other for b, other in told] for a, group in told],
            device=images.device,
        )
        scale = self.contrast.log_scale.clamp(max=math.log(100.0)).exp()
        return contrastive_loss(images, texts, negatives, same, scale)

    def _embeddings(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        model = self.model
        assert batch.pair_frames is not None
        pixels = to_clip_pixels(to_pixels(batch.pair_frames), model.image_encoder.config.image_size)
        images = model.image_encoder(pixels).image_embeds
        length = model.text_encoder.config.max_position_embeddings
        all_texts = [*batch.captions, *(text or "-" for text in batch.false_captions)]
        ids = tokenize(model.tokenizer, all_texts, length).to(pixels.device)
        pooled = self.contrast.text_projection(model.text_encoder(ids).pooler_output)
        images, texts = F.normalize(images.float(), dim=1), F.normalize(pooled.float(), dim=1)
        return images, texts[: len(images)], texts[len(images) :]

    def measure(self, batch: Batch, predictions: int) -> Figures:
        images, texts, negatives = self._embeddings(batch)
        right = (images * texts).sum(1) > (images * negatives).sum(1)
        known = torch.tensor([bool(text) for text in batch.false_captions])
        figures = super().measure(batch, predictions)
        if known.any():
            figures["true_over_false_caption"] = right.cpu()[known].float().numpy()
        return figures | found_shares(self.pointer, self.model, batch)


class _Gather(torch.autograd.Function):
    """Collect the rows of all processes; the gradient of all finds its way back to each."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].contiguous().clone()
        dist.all_reduce(summed)
        return summed.chunk(dist.get_world_size())[dist.get_rank()]


def _gathered(rows: Tensor) -> Tensor:
    found: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return found
