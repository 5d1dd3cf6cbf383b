"""A small classifier: is this true at the end, as the first and the last frame show it?

Shapes: B pairs of pictures, Q questions of each, L words, T places of the feature map, D width.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aid_robot.errors import CheckpointError, ConfigError, InstructionError, WeightsNotFoundError
from aid_robot.hub import bundled_model
from aid_robot.model.latents import to_pixels
from aid_robot.observation import resize_frames
from aid_robot.planning.success.words import PAD, Words, split_words
from aid_robot.runtime.denoiser import choose_device

# Beside the model that it was trained for.
FOLDER = "success"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
_BATCH = 64


@dataclass(frozen=True)
class SuccessConfig:
    """The classifier's shape, and what it knows."""

    # Pictures are seen at size x size.
    size: int = 64
    # Channels at a half and at a quarter of that size.
    channels: tuple[int, int] = (32, 64)
    # Residual blocks at a quarter of the size.
    blocks: int = 3
    width: int = 96
    layers: int = 2
    heads: int = 4
    max_words: int = 20
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.size % 8 or not 16 <= self.size <= 512:
            raise ConfigError(f"size={self.size} must be a multiple of 8 from 16 to 512")
        if self.width % self.heads or min(self.width, self.layers, self.blocks, self.heads) < 1:
            raise ConfigError(
                f"width={self.width}, heads={self.heads}, layers={self.layers}, "
                f"blocks={self.blocks}; expected positive ones, the width a multiple of the heads"
            )


