"""DQFormer and the draft that is drawn from it, on towers that know what they look for."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from aid_robot.model.aid import AIDModel
from aid_robot.model.latents import to_pixels
from aid_robot.model.states import StatePredictor
from aid_robot.training.config import StageConfig, StageName
from aid_robot.training.draft import draft_loss, drafted_frames, teaching_head
from aid_robot.training.noise import Noise
from aid_robot.training.samples import Batch, distinct, other_instructions
from aid_robot.training.stages.stage import Figures, Frames, Stage


class DraftStage(Stage):
    """Train DQFormer by a draft of the clip that is drawn from its tokens; the towers stay.

    With latents from the cache it sees several times the clips a second of the stage `clip`.
    """

    name: ClassVar[StageName] = "draft"
    texts = True

    used = ("vae", "image_encoder", "text_encoder", "condition_encoder")

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
        self.head = teaching_head(model)

    def trained_names(self) -> set[str]:
        # What the pointer finds is what the towers were taught.
        pointer = self.names_of_drawing("dqformer.pointer.")
        return self.names_of_drawing("dqformer.", "draft.") - pointer

    def names_of_drawing(self, *starts: str) -> set[str]:
        """Name the parameters of the condition encoder whose names begin so."""
        known = tuple(f"condition_encoder.{start}" for start in starts)
        return {name for name in self.names_of("condition_encoder") if name.startswith(known)}

    def loss(self, batch: Batch, noise: Noise) -> Tensor:
        return self.drafted(batch, drafted_frames(noise, self.model.config)).mean()

    def drafted(self, batch: Batch, frames: Frames = slice(None)) -> Tensor:
        """Return the error of each clip's draft in some frames, (B,)."""
        instructions = [text or "-" for text in batch.clips.instructions]
        first = batch.clips.frames[:, 0]
        states = [
            self.states(frame, text)
            for frame, text in zip(first.cpu().numpy(), instructions, strict=True)
        ]
        # Rows of clips that begin alike show the towers the same picture.
        different, places = distinct(first)
        text, state_tokens = self.model.encode_texts(instructions, states)
        image = self.model.encode_first(to_pixels(different))[places]
        known = range(self.model.config.num_frames)[frames] if isinstance(frames, slice) else frames
        context = self.model.condition_encoder.dqformer(
            text, state_tokens, image, frames=list(known)
        )
        given = self.latents_of(batch, slice(self.model.config.num_conditioning_frames))
        head = self.model.condition_encoder.draft or self.head
        assert head is not None
        return draft_loss(
            *(head, self.model, context.spatial, given),
            self.latents_of(batch, frames),
            self.weight_of(batch)[:, frames],
        )

    def measure(self, batch: Batch, predictions: int) -> Figures:
        draft = self.drafted(batch)
        other = self.drafted(other_instructions(batch, batch))
        return {
            "draft_loss": draft.cpu().numpy(),
            "draft_gain_of_instruction": (other - draft).cpu().numpy(),
        }
