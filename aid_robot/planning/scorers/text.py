"""How well a text says what the imagined end shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aid_robot.clip import Foresight
from aid_robot.errors import ScoreError
from aid_robot.model.conditioning import tokenize
from aid_robot.planning.goals import Goal
from aid_robot.planning.scorers.images import clip_pixels
from aid_robot.planning.scorers.scorer import (
    FloatArray,
    Frames,
    check_scores,
    clauses,
    final,
    goal_text,
    observed,
)

# The factor of cosines that CLIP's training ends with.
_SCALE = 100.0


class GoalText:
    """Score by CLIP how much better a text fits the imagined end than the present.

    The score is the probability that CLIP gives the last frame over the present one, for each
    statement of the goal, multiplied. Only a whole CLIP can do it, one whose towers were trained on
    each other and end in one space; a `CLIPTextModel` without a projection, as AID's own, can't.

    Args:
        clip: transformers.CLIPModel, or a module with the same four parts.
        tokenizer: Its tokenizer.
    """

    name = "goal text (clip)"

    def __init__(self, clip: Any, tokenizer: Any) -> None:
        for part in ("text_model", "text_projection", "vision_model", "visual_projection"):
            if not hasattr(clip, part):
                raise ScoreError(
                    f"{type(clip).__name__} has no {part}, which a comparison of text and picture "
                    "needs: give a transformers.CLIPModel, or use the success classifier"
                )
        self.clip, self.tokenizer = clip, tokenizer

    @classmethod
    def from_pretrained(cls, name_or_path: str, device: str = "auto") -> GoalText:
        """Load a CLIP from a folder or hub id, such as "openai/clip-vit-base-patch32"."""
        from transformers import CLIPModel, CLIPTokenizerFast

        from aid_robot.hub import resolve
        from aid_robot.runtime.denoiser import choose_device

        folder = resolve(name_or_path)
        return cls(
            CLIPModel.from_pretrained(folder, use_safetensors=True)
            .to(choose_device(device))
            .eval(),
            CLIPTokenizerFast.from_pretrained(folder),
        )

    def __call__(self, foresights: Sequence[Foresight], goal: Goal) -> FloatArray:
        texts = self._embed_texts(clauses(goal_text(self.name, goal)))
        after = final(foresights)
        pictures = np.concatenate(
            [observed(foresights)[0, :1], after.reshape(-1, *after.shape[2:])]
        )
        embedded = self._embed_pictures(pictures)  # (1 + plans x samples, D)
        gain = _SCALE * (embedded[1:] - embedded[:1]) @ texts.T
        scores = gain.double().sigmoid().prod(1).cpu().numpy().reshape(after.shape[:2])
        return check_scores(self.name, scores, foresights)

    @torch.inference_mode()
    def _embed_texts(self, texts: Sequence[str]) -> Tensor:
        text_model = self.clip.text_model
        length = text_model.config.max_position_embeddings
        ids = tokenize(self.tokenizer, texts, length).to(text_model.device)
        pooled = self.clip.text_projection(text_model(ids).pooler_output)
        return F.normalize(pooled.float(), dim=1)

    @torch.inference_mode()
    def _embed_pictures(self, pictures: Frames) -> Tensor:
        vision = self.clip.vision_model
        pooled = vision(clip_pixels(pictures, vision)).pooler_output
        return F.normalize(self.clip.visual_projection(pooled).float(), dim=1)
