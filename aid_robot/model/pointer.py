"""Where what an instruction names is, as a text sees it in a picture, and as tokens say it.

A small model that only sees tokens of patches has to learn at once which thing a text names, where
that is and what comes of it. Asked for the places alone it learns them at ten times the clips a
second (stage `ground`); and told the places, DQFormer's context says enough to tell futures apart
after minutes. It is not part of the paper.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from aid_robot.model.adapters import attend
from aid_robot.model.positions import sine_places

# What an instruction names, in the order in which it is pointed at: what it moves, and where to.
ROLES = ("object", "target")
_WIDTH = 64


class Pointer(nn.Module):
    """A text asks for what it moves and where to, and each patch of the picture answers."""

    def __init__(self, text_dim: int, image_dim: int) -> None:
        super().__init__()
        self.heads = 4 if text_dim % 4 == 0 else 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.roles = nn.Parameter(torch.randn(len(ROLES), text_dim))
            self.to_k, self.to_v = nn.Linear(text_dim, text_dim), nn.Linear(text_dim, text_dim)
            self.ask = nn.Sequential(
                nn.LayerNorm(text_dim), nn.Linear(text_dim, text_dim), nn.GELU(),
                nn.Linear(text_dim, image_dim),
            )  # fmt: skip
            self.answer = nn.Sequential(nn.LayerNorm(image_dim), nn.Linear(image_dim, image_dim))

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        """Return logits of places.

        Args:
            text: Tokens of instructions, (B, T, text_dim).
            image: Tokens of pictures: the class token, then patches row by row,
                (B, 1 + side*side, image_dim).

        Returns:
            (B, 2, side*side), for each of `ROLES`.
        """
        roles = self.roles.expand(text.shape[0], -1, -1)
        named = attend(roles, self.to_k(text), self.to_v(text), self.heads)
        logits: Tensor = self.ask(named) @ self.answer(image[:, 1:]).transpose(1, 2)
        return 2 * logits / math.sqrt(image.shape[-1])


class PlaceTokens(nn.Module):
    """Say by a token for each of `ROLES` where it is, and what is seen there.

    The mean of sines keeps places apart that a mean of coordinates would mix.
    """

    def __init__(self, image_dim: int, context_dim: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.where = nn.Linear(_WIDTH, context_dim)
            self.what = nn.Sequential(nn.LayerNorm(image_dim), nn.Linear(image_dim, context_dim))
            self.roles = nn.Parameter(torch.randn(len(ROLES), context_dim) * 0.02)

    def forward(self, logits: Tensor, image: Tensor) -> Tensor:
        """Return tokens (B, 2, context_dim) of logits (B, 2, side*side) and a picture's tokens."""
        side = round(logits.shape[-1] ** 0.5)
        share = logits.softmax(-1)
        places = sine_places((side, side), _WIDTH).to(share)
        tokens: Tensor = self.where(share @ places) + self.what(share @ image[:, 1:])
        return tokens + self.roles
