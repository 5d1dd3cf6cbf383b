"""AID: instructions, on the frozen prior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from aid_robot.data.episode import UInt8Array
from aid_robot.errors import ConfigError
from aid_robot.model.aid import AIDModel
from aid_robot.model.conditioning import Condition, Encodings
from aid_robot.model.dqformer import MCondition
from aid_robot.model.guidance import Branch, DualGuidance
from aid_robot.model.states import StatePredictor
from aid_robot.training.config import StageConfig
from aid_robot.training.draft import draft_loss, drafted_frames, teaching_head
from aid_robot.training.noise import Noise
from aid_robot.training.samples import Batch, first, other_instructions
from aid_robot.training.stages.diffusion import DiffusionStage
from aid_robot.training.stages.ground import POINTING, pointing_loss
from aid_robot.training.stages.stage import Figures, psnr_by_clip, tiled


class AIDStage(DiffusionStage):
    """Train AID on the frozen prior and VAE: adapters, cross-attention, DQFormer, mask or draft.

    `trains="full"` trains the whole UNet instead of adapters, `train_towers` also the image and
    text towers, and `auxiliary_weight` goes on with what the stage `clip` began. A model with a
    pointer goes on pointing, unless what its towers give is cached.
    """

    name = "aid"
    texts = True
    embeddings = True
    points = True

    used = ("unet", "vae", "image_encoder", "text_encoder", "condition_encoder")

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
        if model.condition_encoder.draft is not None and not config.auxiliary_weight:
            raise ConfigError(
                "conditioning_fill='draft' with aid.auxiliary_weight=0: nothing would train the "
                "draft, while what it reads changes; set aid.auxiliary_weight, 0.3 for instance"
            )
        self._null: tuple[Tensor, Tensor] | None = None
        if config.auxiliary_weight:
            self.head = teaching_head(model)

    def trained_names(self) -> set[str]:
        names = {f"unet.{name}" for name in self.model.unet.aid_parameter_names()}
        if self.config.trains == "full":
            names = self.names_of("unet")
        names |= self.names_of("condition_encoder")
        if self.config.train_towers:
            names |= self.names_of("image_encoder", "text_encoder")
        return names

    def condition(self, batch: Batch, noise: Noise, latents: Tensor) -> tuple[Condition, Tensor]:
        image_dropped = self.dropped(noise, self.config.image_dropout)
        # A null branch without the image has no text either.
        text_dropped = self.dropped(noise, self.config.text_dropout) | image_dropped
        encodings = self.encodings(batch, self.given(batch, latents, noise))
        condition, context = self._condition(encodings, batch, text_dropped, image_dropped)
        further = latents.new_zeros(())
        if self.config.auxiliary_weight:
            weight = self.weight_of(batch) * (~image_dropped)[:, None]
            frames = drafted_frames(noise, self.model.config)
            head = self.model.condition_encoder.draft or self.head
            assert head is not None
            draft = draft_loss(
                *(head, self.model, context.spatial[:, frames]),
                latents[:, : self.model.config.num_conditioning_frames],
                latents[:, frames],
                weight[:, frames],
            )
            further = self.config.auxiliary_weight * draft.mean()
        towers_at_hand = batch.text is None
        if towers_at_hand and self.model.condition_encoder.dqformer.pointer is not None:
            further = further + POINTING * pointing_loss(None, self.model, batch)
        return condition, further

    def full_condition(self, batch: Batch, given: Tensor) -> Condition:
        none = torch.zeros(len(batch), dtype=torch.bool, device=given.device)
        return self._condition(self.encodings(batch, given), batch, none, none)[0]

    def branches(
        self, batch: Batch, given: Tensor
    ) -> tuple[DualGuidance, Callable[[list[Branch]], Condition]]:
        sampling = self.model.config.sampling
        guidance = DualGuidance(
            sampling.image_guidance_scale, sampling.text_guidance_scale, sampling.guidance_interval
        )
        encodings = self.encodings(batch, given)
        return guidance, lambda branches: self.model.condition(encodings, branches)

    def encodings(self, batch: Batch, given: Tensor) -> Encodings:
        """Encode image, instructions and states, or take what was cached of them."""
        if batch.text is not None and batch.image is not None:
            return Encodings(batch.text[:, 0], batch.text[:, 1:], batch.image, given)
        with torch.set_grad_enabled(self.config.train_towers and torch.is_grad_enabled()):
            instructions = [text or "-" for text in batch.clips.instructions]
            frames = batch.clips.frames[:, 0].cpu().numpy()
            states = [self.states(f, text) for f, text in zip(frames, instructions, strict=True)]
            text, state_tokens, image = self.model.encode_towers(
                self.pixels(batch)[:, 0], instructions, states
            )
        return Encodings(text, state_tokens, image, given)

    def _condition(
        self, encodings: Encodings, batch: Batch, text_dropped: Tensor, image_dropped: Tensor
    ) -> tuple[Condition, MCondition]:
        model = self.model
        # Clips without an instruction have no text, whatever is drawn.
        blank = torch.tensor([not t for t in batch.clips.instructions], device=text_dropped.device)
        text_dropped = text_dropped | blank
        null_text, null_states = self._null_text()
        keep = (~image_dropped).float()
        encodings = replace(
            encodings,
            text=torch.where(text_dropped[:, None, None], null_text, encodings.text),
            states=torch.where(text_dropped[:, None, None, None], null_states, encodings.states),
            image=encodings.image * keep[:, None, None],
        )
        encoder = model.condition_encoder
        context = encoder.dqformer(encodings.text, encodings.states, encodings.image)
        latents = encoder.fill(encodings.given) * keep.reshape(-1, 1, 1, 1, 1)
        return model.condition_on(context, latents, ~image_dropped), context

    def _null_text(self) -> tuple[Tensor, Tensor]:
        if self.config.train_towers:
            return self.model.null_text()
        if self._null is None:
            with torch.no_grad():
                device = next(self.model.unet.parameters()).device
                text, states = self.model.null_text()
                self._null = text.to(device), states.to(device)
        return self._null

    def measure(self, batch: Batch, predictions: int) -> Figures:
        figures = super().measure(batch, predictions)
        if predictions:
            some = first(batch, predictions)
            other = self.predict(other_instructions(some, batch))
            psnr = psnr_by_clip(other, some.clips.frames, self.weight_of(some))
            figures["psnr_gain_of_instruction"] = figures["psnr"] - psnr
        return figures

    def draw(self, batch: Batch, count: int) -> UInt8Array | None:
        """Draw truth, prediction, and the prediction under another clip's instruction."""
        some = first(batch, count)
        made, other = self.predict(some), self.predict(other_instructions(some, batch))
        return tiled([clip for rows in zip(some.clips.frames, made, other, strict=True)
                      for clip in rows])  # fmt: skip
