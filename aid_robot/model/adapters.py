"""AID's three adapters: small residual branches beside frozen layers.

Each returns only its *change*, which its host adds to the stream; `up` starts at zero, so that an
untrained adapter changes nothing. Shapes: B clips, F frames, L = H*W places, C channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from aid_robot.model.config import AdapterConfig


def _zeroed(linear: nn.Linear) -> nn.Linear:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class SpatialAdapter(nn.Module):
    """`W_up(GELU(W_down X))`, parallel to the spatial self-attention."""

    def __init__(self, channels: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Linear(channels, bottleneck)
        self.up = _zeroed(nn.Linear(bottleneck, channels))

    def forward(self, hidden: Tensor) -> Tensor:  # (B*F, L, C)
        change: Tensor = self.up(F.gelu(self.down(hidden)))
        return change


class ShortTermTemporalAdapter(nn.Module):
    """`W_up(DWConv3D(W_down X))`, a depth-wise 3-D convolution over neighbouring frames."""

    def __init__(self, channels: int, bottleneck: int, kernel_size: tuple[int, int, int]) -> None:
        super().__init__()
        self.down = nn.Linear(channels, bottleneck)
        self.conv = nn.Conv3d(
            bottleneck,
            bottleneck,
            kernel_size,
            padding=(kernel_size[0] // 2, kernel_size[1] // 2, kernel_size[2] // 2),
            groups=bottleneck,
        )
        self.up = _zeroed(nn.Linear(bottleneck, channels))

    def forward(self, hidden: Tensor, num_frames: int, height: int, width: int) -> Tensor:
        # (B*F, H*W, C) -> (B, F, H, W, c) -> (B, c, F, H, W) -> back
        x = self.down(hidden).reshape(-1, num_frames, height, width, self.down.out_features)
        x = self.conv(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
        change: Tensor = self.up(x.reshape(*hidden.shape[:2], -1))
        return change


class LongTermTemporalAdapter(nn.Module):
    """`W_up(SelfAttn_t(W_down X))`, attention over all frames at each place."""

    def __init__(self, channels: int, bottleneck: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.down = nn.Linear(channels, bottleneck)
        self.to_q = nn.Linear(bottleneck, bottleneck, bias=False)
        self.to_k = nn.Linear(bottleneck, bottleneck, bias=False)
        self.to_v = nn.Linear(bottleneck, bottleneck, bias=False)
        self.to_out = nn.Linear(bottleneck, bottleneck)
        self.up = _zeroed(nn.Linear(bottleneck, channels))

    def forward(self, hidden: Tensor) -> Tensor:  # (B*L, F, C)
        x = self.down(hidden)
        x = self.to_out(attend(self.to_q(x), self.to_k(x), self.to_v(x), self.num_heads))
        change: Tensor = self.up(x)
        return change


def attend(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    """Multi-head scaled dot-product attention on (B, tokens, C) tensors."""
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    attended = F.scaled_dot_product_attention(q, k, v)  # (B, heads, tokens, C / heads)
    return attended.transpose(1, 2).flatten(-2)


def build_adapters(channels: int, config: AdapterConfig) -> nn.ModuleDict:
    """Build the adapters that are switched on, for a transformer of `channels` width."""
    heads = config.num_attention_heads
    # The bottleneck is a multiple of the heads, so that attention divides it.
    bottleneck = max(heads, round(channels * config.ratio / heads) * heads)
    adapters = nn.ModuleDict()
    if config.spatial:
        adapters["spatial"] = SpatialAdapter(channels, bottleneck)
    if config.short_term:
        adapters["short_term"] = ShortTermTemporalAdapter(channels, bottleneck, config.kernel_size)
    if config.long_term:
        adapters["long_term"] = LongTermTemporalAdapter(channels, bottleneck, heads)
    return adapters


def count_parameters(module: nn.Module) -> int:
    """Count the parameters of a module, on any device (the meta device too)."""
    return sum(parameter.numel() for parameter in module.parameters())


__all__ = [
    "LongTermTemporalAdapter",
    "ShortTermTemporalAdapter",
    "SpatialAdapter",
    "attend",
    "build_adapters",
    "count_parameters",
]
