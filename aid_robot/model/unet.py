"""AID's UNet: Stable Video Diffusion's, with per-frame context, adapters and cached keys.

`AIDUNet.adapt(unet)` swaps the class of diffusers' UNet and of its 16 spatio-temporal transformers
and leaves every parameter and its name alone. SVD weights load unmapped, and an untrained AID is
SVD. What is ours:

1. the context of the spatial cross-attention differs from frame to frame;
2. the transformers host the adapters (`adapters.py`);
3. the temporal cross-attention projects its keys and values once a clip, where diffusers projects
   the same ones again for every pixel;
4. convolutions over frames alone run in 2-D;
5. all keys and values of the context can be computed once a request and reused in every denoising
   step, since the context does not change (`project_context`).

Shapes: B clips, F frames, H x W latent pixels, L = H*W, T context tokens, D context width,
C channels of the layer at hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import Tensor, nn

from aid_robot.errors import CheckpointError
from aid_robot.model.adapters import attend, build_adapters
from aid_robot.model.config import AdapterConfig


class LayerContext(NamedTuple):
    """Keys and values of one transformer's two cross-attentions."""

    spatial_key: Tensor  # (B, F, T, C)
    spatial_value: Tensor  # (B, F, T, C)
    temporal_key: Tensor  # (B, T', C)
    temporal_value: Tensor  # (B, T', C)

    def rows(self, selection: slice | list[int]) -> LayerContext:
        """Select clips of the batch; a slice makes no copy."""
        return LayerContext(*(tensor[selection] for tensor in self))


