"""The real classes at a size that a test can afford."""

from __future__ import annotations

from typing import Any

from aid_robot.model.aid import AIDModel
from aid_robot.model.build import ModelSizes, build_model, build_tokenizer
from aid_robot.model.config import AdapterConfig, AIDConfig, DQFormerConfig, SamplingConfig

SIZES = ModelSizes(
    unet_channels=(32, 64, 64),
    unet_heads=(2, 4, 4),
    unet_layers_per_block=1,
    time_embed_dim=32,
    context_dim=32,
    vae_channels=(32, 32),
    vae_layers_per_block=1,
    image_size=16,
    patch_size=8,
    vision_width=32,
    vision_layers=2,
    vision_heads=2,
    text_width=32,
    text_layers=2,
    text_heads=2,
    text_length=48,
)

TEXTS = ["put the carrot on the plate", "open the drawer", "lift the red cube"]


def tiny_config(**changes: Any) -> AIDConfig:
    """A config for 4 frames of 16x16 latents; all adapters and both branches."""
    config = AIDConfig(
        num_frames=4,
        height=32,
        width=32,
        base_model=None,
        text_model=None,
        adapters=AdapterConfig(num_attention_heads=2),
        dqformer=DQFormerConfig(num_attention_heads=2, tokens_per_frame=5),
        sampling=SamplingConfig(steps=3, sigma_min=0.05, sigma_max=20.0, image_guidance_scale=1.5),
        noise_aug_strength=0.0,
    )
    return config.replace(**changes)


def tiny_model(seed: int = 0, sizes: ModelSizes = SIZES, **changes: Any) -> AIDModel:
    """A whole tiny model with random weights, in float32 on the CPU."""
    tokenizer = build_tokenizer(TEXTS, 600, sizes.text_length)
    model = build_model(tiny_config(**changes), sizes, tokenizer, seed)
    for module in model.modules.values():
        module.eval()
    return model
