"""A draft of the clip, regressed from DQFormer's context and the given frame.

Text grounding, not denoising, is what a small model learns late; a head that must draw all frames
from the context's tokens teaches it the towers and DQFormer at a fraction of the UNet's cost. With
`conditioning_fill="draft"` it stays: the UNet sees the draft in the conditioning latents and adds
what is wrong with it. It is not part of the paper.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aid_robot.model.adapters import attend
from aid_robot.model.attention import Attention, FeedForward
from aid_robot.model.positions import sine_places

# Side, in latent pixels, from which it draws patches.
_LARGE = 16


class _Mixing(nn.Module):
    """The tokens of a frame see each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads if width % heads == 0 else 1)
        self.feed_forward = FeedForward(width)
        last = self.feed_forward.net[-1]
        assert isinstance(last, nn.Linear)
        for linear in (self.attention.to_out, last):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        mixed: Tensor = self.feed_forward(self.attention(tokens))
        return mixed


class DraftHead(nn.Module):
    """Every patch of latent pixels asks a frame's tokens what comes to be at its place.

    It asks with its place, by 2-D sines of unit scale, and with what the given frame shows there.
    """

    def __init__(
        self,
        context_dim: int,
        channels: int,
        patch: int = 1,
        width: int = 128,
        heads: int = 4,
        layers: int = 0,
    ) -> None:
        super().__init__()
        self.heads, self.patch = heads, patch
        channels *= patch**2
        self.given = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        # What a frame shows follows from its time and from places together.
        self.mix = nn.ModuleList(_Mixing(context_dim, heads) for _ in range(layers))
        self.tokens_norm = nn.LayerNorm(context_dim)
        self.to_q, self.to_out = nn.Linear(width, width), nn.Linear(width, width)
        self.to_k, self.to_v = nn.Linear(context_dim, width), nn.Linear(context_dim, width)
        self.norm = nn.LayerNorm(width)
        self.draw = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, channels, 3, padding=1),
        )

    @classmethod
    def sized(
        cls, context_dim: int, channels: int, size: tuple[int, int], layers: int = 0
    ) -> DraftHead:
        """Build the head for latents of a size, from a seed of its own."""
        height, width = size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            # At half the resolution it costs a quarter, and still is fine enough to teach.
            patch = 2 if min(size) >= _LARGE and not (height % 2 or width % 2) else 1
            return cls(context_dim, channels, patch, layers=layers)

    def forward(self, context: Tensor, given: Tensor) -> Tensor:
        """Draw what is denoised.

        Args:
            context: Tokens of each frame, (B, N, T, D).
            given: The last given frame's scaled latents, (B, C, h, w).

        Returns:
            (B, N, C, h, w).
        """
        frames, given = context.shape[1], F.pixel_unshuffle(given, self.patch)
        query = self.given(given).flatten(2).transpose(1, 2)  # (B, h*w, E)
        height, width = given.shape[-2:]
        query = query + sine_places((height, width), query.shape[-1]).to(query)
        query = query.repeat_interleave(frames, dim=0)  # (B*N, h*w, E)
        tokens = context.flatten(0, 1)  # (B*N, T, D)
        for layer in self.mix:
            tokens = layer(tokens)
        tokens = self.tokens_norm(tokens)
        attended = attend(self.to_q(self.norm(query)), self.to_k(tokens), self.to_v(tokens),
                          self.heads)  # fmt: skip
        hidden = query + self.to_out(attended)
        drawn = self.draw(hidden.transpose(1, 2).unflatten(2, given.shape[-2:]))
        clips: Tensor = F.pixel_shuffle(drawn, self.patch).unflatten(0, (-1, frames))
        return clips
