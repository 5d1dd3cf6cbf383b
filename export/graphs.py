"""The parts of a model as modules of plain tensors, each with a description of its interface.

Shapes: R rows (candidates x guidance branches), B clips, N frames of a clip, K given frames,
S states, T text tokens, P image tokens, D context width, C latent channels, h x w latent pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aid_robot.errors import ConfigError
from aid_robot.model.aid import AIDModel
from aid_robot.model.config import PredictionType
from aid_robot.model.unet import LayerContext
from aid_robot.runtime.manifest import PRECISIONS, TensorSpec, dtype_name
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

# Size of a dynamic dimension in the example that is traced: 0 and 1 would be taken as fixed.
_EXAMPLE_SIZE = 2


@dataclass(frozen=True)
class Source:
    """A part of the model that becomes one graph."""

    module: nn.Module  # takes and returns tensors alone
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: Mapping[str, Tensor]  # what the graph holds, before rounding to its precision
    precision: str
    # Parameters that the graph is handed with each call, in place of holding them.
    handed: tuple[str, ...] = ()

    def example(self, seed: int = 0) -> tuple[Tensor, ...]:
        """Return inputs of the right shapes, normally distributed; token ids are small."""
        generator = torch.Generator().manual_seed(seed)
        return tuple(_example(spec, generator) for spec in self.inputs)


def _example(spec: TensorSpec, generator: torch.Generator) -> Tensor:
    shape = [_EXAMPLE_SIZE if isinstance(size, str) else size for size in spec.shape]
    if spec.torch_dtype == torch.int64:
        return torch.randint(0, 100, shape, generator=generator)
    return torch.randn(shape, generator=generator).to(spec.torch_dtype)


def make_source(
    role: str,
    model: AIDModel,
    *,
    precision: str = "fp32",
    adapters: str = "folded",
    rows: int | None = None,
) -> Source:
    """Turn a part of the model into the source of a graph.

    Args:
        role: One of `ROLES`.
        model: The model; a part of another precision is copied first.
        precision: "fp32", "fp16" or "bf16"; a VAE that asks to be upcast stays in fp32 for "fp16".
        adapters: "folded" or "inputs"; it concerns the denoiser alone.
        rows: Fixes the batch; None leaves it dynamic.
    """
    if role not in _MAKERS:
        raise ConfigError(f"graph '{role}' is unknown; it is one of {', '.join(ROLES)}")
    if role.startswith("vae") and precision == "fp16" and model.vae.config.force_upcast:
        precision = "fp32"
    return _MAKERS[role](_Parts(model, precision, adapters, rows))


@dataclass(frozen=True)
class _Parts:
    """What the makers below share."""

    model: AIDModel
    precision: str
    adapters: str
    rows: int | None

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]

    def rounded(self, module: Any) -> Any:
        """Return a module in the precision, for inference."""
        if next(module.parameters()).dtype != self.dtype:
            module = nn.Module.to(copy.deepcopy(module), self.dtype)
        return module.eval().requires_grad_(False)

    def spec(
        self, name: str, shape: tuple[int | str, ...], meaning: str, units: str = "", **kwargs: Any
    ) -> TensorSpec:
        dtype = kwargs.get("dtype", dtype_name(self.dtype))
        if self.rows is not None:
            shape = tuple(self.rows if isinstance(size, str) else size for size in shape)
        return TensorSpec(name, dtype, shape, meaning, units)

    @property
    def text_shape(self) -> tuple[int, int]:
        config = self.model.text_encoder.config
        return config.max_position_embeddings, config.hidden_size

    @property
    def image_shape(self) -> tuple[int, int]:
        config = self.model.image_encoder.config
        patches = (config.image_size // config.patch_size) ** 2 + 1
        count = 1 if self.model.config.image_tokens == "pooled" else patches
        return count, config.projection_dim

    def context_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of the spatial and temporal context of one row."""
        dqformer = self.model.condition_encoder.dqformer
        like = next(dqformer.parameters())
        with torch.no_grad():
            context = dqformer(
                like.new_zeros(1, *self.text_shape),
                like.new_zeros(1, self.model.config.num_states, *self.text_shape),
                like.new_zeros(1, *self.image_shape),
            )
        return tuple(context.spatial.shape[1:]), tuple(context.temporal.shape[1:])

    def context_specs(self) -> tuple[TensorSpec, ...]:
        """Describe the keys and values of all cross-attentions."""
        spatial, temporal = self.context_shapes()
        widths = [
            block.attn2.to_k.out_features
            for _, transformer in self.model.unet.transformers()
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
            self.spec(next(names), ("rows", *shape, width), f"{meaning}, layer {layer}")
            for layer, width in enumerate(widths)
            for meaning, shape in of_part.values()
        )


