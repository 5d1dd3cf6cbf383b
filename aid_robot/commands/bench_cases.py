"""What `aid-robot bench` times: predictions by runtime, and diffusers' own at the same size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
from diffusers import UNetSpatioTemporalConditionModel as SVDUNet
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from aid_robot.data.episode import UInt8Array
from aid_robot.foresight import VideoForesight
from aid_robot.hub import bundled_model
from aid_robot.model.aid import AIDModel
from aid_robot.model.build import ModelSizes, build_model, build_tokenizer
from aid_robot.model.checkpoint import load_model
from aid_robot.model.conditioning import Encodings
from aid_robot.model.config import preset
from aid_robot.model.diffusion import make_sigmas
from aid_robot.model.guidance import DualGuidance
from aid_robot.runtime.denoiser import Denoiser

# Full-size weights drawn from a seed: speed does not depend on them.
RANDOM_FULL = "random-full"
INSTRUCTIONS = (
    "put the carrot on the plate",
    "open the drawer",
    "lift the red cube",
    "move the spoon to the left of the pot",
    "push the blue block to the right",
    "close the drawer",
)
# SVD's pipeline resizes to this, whatever its image tower takes.
_PIPELINE_IMAGE_SIZE = 224


def load(name: str, device: torch.device, dtype: torch.dtype) -> AIDModel:
    """Load a model by name, or draw one of the full size."""
    if name != RANDOM_FULL:
        return load_model(name, dtype=dtype).to(device, dtype)
    sizes = ModelSizes()
    tokenizer = build_tokenizer(INSTRUCTIONS, 600, sizes.text_length)
    return build_model(preset("svd"), sizes, tokenizer).to(device, dtype)


def observation(model: AIDModel) -> UInt8Array:
    """Return the K given frames: the picture that comes with the package, standing still."""
    path = bundled_model().parent / "observations" / "tabletop.png"
    frame = np.asarray(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), np.uint8)
    return np.repeat(frame[None], model.config.num_conditioning_frames, axis=0)


def predict_call(
    foresight: VideoForesight, candidates: int, steps: int
) -> Callable[[], Mapping[str, float]]:
    """Return a call that predicts what follows several instructions, all in one batch."""
    frames = observation(foresight.model)
    frames = frames[0] if len(frames) == 1 else frames
    requests = [(frames, INSTRUCTIONS[i % len(INSTRUCTIONS)]) for i in range(candidates)]

    def call() -> Mapping[str, float]:
        found = foresight.predict_many(requests, steps=steps, batch_size=candidates)
        return found[0].timings

    return call


def branch_count(model: AIDModel) -> int:
    """Count the guidance branches of a step under the model's own sampling."""
    sampling = model.config.sampling
    guidance = DualGuidance(
        sampling.image_guidance_scale, sampling.text_guidance_scale, sampling.guidance_interval
    )
    return len(guidance.branches(make_sigmas(sampling), model.config.num_frames))


class Step:
    """One denoising step of random numbers, the same for everyone."""

    def __init__(self, model: AIDModel, rows: int) -> None:
        self._model = model
        draw = torch.Generator().manual_seed(0)

        def noise(*shape: int) -> Tensor:
            return torch.randn(shape, generator=draw).to(model.device, model.dtype)

        frames, channels, height, width = model.latent_shape
        words = model.text_encoder.config
        text = (words.max_position_embeddings, words.hidden_size)
        encodings = Encodings(
            text=noise(rows, *text),
            states=noise(rows, model.config.num_states, *text),
            image=noise(rows, 1, model.image_encoder.config.projection_dim),
            given=noise(rows, model.config.num_conditioning_frames, channels, height, width),
        )
        with torch.inference_mode():
            self.condition = model.condition(encodings)
        self.latents = noise(rows, frames, channels, height, width)
        self.tokens = self.condition.context[0].spatial_key.shape[2]
        self.plain_context = noise(rows, self.tokens, model.unet.config.cross_attention_dim)

    def call(self, denoiser: Denoiser) -> Callable[[], None]:
        """Return a call of a denoiser; keys and values are there before, as in a request."""

        @torch.inference_mode()
        def call() -> None:
            denoiser.denoise(self.latents, 1.0, self.condition)

        return call

    def diffusers_call(self, unet: Any) -> Callable[[], None]:
        """Return a call of diffusers' UNet with as many tokens of context."""
        sample = torch.cat([self.latents, self.condition.latents], dim=2)
        side = self._model.unet.patch_size
        if side > 1:  # as our UNet takes them, see `AIDConfig.latent_patch_size`
            rows, frames = sample.shape[:2]
            sample = F.pixel_unshuffle(sample.flatten(0, 1), side).unflatten(0, (rows, frames))
        at = torch.tensor(0.0, device=sample.device)

        @torch.inference_mode()
        def call() -> None:
            unet(sample, at, self.plain_context, self.condition.added_time_ids)

        return call


def diffusers_unet(model: AIDModel) -> Any:
    """Return diffusers' own UNet with the model's weights, the adapters left out."""
    with torch.device("meta"):
        unet = SVDUNet.from_config(dict(model.unet.config))
    state = {n: p for n, p in model.unet.state_dict().items() if ".adapters." not in n}
    unet.load_state_dict(state, assign=True)  # shared, not copied
    return unet.eval().requires_grad_(False)


def diffusers_pipeline(model: AIDModel, unet: Any) -> Any:
    """Return diffusers' Stable Video Diffusion around that UNet and the model's VAE.

    None where the UNet takes patches of latents, which that pipeline does not know.

    Its image tower is the model's, or where that takes other sizes one of the same width, depth
    and number of patches.
    """
    if model.unet.patch_size > 1:
        return None
    tower, own = model.image_encoder, model.image_encoder.config
    if own.image_size != _PIPELINE_IMAGE_SIZE:
        scale = _PIPELINE_IMAGE_SIZE / own.image_size
        config = {**own.to_dict(), "image_size": _PIPELINE_IMAGE_SIZE}
        config["patch_size"] = round(own.patch_size * scale)
        tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**config))
        tower = tower.to(model.device, model.dtype).eval()
    pipeline = StableVideoDiffusionPipeline(
        vae=model.vae,
        image_encoder=tower,
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            prediction_type="v_prediction",
            timestep_type="continuous",
            timestep_spacing="leading",
            use_karras_sigmas=True,
            sigma_min=0.002,
            sigma_max=700.0,
        ),
        feature_extractor=CLIPImageProcessor(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pipeline_call(
    pipeline: Any, model: AIDModel, candidates: int, steps: int
) -> Callable[[], None]:
    """Return a call of diffusers' pipeline for the same frames and steps; it takes no text."""
    config = model.config
    frame = cv2.resize(observation(model)[-1], (config.width, config.height))
    images = [Image.fromarray(frame)] * candidates

    def call() -> None:
        pipeline(
            images,
            height=config.height,
            width=config.width,
            num_frames=config.num_frames,
            num_inference_steps=steps,
            fps=round(config.fps),
            decode_chunk_size=config.num_frames,
            output_type="np",
        )

    return call


def engine_seconds(engines: Path | None) -> Mapping[str, float]:
    """Return how long each engine of a folder took to build."""
    if engines is None:
        return {}
    from aid_robot.runtime.manifest import Manifest
    from aid_robot.runtime.trt_fingerprint import Fingerprint

    built: dict[str, float] = {}
    for of_backend in Manifest.load(engines).engines.values():
        for values in dict(of_backend).values():
            found = Fingerprint.from_dict(values)
            built[found.file] = found.seconds
    return built
