"""Positions as features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sine_places(size: tuple[int, int], width: int) -> Tensor:
    """Return sines and cosines of unit scale that name places, (height * width, width).

    The lowest frequency goes half round over the picture, so that no two places are alike.
    """
    quarter = width // 4
    frequencies = torch.pi * 2 ** torch.linspace(-1, 4, quarter)
    rows = (torch.arange(size[0]) + 0.5) / size[0]
    columns = (torch.arange(size[1]) + 0.5) / size[1]
    y = (rows[:, None] * frequencies)[:, None].expand(-1, size[1], -1)
    x = (columns[:, None] * frequencies)[None].expand(size[0], -1, -1)
    places = torch.cat([y.sin(), y.cos(), x.sin(), x.cos()], dim=-1).flatten(0, 1)
    return F.pad(places, (0, width - places.shape[1])) * 2**0.5