# -- the UNet ------------------------------------------------------------------------------------


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


def _denoiser(parts: _Parts) -> Source:
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
        *parts.context_specs(),
    )
    output = parts.spec(
        OUTPUT,
        ("rows", frames, channels, *size),
        _OUTPUTS[model.config.prediction_type] + (", plus the draft" if drafts else ""),
    )
    module = _Denoiser(parts.rounded(model.unet))
    return Source(module, inputs, (output,), inside, parts.precision, tuple(handed))


class _Context(nn.Module):
    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, spatial: Tensor, temporal: Tensor) -> tuple[Tensor, ...]:
        layers = self.unet.project_context(spatial, temporal)
        return tuple(tensor for layer in layers for tensor in layer)


def _context(parts: _Parts) -> Source:
    spatial, temporal = parts.context_shapes()
    inputs = (
        parts.spec("spatial", ("rows", *spatial), "context of each frame, by the DQFormer"),
        parts.spec("temporal", ("rows", *temporal), "context of the clip, by the DQFormer"),
    )
    unet = parts.model.unet
    module = _Context(parts.rounded(unet))
    return Source(module, inputs, parts.context_specs(), context_weights(unet), parts.precision)


# -- the condition -------------------------------------------------------------------------------


class _DQFormer(nn.Module):
    def __init__(self, dqformer: nn.Module) -> None:
        super().__init__()
        self.dqformer = dqformer

    def forward(self, text: Tensor, states: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        context = self.dqformer(text, states, image)
        return context.spatial, context.temporal


def _dqformer(parts: _Parts) -> Source:
    model = parts.model
    spatial, temporal = parts.context_shapes()
    inputs = (
        parts.spec("text", ("rows", *parts.text_shape), "tokens of the instruction"),
        parts.spec(
            "states", ("rows", model.config.num_states, *parts.text_shape), "tokens of its states"
        ),
        parts.spec(
            "image", ("rows", *parts.image_shape), "tokens of the first frame; zeros for none"
        ),
    )
    outputs = (
        parts.spec("spatial", ("rows", *spatial), "context of each frame"),
        parts.spec("temporal", ("rows", *temporal), "context of the clip"),
    )
    dqformer = model.condition_encoder.dqformer
    return _source(_DQFormer, dqformer, inputs, outputs, parts)


class _Draft(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, spatial: Tensor, given: Tensor) -> Tensor:
        drawn: Tensor = self.head(spatial, given)
        return drawn


def _draft(parts: _Parts) -> Source:
    model = parts.model
    head = model.condition_encoder.draft
    if head is None:
        raise ConfigError(
            "graph 'draft' is of models with conditioning_fill='draft', and this one has "
            f"'{model.config.conditioning_fill}': leave it out"
        )
    frames, channels, *size = model.latent_shape
    frames -= model.config.num_conditioning_frames
    spatial, _ = parts.context_shapes()
    inputs = (
        parts.spec("spatial", ("rows", frames, *spatial[1:]), "context of each frame to predict"),
        parts.spec("given", ("rows", channels, *size), "last given frame's latents, scaled"),
    )
    drawn = parts.spec(
        "draft",
        ("rows", frames, channels, *size),
        "in the space that is denoised; a given frame is its own",
    )
    return _source(_Draft, head, inputs, (drawn,), parts)


class _ImageEncoder(nn.Module):
    def __init__(self, tower: Any, pooled: bool) -> None:
        super().__init__()
        self.tower, self.pooled = tower, pooled

    def forward(self, pixels: Tensor) -> Tensor:
        if self.pooled:
            embeddings: Tensor = self.tower(pixels).image_embeds[:, None]
            return embeddings
        vision = self.tower.vision_model
        hidden = vision.post_layernorm(vision(pixels).last_hidden_state)
        tokens: Tensor = self.tower.visual_projection(hidden)
        return tokens


def _image_encoder(parts: _Parts) -> Source:
    model = parts.model
    side = model.image_encoder.config.image_size
    inputs = (
        parts.spec(
            "pixels",
            ("rows", 3, side, side),
            "first frame, resized to CLIP's square and normalised by its mean and deviation",
            "(RGB in [0, 1] - mean) / deviation",
        ),
    )
    outputs = (parts.spec("tokens", ("rows", *parts.image_shape), "image tokens"),)
    pooled = model.config.image_tokens == "pooled"
    return _source(lambda m: _ImageEncoder(m, pooled), model.image_encoder, inputs, outputs, parts)


class _TextEncoder(nn.Module):
    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, ids: Tensor) -> Tensor:
        tokens: Tensor = self.tower(ids).last_hidden_state
        return tokens


