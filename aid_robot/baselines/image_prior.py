"""The base of an AID, plain Stable Video Diffusion: image to video, without text."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from aid_robot import VideoForesight
from aid_robot.baselines.variants import HeldForesight
from aid_robot.errors import CheckpointError
from aid_robot.hub import BUNDLED, resolve
from aid_robot.model.aid import AIDModel
from aid_robot.model.checkpoint import from_svd, load_config
from aid_robot.model.conditioning import Condition, Encodings, encode_image, micro_conditioning
from aid_robot.model.config import AdapterConfig
from aid_robot.model.guidance import FULL, Branch
from aid_robot.model.latents import encode
from aid_robot.predictor import PredictOptions
from aid_robot.runtime.denoiser import choose_device, choose_dtype


class ImagePrior(HeldForesight):
    """What the frozen base of an AID predicts: no adapters, no text, its own cross-attention.

    It samples as the AID does, with its guidance by the image.
    """

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] = BUNDLED,
        *,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
    ) -> ImagePrior:
        """Load the base of an AID: bundled, from a folder, or from a hub id."""
        target = choose_device(device)
        chosen = choose_dtype(dtype, target)
        model = load_prior(name_or_path, dtype=chosen).to(target, chosen)
        name = f"prior:{os.fspath(name_or_path)}"
        return cls(VideoForesight(model), PredictOptions(text_guidance_scale=0.0), name)


class PriorModel(AIDModel):
    """An AID whose whole context is the pooled embedding of the image, as SVD's."""

    def encode(
        self,
        pixels: Tensor,
        noisy: Tensor,
        instructions: Sequence[str],
        states: Sequence[Sequence[str]],
    ) -> Encodings:
        """Run the image tower and the VAE's encoder; texts are not read."""
        unread = torch.zeros(len(pixels), 1, 1, device=pixels.device)
        image = encode_image(self.image_encoder, pixels[:, 0], self.config)
        return Encodings(unread, unread, image, given=encode(self.vae, noisy))

    def condition(self, encodings: Encodings, branches: Sequence[Branch] = (FULL,)) -> Condition:
        """Build SVD's condition of some branches: with the image, or zeros in its place."""
        image, latents = encodings.image, self.condition_encoder.fill(encodings.given)
        context = torch.cat([image * with_image for with_image, _ in branches])  # (rows, 1, D)
        latents = torch.cat([latents * with_image for with_image, _ in branches])
        spatial = context[:, None].expand(-1, self.config.num_frames, -1, -1)
        return Condition(
            context=self.unet.project_context(spatial, context),
            latents=latents,
            added_time_ids=micro_conditioning(self.config, len(latents), latents.device),
        )


def load_prior(
    name_or_path: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32
) -> PriorModel:
    """Load the frozen base of an AID, on the CPU.

    Raises:
        WeightsNotFoundError: The model, or the base it names, is nowhere to be found.
        CheckpointError: The folder is damaged or not an AID.
    """
    folder = resolve(name_or_path)
    config = load_config(folder)
    whole = (folder / "unet").is_dir()
    if not whole and config.base_model is None:
        raise CheckpointError(f"{folder} has no unet/ and names no base_model: it has no prior")
    if config.tuned_base:
        raise CheckpointError(
            f"the UNet of {folder} was trained along with AID (trains='full'), so that it predicts "
            "nothing by itself: take the prior that it was trained from, such as RUN/prior/model"
        )
    off = AdapterConfig(spatial=False, short_term=False, long_term=False)
    plain = config.replace(adapters=off, conditioning_fill="repeat", image_tokens="pooled")
    base = folder if whole else str(config.base_model)
    text = folder if whole else config.text_model
    return PriorModel(**vars(from_svd(base, plain, text_model=text, dtype=dtype)))