class AIDTransformer(TransformerSpatioTemporalModel):
    """SVD's spatio-temporal transformer with AID's context and adapters.

    Never built directly: `AIDUNet.adapt` gives an existing transformer this class.
    """

    adapters: nn.ModuleList

    def project_context(self, spatial: Tensor, temporal: Tensor) -> list[LayerContext]:
        """Project the context to keys and values, one entry a layer."""
        return [
            LayerContext(
                block.attn2.to_k(spatial),
                block.attn2.to_v(spatial),
                temporal_block.attn2.to_k(temporal),
                temporal_block.attn2.to_v(temporal),
            )
            for block, temporal_block in zip(
                self.transformer_blocks, self.temporal_transformer_blocks, strict=True
            )
        ]

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: dict[AIDTransformer, list[LayerContext]],
        image_only_indicator: Tensor,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """Transform (B*F, C, H, W); diffusers' blocks hand the context through unopened."""
        context = encoder_hidden_states[self]
        num_frames = image_only_indicator.shape[-1]
        batch_frames, _, height, width = hidden_states.shape

        residual = hidden_states
        hidden = self.norm(hidden_states).flatten(2).transpose(1, 2)  # (B*F, L, C)
        hidden = self.proj_in(hidden)

        frame_index = torch.arange(num_frames, device=hidden.device)
        position = self.time_pos_embed(self.time_proj(frame_index).to(hidden.dtype))  # (F, C)
        position = position.repeat(batch_frames // num_frames, 1)[:, None]  # (B*F, 1, C)

        layers = zip(
            self.transformer_blocks,
            self.temporal_transformer_blocks,
            self.adapters,
            context,
            strict=True,
        )
        for block, temporal_block, adapters, layer in layers:
            shape = (num_frames, height, width)
            hidden = self._run(_spatial_block, block, adapters, hidden, layer)
            mixed = self._run(
                _temporal_block, temporal_block, adapters, hidden + position, layer, shape
            )
            # AlphaBlender of "learned_with_images" for video frames
            alpha = torch.sigmoid(self.time_mixer.mix_factor).to(hidden.dtype)
            hidden = alpha * hidden + (1.0 - alpha) * mixed

        hidden = self.proj_out(hidden).transpose(1, 2).unflatten(2, (height, width))
        return (hidden + residual,)

    def _run(self, function: Any, *args: Any) -> Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            result: Tensor = self._gradient_checkpointing_func(function, *args)
        else:
            result = function(*args)
        return result


def _cross_attention(attention: Any, hidden: Tensor, key: Tensor, value: Tensor) -> Tensor:
    attended = attend(attention.to_q(hidden), key, value, attention.heads)
    result: Tensor = attention.to_out[0](attended)
    return result


def _spatial_block(
    block: Any, adapters: nn.ModuleDict, hidden: Tensor, context: LayerContext
) -> Tensor:
    normed = block.norm1(hidden)  # (B*F, L, C)
    change = block.attn1(normed)
    if "spatial" in adapters:
        change = change + adapters["spatial"](normed)
    hidden = hidden + change
    hidden = hidden + _cross_attention(
        block.attn2,
        block.norm2(hidden),
        context.spatial_key.flatten(0, 1),
        context.spatial_value.flatten(0, 1),
    )
    result: Tensor = hidden + block.ff(block.norm3(hidden))
    return result


def _temporal_block(
    block: Any,
    adapters: nn.ModuleDict,
    hidden: Tensor,
    context: LayerContext,
    shape: tuple[int, int, int],
) -> Tensor:
    num_frames, height, width = shape
    batch_frames, places, channels = hidden.shape

    normed = block.norm_in(hidden)  # (B*F, L, C)
    change = block.ff_in(normed)
    if "short_term" in adapters:
        change = change + adapters["short_term"](normed, num_frames, height, width)
    hidden = hidden + change if block.is_res else change

    # Only the attention over frames needs them together: (B*F, L, C) -> (B*L, F, C) -> back
    normed = block.norm1(hidden).unflatten(0, (-1, num_frames)).transpose(1, 2).flatten(0, 1)
    change = block.attn1(normed)
    if "long_term" in adapters:
        change = change + adapters["long_term"](normed)
    hidden = hidden + change.unflatten(0, (-1, places)).transpose(1, 2).flatten(0, 1)

    # Every pixel of every frame asks the same keys: (B*F, L, C) -> (B, F*L, C)
    query = block.norm2(hidden).reshape(-1, num_frames * places, channels)
    change = _cross_attention(block.attn2, query, context.temporal_key, context.temporal_value)
    hidden = hidden + change.reshape(batch_frames, places, channels)

    change = block.ff(block.norm3(hidden))
    result: Tensor = hidden + change if block.is_res else change
    return result


class FrameConv(nn.Conv3d):
    """SVD's convolution over frames, as one in 2-D over frames x pixels, which runs faster."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Convolve (B, C, F, H, W)."""
        mixed = F.conv2d(hidden.flatten(3), self.weight[..., 0], self.bias, padding=(1, 0))
        result: Tensor = mixed.unflatten(3, hidden.shape[3:])
        return result


class AIDUNet(UNetSpatioTemporalConditionModel):
    """SVD's UNet that takes a context for each frame, hosts adapters and caches keys."""

    adapter_config: AdapterConfig
    patch_size: int
    _transformer_names: tuple[str, ...]

    @classmethod
    def adapt(
        cls,
        unet: UNetSpatioTemporalConditionModel,
        adapters: AdapterConfig | None = None,
        patch_size: int = 1,
    ) -> AIDUNet:
        """Turn diffusers' UNet into AID's, in place; parameters keep their names and values.

        Args:
            unet: The UNet of an SVD, loaded or freshly built.
            adapters: Which adapters to add; None adds all at the paper's ratio.
            patch_size: Side of the squares of latent pixels that it takes as one pixel.
        """
        if isinstance(unet, cls):
            raise CheckpointError("this UNet is adapted already; adapt a UNet only once")
        adapters = adapters or AdapterConfig()
        unet.__class__ = cls
        for module in list(unet.modules()):
            if type(module) is TransformerSpatioTemporalModel:
                module.__class__ = AIDTransformer
                parameter = module.proj_in.weight
                with torch.device(parameter.device):
                    module.adapters = nn.ModuleList(
                        build_adapters(module.inner_dim, adapters)
                        for _ in module.transformer_blocks
                    ).to(parameter.dtype)
            elif type(module) is nn.Conv3d and module.kernel_size == (3, 1, 1):
                module.__class__ = FrameConv
        adapted: AIDUNet = unet
        adapted.adapter_config, adapted.patch_size = adapters, patch_size
        adapted._transformer_names = tuple(
            name for name, module in unet.named_modules() if isinstance(module, AIDTransformer)
        )
        return adapted

    def transformers(self) -> Iterator[tuple[str, AIDTransformer]]:
        """Yield the spatio-temporal transformers with their names, in a fixed order."""
        for name in self._transformer_names:
            yield name, cast(AIDTransformer, self.get_submodule(name))

    def aid_parameter_names(self) -> list[str]:
        """Name the parameters that AID trains: adapters and the whole cross-attention.

        SVD's cross-attention saw a single token in its training, where softmax is constant, so its
        queries and keys never received a gradient: all four projections must be trained, and with
        them the norm before them [our reading].
        """
        return [
            name
            for name, _ in self.named_parameters()
            if ".adapters." in name or ".attn2." in name or ".norm2." in name
            if ".attentions." in name
        ]

    def project_context(self, spatial: Tensor, temporal: Tensor) -> list[LayerContext]:
        """Compute the keys and values of all cross-attentions.

        Args:
            spatial: Context of the spatial cross-attention, (B, F, T, D).
            temporal: Context of the temporal cross-attention, (B, T', D).

        Returns:
            One entry a transformer layer, in the order of `transformers`.
        """
        return [
            layer
            for _, transformer in self.transformers()
            for layer in transformer.project_context(spatial, temporal)
        ]

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        context: Sequence[LayerContext],
        added_time_ids: Tensor,
    ) -> Tensor:
        """Predict v, or x0, from noisy latents.

        Args:
            sample: Noisy latents and conditioning latents on channels, (B, F, C_in, H, W).
            timestep: c_noise = ln(sigma) / 4, a number or (B,).
            context: Keys and values by `project_context`.
            added_time_ids: SVD's micro-conditioning [fps - 1, motion bucket, noise aug], (B, 3).

        Returns:
            The network's output, (B, F, C_out, H, W).
        """
        batch_size, num_frames = sample.shape[:2]
        of_transformer: dict[AIDTransformer, list[LayerContext]] = {}
        remaining = iter(context)
        for _, transformer in self.transformers():
            of_transformer[transformer] = [
                next(remaining) for _ in range(len(transformer.transformer_blocks))
            ]

        # 1. time
        timesteps = torch.as_tensor(timestep, dtype=torch.float32, device=sample.device)
        t_emb = self.time_proj(timesteps.expand(batch_size)).to(sample.dtype)
        emb = self.time_embedding(t_emb)  # (B, E)
        time_embeds = self.add_time_proj(added_time_ids.flatten())
        emb = emb + self.add_embedding(time_embeds.reshape(batch_size, -1).to(emb.dtype))
        emb = emb.repeat_interleave(num_frames, dim=0, output_size=batch_size * num_frames)

        # 2. down, mid, up
        sample = sample.flatten(0, 1)
        if self.patch_size > 1:
            sample = F.pixel_unshuffle(sample, self.patch_size)
        sample = self.conv_in(sample)  # (B*F, C, H, W)
        indicator = torch.zeros(batch_size, num_frames, dtype=sample.dtype, device=sample.device)
        shared = {"temb": emb, "image_only_indicator": indicator}
        skips: tuple[Tensor, ...] = (sample,)
        for block in self.down_blocks:
            extra = {"encoder_hidden_states": of_transformer} if _attends(block) else {}
            sample, block_skips = block(hidden_states=sample, **shared, **extra)
            skips += block_skips
        sample = self.mid_block(
            hidden_states=sample, encoder_hidden_states=of_transformer, **shared
        )
        for block in self.up_blocks:
            count = len(block.resnets)
            skips, block_skips = skips[:-count], skips[-count:]
            extra = {"encoder_hidden_states": of_transformer} if _attends(block) else {}
            # The size that the next block's skip connection has, where halving was not exact.
            size = skips[-1].shape[2:] if skips else None
            sample = block(
                hidden_states=sample,
                res_hidden_states_tuple=block_skips,
                upsample_size=size,
                **shared,
                **extra,
            )

        # 3. out
        sample = self.conv_out(self.conv_act(self.conv_norm_out(sample)))
        if self.patch_size > 1:
            sample = F.pixel_shuffle(sample, self.patch_size)
        output: Tensor = sample.unflatten(0, (batch_size, num_frames))
        return output


def _attends(block: nn.Module) -> bool:
    return bool(getattr(block, "has_cross_attention", False))