def _text_encoder(parts: _Parts) -> Source:
    length, width = parts.text_shape
    ids = parts.spec("ids", ("rows", length), "token ids, padded to the length", dtype="int64")
    tokens = parts.spec("tokens", ("rows", length, width), "text tokens after the last norm")
    return _source(_TextEncoder, parts.model.text_encoder, (ids,), (tokens,), parts)


# -- the VAE -------------------------------------------------------------------------------------


class _VaeEncoder(nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pixels: Tensor) -> Tensor:
        latents: Tensor = self.vae.encode(pixels).latent_dist.mode()
        return latents


class _VaeDecoder(nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> Tensor:
        frames = latents.shape[1]
        pixels = self.vae.decode(latents.flatten(0, 1), num_frames=frames).sample
        clips: Tensor = pixels.unflatten(0, (-1, frames))
        return clips


def _vae_encoder(parts: _Parts) -> Source:
    config = parts.model.config
    _, channels, *size = parts.model.latent_shape
    pixels = parts.spec("pixels", ("rows", 3, config.height, config.width), "frames", "[-1, 1] RGB")
    latents = parts.spec("latents", ("rows", channels, *size), "mode of the posterior, unscaled")
    return _source(_VaeEncoder, parts.model.vae, (pixels,), (latents,), parts, "decoder.")


def _vae_decoder(parts: _Parts) -> Source:
    config = parts.model.config
    latents = parts.spec("latents", ("rows", *parts.model.latent_shape), "clips, unscaled")
    pixels = parts.spec(
        "pixels",
        ("rows", config.num_frames, 3, config.height, config.width),
        "clips",
        "about [-1, 1] RGB",
    )
    return _source(_VaeDecoder, parts.model.vae, (latents,), (pixels,), parts, "encoder.")


def _source(
    wrap: Callable[[Any], nn.Module],
    module: nn.Module,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    parts: _Parts,
    unused: str | None = None,
) -> Source:
    weights = {
        name: parameter.detach()
        for name, parameter in module.named_parameters()
        if unused is None or not name.startswith(unused)
    }
    return Source(wrap(parts.rounded(module)), inputs, outputs, weights, parts.precision)


_MAKERS: Mapping[str, Callable[[_Parts], Source]] = {
    "denoiser": _denoiser,
    "context": _context,
    "dqformer": _dqformer,
    "draft": _draft,
    "image_encoder": _image_encoder,
    "text_encoder": _text_encoder,
    "vae_encoder": _vae_encoder,
    "vae_decoder": _vae_decoder,
}
ROLES = tuple(_MAKERS)


def roles_of(model: AIDModel) -> tuple[str, ...]:
    """Name the parts that a model has."""
    drafts = model.condition_encoder.draft is not None
    return tuple(role for role in ROLES if role != "draft" or drafts)
