"""Image to video without text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from aid_robot.model.conditioning import Condition, Encodings, encode_image
from aid_robot.model.guidance import Branch, DualGuidance
from aid_robot.training.noise import Noise
from aid_robot.training.samples import Batch
from aid_robot.training.stages.diffusion import DiffusionStage


class PriorStage(DiffusionStage):
    """Train image-to-video without text, as SVD: the image's pooled token is the whole context."""

    name = "prior"
    used = ("unet", "vae", "image_encoder", "condition_encoder")

    def trained_names(self) -> set[str]:
        names = {name for name in self.names_of("unet") if ".adapters." not in name}
        return names | (self.names_of("image_encoder") if self.config.train_towers else set())

    def condition(self, batch: Batch, noise: Noise, latents: Tensor) -> tuple[Condition, Tensor]:
        keep = ~self.dropped(noise, self.config.image_dropout)
        given = self.given(batch, latents, noise)
        condition = self._condition(batch, given, keep)
        condition = replace(condition, latents=condition.latents * keep.reshape(-1, 1, 1, 1, 1))
        return condition, latents.new_zeros(())

    def full_condition(self, batch: Batch, given: Tensor) -> Condition:
        return self._condition(
            batch, given, torch.ones(len(batch), dtype=torch.bool, device=given.device)
        )

    def branches(
        self, batch: Batch, given: Tensor
    ) -> tuple[DualGuidance, Callable[[list[Branch]], Condition]]:
        # Without guidance there is one branch.
        return DualGuidance(1.0, 1.0), lambda _: self.full_condition(batch, given)

    def _condition(self, batch: Batch, given: Tensor, keep: Tensor) -> Condition:
        model = self.model
        pooled = model.config.replace(image_tokens="pooled")
        with torch.set_grad_enabled(self.config.train_towers and torch.is_grad_enabled()):
            image = encode_image(model.image_encoder, self.pixels(batch)[:, 0], pooled)
        empty = torch.zeros(len(batch), 1, 1, device=given.device)
        return model.condition_without_text(
            Encodings(empty, empty, image * keep[:, None, None], given)
        )