class SuccessNet(nn.Module):
    """From two pictures and words to a logit, or from two pictures and the goal's."""

    def __init__(self, config: SuccessConfig) -> None:
        super().__init__()
        low, high = config.channels
        self.config = config
        # Both pictures see each other from the first layer on, so that a change is local.
        self.stem = nn.Conv2d(6, low, 4, 2, 1)
        self.down = nn.Sequential(_Block(low), nn.Conv2d(low, high, 4, 2, 1))
        self.trunk = nn.Sequential(*(_Block(high) for _ in range(config.blocks)))
        self.to_tokens = nn.Conv2d(high, config.width, 1)
        self.positions = nn.Parameter(_waves(config.size // 4, config.width))
        self.words = nn.Embedding(len(config.words) + 2, config.width, padding_idx=PAD)
        self.order = nn.Parameter(0.02 * torch.randn(config.max_words, config.width))
        self.pointer = _Pointer(config.width, config.size // 4)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.answer = nn.Linear(config.width, 1)
        self.compare = nn.Sequential(
            nn.Conv2d(3 * high, high, 1), nn.SiLU(), _Block(high), nn.Conv2d(high, high, 4, 2, 1),
            nn.SiLU(), _Block(high), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(high, 1),
        )  # fmt: skip

    def look(self, before: Tensor, after: Tensor) -> Tensor:
        """Return features (B, C, size / 4, size / 4) of pictures (B, 3, size, size) in [-1, 1]."""
        features: Tensor = self.trunk(self.down(self.stem(torch.cat([before, after], dim=1))))
        return features

    def ask(self, features: Tensor, words: Tensor) -> Tensor:
        """Return logits (B, Q) of questions, word numbers (B, Q, L)."""
        rows, questions, length = words.shape
        seen = self.to_tokens(features).flatten(2).transpose(1, 2) + self.positions  # (B, T, D)
        asked = self.words(words) + self.order[:length]  # (B, Q, L, D)
        empty = words == PAD
        asked = asked + self.pointer(asked, seen)[0]
        # A text without words has one to attend to.
        mask = ~(empty & ~empty.all(-1, keepdim=True))
        for layer in self.layers:
            asked = layer(asked, seen, mask)
        weight = mask[..., None].to(asked)
        pooled = (self.norm(asked) * weight).sum(2) / weight.sum(2)
        logits: Tensor = self.answer(pooled).squeeze(-1)
        assert logits.shape == (rows, questions)
        return logits

    def point(self, features: Tensor, words: Tensor) -> Tensor:
        """Return logits (B, Q, 2, T) of where the last word's thing is, before and after."""
        seen = self.to_tokens(features).flatten(2).transpose(1, 2) + self.positions
        asked = self.words(words) + self.order[: words.shape[-1]]
        maps: Tensor = self.pointer(asked, seen)[1]  # (B, Q, L, 2, T)
        last = (words != PAD).sum(-1).clamp(min=1) - 1
        index = last[..., None, None, None].expand(-1, -1, 1, 2, maps.shape[-1])
        return maps.gather(2, index).squeeze(2)

    def match(self, features: Tensor, goal: Tensor) -> Tensor:
        """Return logits (B,) that a future has come about as the goal's features show."""
        both = torch.cat([features, goal, (features - goal).abs()], dim=1)
        logits: Tensor = self.compare(both).squeeze(-1)
        return logits


def _plain(value: Any) -> Any:
    """Write null for what could not be measured: JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _waves(side: int, width: int) -> Tensor:
    """Return positions (side x side, width) as sines and cosines of rows and of columns.

    The slowest is monotone over the picture, so that "left of" need not be learned place by place.
    """
    at = (torch.arange(side) + 0.5) / side - 0.5
    count = -(-width // 4)
    phases = at[:, None] * torch.pi * 2 ** torch.linspace(0, math.log2(side / 2), count)
    one = torch.cat([phases.sin(), phases.cos()], dim=1)  # (side, 2 count)
    rows, columns = one[:, None].expand(-1, side, -1), one[None].expand(side, -1, -1)
    both = torch.stack([rows, columns], dim=-1).flatten(2)
    return both.reshape(side * side, -1)[:, :width].contiguous()


class _Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, 1, 1)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1)
        self.norms = nn.ModuleList(nn.GroupNorm(8, channels) for _ in range(2))
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(F.silu(self.norms[0](x)))
        result: Tensor = x + self.second(F.silu(self.norms[1](hidden)))
        return result


class _Pointer(nn.Module):
    """Each word, with the two before it, points at places of both pictures.

    What it finds is told to the word: where, and how sure. Taught by names of things where places
    are known, it says what words look like; the layers behind it compare.
    """

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.context = nn.Conv1d(width, width, 3)
        self.query = nn.Linear(width, 2 * width)
        self.key = nn.Linear(width, 2 * width)
        self.told = nn.Linear(6, width)
        at = (torch.arange(side) + 0.5) / side * 2 - 1
        grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1).flatten(0, 1)  # (T, 2)
        self.register_buffer("grid", grid, persistent=False)

    def forward(self, asked: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return what words (B, Q, L, D) are told of places (B, T, D); logits (B, Q, L, 2, T)."""
        rows, questions, length, width = asked.shape
        past = F.pad(asked.flatten(0, 1).transpose(1, 2), (2, 0))
        named = F.silu(self.context(past)).transpose(1, 2)
        query = self.query(named).reshape(rows, questions * length, 2, width)
        key = self.key(seen).unflatten(-1, (2, width))
        maps = torch.einsum("bnwd,btwd->bnwt", query, key) / width**0.5
        found = maps.softmax(-1)
        places = torch.cat([found @ self.grid, found.amax(-1, keepdim=True)], -1).flatten(2)
        told: Tensor = self.told(places)
        return told.reshape(asked.shape), maps.reshape(rows, questions, length, 2, -1)


class _Layer(nn.Module):
    """Words look at their text, then at the pictures."""

    def __init__(self, config: SuccessConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.seen_norm = nn.LayerNorm(width)
        self.of_text = nn.Linear(width, 3 * width)
        self.text_out = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.of_seen = nn.Linear(width, 2 * width)
        self.seen_out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width)
        )

    def forward(self, asked: Tensor, seen: Tensor, mask: Tensor) -> Tensor:
        rows, questions, length, width = asked.shape
        flat = asked.flatten(0, 1)  # (B x Q, L, D)
        q, k, v = (self._split(part) for part in self.of_text(self.norms[0](flat)).chunk(3, -1))
        told = F.scaled_dot_product_attention(q, k, v, mask.flatten(0, 1)[:, None, None])
        flat = flat + self.text_out(self._join(told))
        # All questions about a pair share its keys and values.
        q = self._split(self.query(self.norms[1](flat)).reshape(rows, questions * length, width))
        k, v = (self._split(part) for part in self.of_seen(self.seen_norm(seen)).chunk(2, -1))
        looked = self._join(F.scaled_dot_product_attention(q, k, v)).reshape(flat.shape)
        flat = flat + self.seen_out(looked)
        flat = flat + self.mlp(self.norms[2](flat))
        result: Tensor = flat.unflatten(0, (rows, questions))
        return result

    def _split(self, x: Tensor) -> Tensor:
        parts: Tensor = x.unflatten(-1, (self.heads, -1))
        return parts.transpose(1, 2)

    def _join(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)


class SuccessModel:
    """A trained classifier, on frames and texts as users have them."""

    def __init__(self, net: SuccessNet, folder: Path = Path()) -> None:
        self.net, self.folder = net.eval(), folder
        self.words = Words(net.config.words, net.config.max_words)

    @classmethod
    def load(cls, folder: str | os.PathLike[str] | None = None, device: str = "auto") -> Self:
        """Load a classifier: its folder, or that of a model which has one; None: the bundled one.

        Raises WeightsNotFoundError where there is none, CheckpointError where it is damaged.
        """
        given = bundled_model() if folder is None else Path(folder)
        place = given / FOLDER if (given / FOLDER / CONFIG).exists() else given
        path = place / CONFIG
        if not path.exists() or not (place / WEIGHTS).exists():
            raise WeightsNotFoundError(
                f"there is no success classifier at {place}: expected {CONFIG} and {WEIGHTS} there "
                f"or in its folder {FOLDER}/; train one by 'aid-robot train-success', or score by "
                "a goal image"
            )
        try:
            values: dict[str, Any] = json.loads(path.read_text())["model"]
            for name in ("channels", "words"):
                values[name] = tuple(values[name])
            config = SuccessConfig(**values)
            net = SuccessNet(config)
            net.load_state_dict(
                {k: v.to(torch.float32) for k, v in load_file(place / WEIGHTS).items()}
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"the success classifier at {place} is damaged ({error}): restore it"
            ) from error
        return cls(net.to(choose_device(device)), place)

    def save(self, folder: Path, facts: dict[str, Any] | None = None) -> None:
        """Write config, facts and weights, these in float16."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            name: tensor.to(torch.float16).contiguous()
            for name, tensor in self.net.state_dict().items()
        }
        save_file(tensors, folder / WEIGHTS)
        record = {"model": asdict(self.net.config), **(facts or {})}
        (folder / CONFIG).write_text(json.dumps(_plain(record), indent=1, allow_nan=False) + "\n")

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.net.positions.device

    @torch.inference_mode()
    def judge_texts(
        self, before: NDArray[np.uint8], after: NDArray[np.uint8], texts: Sequence[str]
    ) -> NDArray[np.float64]:
        """Return the probability (n, texts) that each text is true of each pair of pictures.

        Args:
            before: (n, H, W, 3), of any size.
            after: The same of later.
            texts: Statements about the scene, or instructions, which are true once done.
        """
        for text in texts:
            unknown = self.words.unknown(text)
            if len(unknown) == len(split_words(text)):
                raise InstructionError(
                    f"the success classifier knows no word of '{text}'; it knows such as "
                    f"{', '.join(self.words.words[:12])}"
                )
            if unknown:
                warnings.warn(
                    f"the success classifier doesn't know {', '.join(unknown)} of '{text}' and "
                    "leaves it out",
                    stacklevel=3,
                )
            if len(split_words(text)) > self.words.max_words:
                warnings.warn(
                    f"'{text}' has more than {self.words.max_words} words: the success classifier "
                    "does not read its end; shorten it",
                    stacklevel=3,
                )
        numbers = self.words.encode(texts).to(self.device)
        found = []
        for start in range(0, len(after), _BATCH):
            features = self._look(before[start : start + _BATCH], after[start : start + _BATCH])
            asked = numbers.expand(len(features), -1, -1)
            found.append(self.net.ask(features, asked).double().sigmoid().cpu())
        return np.asarray(torch.cat(found).numpy())

    @torch.inference_mode()
    def judge_picture(
        self, before: NDArray[np.uint8], after: NDArray[np.uint8], goal: NDArray[np.uint8]
    ) -> NDArray[np.float64]:
        """Return the probability (n,) that what a picture (H, W, 3) shows has come about."""
        found = []
        for start in range(0, len(after), _BATCH):
            first, last = before[start : start + _BATCH], after[start : start + _BATCH]
            features = self._look(first, last)
            wanted = self._look(first, np.broadcast_to(goal, (len(first), *goal.shape)))
            found.append(self.net.match(features, wanted).double().sigmoid().cpu())
        return np.asarray(torch.cat(found).numpy())

    def _look(self, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> Tensor:
        size = self.net.config.size
        first, last = (
            to_pixels(torch.from_numpy(resize_frames(np.ascontiguousarray(x), (size, size))))
            for x in (before, after)
        )
        return self.net.look(first.to(self.device), last.to(self.device))
