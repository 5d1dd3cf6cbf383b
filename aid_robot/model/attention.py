"""Layers of transformers: pre-norm, with residuals."""

from __future__ import annotations

from torch import Tensor, nn

from aid_robot.model.adapters import attend


class Attention(nn.Module):
    """Pre-norm attention with a residual; self-attention where no source is given."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.Linear(width, width)

    def forward(self, query: Tensor, source: Tensor | None = None) -> Tensor:
        normed = self.norm(query)
        source = normed if source is None else source
        attended = attend(self.to_q(normed), self.to_k(source), self.to_v(source), self.num_heads)
        result: Tensor = query + self.to_out(attended)
        return result


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.net = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        result: Tensor = hidden + self.net(self.norm(hidden))
        return result
