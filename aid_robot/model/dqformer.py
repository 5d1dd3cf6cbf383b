"""DQFormer, AID's Dual Query Transformer: image and text in, the UNet's context out.

Two branches (AID, ICCV 2025, section 3.2):

- multimodal:  FFN(CrossAttn(q = SelfAttn(t1), kv = v)), one group of tokens for the clip;
- decomposed:  Q' = CrossAttn(q = SelfAttn(Q), kv = t1);  FFN(CrossAttn(q = Q', kv = t2)), with Q
  learned, one group of tokens for each frame.

Residuals and layer norms are around every step; the paper's formulas leave them out. With
`pointing`, which is not part of the paper, two tokens of every group say where what the instruction
names is (`aid_robot/model/pointer.py`).
Shapes: B clips, N frames, T text tokens, S states, P image tokens, Nt query tokens a frame,
C context width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from aid_robot.errors import ConfigError
from aid_robot.model.attention import Attention, FeedForward
from aid_robot.model.config import AIDConfig
from aid_robot.model.pointer import PlaceTokens, Pointer


class MCondition(NamedTuple):
    """The context of both cross-attentions of the UNet."""

    spatial: Tensor  # (B, N, tokens, C), differs from frame to frame
    temporal: Tensor  # (B, tokens, C)


class _MultimodalLayer(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.self_attention = Attention(width, num_heads)
        self.image_attention = Attention(width, num_heads)
        self.feed_forward = FeedForward(width)

    def forward(self, hidden: Tensor, image: Tensor) -> Tensor:
        hidden = self.image_attention(self.self_attention(hidden), image)
        result: Tensor = self.feed_forward(hidden)
        return result


class _DecomposedLayer(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.self_attention = Attention(width, num_heads)
        self.text_attention = Attention(width, num_heads)
        self.state_attention = Attention(width, num_heads)
        self.feed_forward = FeedForward(width)

    def forward(self, hidden: Tensor, text: Tensor, states: Tensor) -> Tensor:
        """Read the texts with queries that have seen each other, by `self_attention`."""
        hidden = self.text_attention(hidden, text)
        result: Tensor = self.feed_forward(self.state_attention(hidden, states))
        return result


class DQFormer(nn.Module):
    """Turn image tokens, an instruction and its states into the context of the UNet.

    Args:
        config: The AID config; `config.dqformer`, `num_frames` and `num_states` are used.
        context_dim: Width of the UNet's cross-attention (C).
        text_dim: Width of the text tower's tokens.
        image_dim: Width of the image tokens.
    """

    def __init__(self, config: AIDConfig, context_dim: int, text_dim: int, image_dim: int) -> None:
        super().__init__()
        dq = config.dqformer
        width = dq.hidden_size or text_dim
        if width % dq.num_attention_heads:
            raise ConfigError(
                f"dqformer: width {width} is not a multiple of "
                f"num_attention_heads={dq.num_attention_heads}"
            )
        self.enabled, self.reads_states = dq.enabled, dq.states
        self.num_frames = config.num_frames
        self.tokens_per_frame = dq.tokens_per_frame
        self.temporal_context = config.temporal_context
        heads = dq.num_attention_heads

        # At full size every width is 1024, and none of these projections has parameters.
        self.text_in = _projection(text_dim, width)
        self.image_in = _projection(image_dim, width)
        self.context_out = _projection(width, context_dim)

        if dq.multimodal and dq.enabled:
            self.multimodal = nn.ModuleList(
                _MultimodalLayer(width, heads) for _ in range(dq.num_layers)
            )
            self.multimodal_norm = nn.LayerNorm(width)
        else:
            self.multimodal = nn.ModuleList()
        if dq.decomposed and dq.enabled:
            self.decomposed = nn.ModuleList(
                _DecomposedLayer(width, heads) for _ in range(dq.num_layers)
            )
            self.decomposed_norm = nn.LayerNorm(width)
            queries = torch.randn(config.num_frames * dq.tokens_per_frame, width)
            self.queries = nn.Parameter(queries / width**0.5)
            self.state_index = (
                nn.Parameter(torch.randn(config.num_states, 1, width) * 0.02)
                if dq.state_embedding and dq.states
                else None
            )
        else:
            self.decomposed = nn.ModuleList()
        both = len(self.multimodal) and len(self.decomposed)
        self.join_channels = (
            nn.Linear(2 * context_dim, context_dim) if both and dq.join == "channels" else None
        )
        # Last, so that what is before has the weights of a seed whether it points or not.
        self.pointer = Pointer(text_dim, image_dim) if dq.pointing else None
        self.places = PlaceTokens(image_dim, context_dim) if dq.pointing else None

    def forward(
        self, text: Tensor, states: Tensor, image: Tensor, frames: list[int] | None = None
    ) -> MCondition:
        """Build the context.

        Args:
            text: Tokens of the instruction (t1), (B, T, text_dim).
            states: Tokens of its states (t2), (B, S, T, text_dim).
            image: Tokens of the first frame (v), (B, P, image_dim).
            frames: Those of the N frames whose context is wanted, for a fraction of the work; all
                of them by default, as the temporal context needs.
        """
        count = self.num_frames if frames is None else len(frames)
        places = None
        if self.pointer is not None and self.places is not None:
            places = self.places(self.pointer(text, image), image)  # (B, 2, C)
        text, states, image = self.text_in(text), self.text_in(states), self.image_in(image)
        batch_size = text.shape[0]
        if self.join_channels is not None and text.shape[1] != self.tokens_per_frame:
            raise ConfigError(
                f"dqformer.join='channels' pairs the text's {text.shape[1]} tokens with "
                f"tokens_per_frame={self.tokens_per_frame}: make them equal"
            )
        if not self.enabled:
            plain = self.context_out(torch.cat([text, image], dim=1))
            return _with_places(plain[:, None].expand(-1, count, -1, -1), plain, places)
        groups: list[Tensor] = []
        shared = text
        if len(self.multimodal):
            for layer in self.multimodal:
                shared = layer(shared, image)
            shared = self.context_out(self.multimodal_norm(shared))  # (B, T, C)
            groups.append(shared[:, None].expand(-1, count, -1, -1))
        if len(self.decomposed):
            if not self.reads_states:
                states = text[:, None]
            elif self.state_index is not None:
                states = states + self.state_index
            states = states.flatten(1, 2)  # (B, S*T, width)
            hidden = self.queries[None]  # (1, N*Nt, width): they first see each other alone
            for layer in self.decomposed:
                assert isinstance(layer, _DecomposedLayer)
                hidden = layer.self_attention(hidden).expand(batch_size, -1, -1)
                if frames is not None and layer is self.decomposed[-1]:
                    # Nothing after this goes from one frame to another.
                    by_frame = hidden.unflatten(1, (self.num_frames, self.tokens_per_frame))
                    hidden = by_frame[:, frames].flatten(1, 2)
                hidden = layer(hidden, text, states)
            hidden = self.context_out(self.decomposed_norm(hidden))
            groups.append(hidden.unflatten(1, (count, self.tokens_per_frame)))
        if self.join_channels is not None:
            spatial = self.join_channels(torch.cat(groups, dim=3))  # (B, N, T, C)
        else:
            spatial = torch.cat(groups, dim=2)  # (B, N, T + Nt, C)
        temporal = shared if self.temporal_context == "multimodal" else spatial[:, 0]
        return _with_places(spatial, temporal, places)


def _with_places(spatial: Tensor, temporal: Tensor, places: Tensor | None) -> MCondition:
    if places is None:
        return MCondition(spatial, temporal)
    of_frames = places[:, None].expand(-1, spatial.shape[1], -1, -1)
    return MCondition(torch.cat([spatial, of_frames], dim=2), torch.cat([temporal, places], dim=1))


def _projection(in_features: int, out_features: int) -> nn.Module:
    return nn.Identity() if in_features == out_features else nn.Linear(in_features, out_features)
