"""The UNet's graphs: a denoising step, and the keys and values that it is handed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from aid_robot.export.source import Parts, Source
from aid_robot.model.config import PredictionType
from aid_robot.model.unet import LayerContext
from aid_robot.runtime.manifest import TensorSpec
from aid_robot.runtime.unet_graph import (
    OUTPUT,
    SAMPLE,
    TIME_IDS,
    TIMESTEP,
    context_names,
    context_weights,
    split_weights,
    unflatten_context,
)


def context_specs(parts: Parts) -> tuple[TensorSpec, ...]:
    """Describe the keys and values of all cross-attentions."""
    spatial, temporal = parts.context_shapes()
    widths = [
        block.attn2.to_k.out_features
        for _, transformer in parts.model.unet.transformers()
        for block in transformer.transformer_blocks
    ]
    of_part = {
        "spatial_key": ("keys of the spatial cross-attention, by frame", spatial[:-1]),
        "spatial_value": ("values of the spatial cross-attention, by frame", spatial[:-1]),
        "temporal_key": ("keys of the temporal cross-attention", temporal[:-1]),
        "temporal_value": ("values of the temporal cross-attention", temporal[:-1]),
    }
    assert tuple(of_part) == LayerContext._fields
    names = iter(context_names(len(widths)))
    return tuple(
        parts.spec(next(names), ("rows", *shape, width), f"{meaning}, layer {layer}")
        for layer, width in enumerate(widths)
        for meaning, shape in of_part.values()
    )


class _Denoiser(nn.Module):
    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self, sample: Tensor, timestep: Tensor, added_time_ids: Tensor, *context: Tensor
    ) -> Tensor:
        output: Tensor = self.unet(sample, timestep, unflatten_context(context), added_time_ids)
        return output


_OUTPUTS: Mapping[PredictionType, str] = {
    "v_prediction": "v; x0 = latents / (sigma^2 + 1) - sigma / sqrt(sigma^2 + 1) * v, in float32",
    "sample": "x0",
}


def make_denoiser(parts: Parts) -> Source:
    """Make the source of one step of the UNet with its adapters."""
    model = parts.model
    frames, channels, *size = model.latent_shape
    inside, handed = split_weights(model.unet, parts.adapters)
    drafts = model.condition_encoder.draft is not None
    around, seen = (
        (" less the draft", "; frames to predict hold the draft, unscaled") if drafts else ("", "")
    )
    inputs = (
        parts.spec(
            SAMPLE,
            ("rows", frames, 2 * channels, *size),
            f"noisy latents{around} times 1 / sqrt(sigma^2 + 1), then conditioning latents "
            f"(unscaled, zeros for the null image{seen}), on channels",
        ),
        parts.spec(TIMESTEP, ("rows",), "noise level", "ln(sigma) / 4", dtype="float32"),
        parts.spec(
            TIME_IDS,
            ("rows", 3),
            "SVD's micro-conditioning: fps - 1, motion bucket, noise augmentation",
            "frames/s, 1, pixel levels in [-1, 1]",
            dtype="float32",
        ),
        *context_specs(parts),
    )
    output = parts.spec(
        OUTPUT,
        ("rows", frames, channels, *size),
        _OUTPUTS[model.config.prediction_type] + (", plus the draft" if drafts else ""),
    )
    module = _Denoiser(parts.rounded(model.unet))
    return Source(module, inputs, (output,), inside, parts.precision, tuple(handed), 3)


class _Context(nn.Module):
    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, spatial: Tensor, temporal: Tensor) -> tuple[Tensor, ...]:
        layers = self.unet.project_context(spatial, temporal)
        return tuple(tensor for layer in layers for tensor in layer)


def make_context(parts: Parts) -> Source:
    """Make the source of the keys and values, which a request needs once."""
    spatial, temporal = parts.context_shapes()
    inputs = (
        parts.spec("spatial", ("rows", *spatial), "context of each frame, by the DQFormer"),
        parts.spec("temporal", ("rows", *temporal), "context of the clip, by the DQFormer"),
    )
    unet = parts.model.unet
    module = _Context(parts.rounded(unet))
    return Source(module, inputs, context_specs(parts), context_weights(unet), parts.precision)
