"""What every stage of training has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from aid_robot.data.episode import FloatArray, UInt8Array
from aid_robot.errors import ConfigError
from aid_robot.model.aid import AIDModel
from aid_robot.model.latents import encode, to_pixels
from aid_robot.model.states import StatePredictor
from aid_robot.training.config import StageConfig, StageName
from aid_robot.training.noise import Noise
from aid_robot.training.samples import Batch, distinct

# What a validation measured, by clip: name -> (B,).
Figures: TypeAlias = dict[str, FloatArray]
# Which frames of clips.
Frames: TypeAlias = slice | list[int]
Task: TypeAlias = Literal["loss", "measure", "draw"]


class Stage(nn.Module, ABC):
    """One stage of training a model: as a module, `stage(batch, noise)` is its loss.

    Its submodules are those parts of the model that training computes with; the others stay
    wherever the model is. All that computes goes through `forward`, so that a stage whose weights
    lie shared out over devices can be wrapped whole.

    Args:
        model: Whose parts it trains.
        config: How.
        states: Who splits instructions.
        cached: Whether batches bring latents, so that the VAE isn't needed.
        embedded: Whether they bring the tokens of the towers, too.
    """

    name: ClassVar[StageName]
    # Whether it looks at clips of the model's N frames, or at single frames.
    whole_clips: ClassVar[bool] = True
    # Whether it believes instructions, and so leaves out episodes that failed or have none.
    texts: ClassVar[bool] = False
    # Whether it learns pictures with captions.
    captions: ClassVar[bool] = False
    # Whether it learns where things are that instructions name, and whether from such alone.
    points: ClassVar[bool] = False
    places: ClassVar[bool] = False
    # Whether it can take the outputs of frozen towers from a cache.
    embeddings: ClassVar[bool] = False
    # The parts of the model that the loss is computed with.
    used: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        model: AIDModel,
        config: StageConfig,
        states: StatePredictor,
        *,
        cached: bool = False,
        embedded: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.config, self.states = model, config, states
        names = self.trained_names()
        for module_name, module in model.modules.items():
            module.requires_grad_(False)
            for name, parameter in module.named_parameters():
                parameter.requires_grad_(f"{module_name}.{name}" in names)
        towers = ("image_encoder", "text_encoder")
        for name, module in model.modules.items():
            idle = (cached and name == "vae") or (embedded and name in towers)
            if name in self.used and not idle:
                self.add_module(name, module)
        if not self.trained:
            raise ConfigError(f"the stage '{self.name}' has nothing to train: it is all frozen")

    @abstractmethod
    def trained_names(self) -> set[str]:
        """Name the model's parameters that this stage trains, `<part>.<parameter>`."""

    def forward(
        self, batch: Batch, noise: Noise | None = None, task: Task = "loss", count: int = 0
    ) -> Any:
        """Return the loss of a batch, or what `measure` or `draw` give."""
        if task == "loss":
            assert noise is not None
            return self.loss(batch, noise)
        with torch.no_grad():
            return self.measure(batch, count) if task == "measure" else self.draw(batch, count)

    @abstractmethod
    def loss(self, batch: Batch, noise: Noise) -> Tensor:
        """Return the loss of a batch."""

    @abstractmethod
    def measure(self, batch: Batch, predictions: int) -> Figures:
        """Judge held-out clips, of which the first few are predicted."""

    def draw(self, batch: Batch, count: int) -> UInt8Array | None:
        """Draw a few held-out clips, the truth above what the model makes of it, (H, W, 3)."""
        return None

    def finish(self, batch: Batch) -> None:
        """Set what follows from the trained weights, seeing some training clips."""

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that train, those of the stage's own parts included."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def table(self) -> str:
        """List the parts, how many parameters each has, and how many of them train."""
        total: Counter[str] = Counter()
        trains: Counter[str] = Counter()
        modules = {**self.model.modules, **dict(self.named_children())}
        for part, module in modules.items():
            for name, parameter in module.named_parameters():
                row = f"{part}: {_group(name)}" if part == "unet" else part
                total[row] += parameter.numel()
                trains[row] += parameter.numel() * parameter.requires_grad
        width = max(map(len, total))
        lines = [f"{'part':{width}s}  {'parameters':>13s}  {'trained':>13s}"]
        lines += [f"{row:{width}s}  {total[row]:13,d}  {trains[row]:13,d}" for row in total]
        share = trains.total() / total.total()
        lines.append(f"{'all':{width}s}  {total.total():13,d}  {trains.total():13,d}  {share:.1%}")
        return "\n".join(lines)

    def names_of(self, *parts: str) -> set[str]:
        """Name all parameters of some parts."""
        return {
            f"{part}.{name}"
            for part in parts
            for name, _ in self.model.modules[part].named_parameters()
        }

    def pixels(self, batch: Batch) -> Tensor:
        """Return a batch's frames, (B, N, 3, H, W) in [-1, 1]."""
        return to_pixels(batch.clips.frames)

    def latents_of(self, batch: Batch, frames: Frames = slice(None)) -> Tensor:
        """Return unscaled latents of the clips' frames (B, N, C, h, w), cached or computed."""
        if batch.clips.latents is not None:
            return batch.clips.latents[:, frames]
        # Clips that begin alike share frames, and short ones repeat their last.
        chosen = batch.clips.frames[:, frames]
        different, places = distinct(chosen.flatten(0, 1))
        with torch.no_grad():
            latents = encode(self.model.vae, to_pixels(different)[None], chunk_size=64)[0].float()
        of_all: Tensor = latents[places].unflatten(0, chosen.shape[:2])
        return of_all

    def weight_of(self, batch: Batch) -> Tensor:
        """Return which frames count, (B, N): real ones that are to be predicted."""
        config = self.model.config
        first = config.num_conditioning_frames if config.given_frames == "pinned" else 0
        mask = batch.clips.mask.float()
        mask[:, :first] = 0
        return mask


def _group(name: str) -> str:
    groups: Mapping[str, str] = {
        ".adapters.": "adapters",
        ".attn2.": "cross-attention",
        ".norm2.": "cross-attention",
    }
    if ".attentions." in name:
        for mark, group in groups.items():
            if mark in name:
                return group
    return "base"


@contextmanager
def all_parts_on(model: AIDModel, device: torch.device) -> Iterator[None]:
    """Bring parts of a model that training doesn't need to the device for a while."""
    moved = {}
    for name, module in model.modules.items():
        place = next(module.parameters()).device
        if place != device:
            moved[name] = place
            nn.Module.to(module, device=device)
    try:
        yield
    finally:
        for name, place in moved.items():
            nn.Module.to(model.modules[name], device=place)


def psnr_by_clip(prediction: Tensor, truth: Tensor, weight: Tensor) -> FloatArray:
    """Return the PSNR of the frames that count, (B,), of uint8 frames (B, N, H, W, 3)."""
    error = (prediction.float() - truth.float()).square().mean(dim=(2, 3, 4))
    mean = (error * weight).sum(1) / weight.sum(1).clamp(min=1)
    result: FloatArray = (20 * np.log10(255) - 10 * mean.clamp(min=1e-4).log10()).cpu().numpy()
    return result


def tiled(rows: Sequence[Tensor]) -> UInt8Array:
    """Lay clips out, one above the other, frames side by side: (N, H, W, 3) each."""
    picture: UInt8Array = torch.cat([torch.cat(list(clip), dim=1) for clip in rows]).cpu().numpy()
    return picture
