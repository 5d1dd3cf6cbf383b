"""What a graph is made from: a module of plain tensors, and a description of its interface.

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

from aid_robot.model.aid import AIDModel
from aid_robot.runtime.manifest import PRECISIONS, TensorSpec, dtype_name

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
    # From this input on they are the module's *arguments.
    varargs_from: int | None = None

    def example(self, seed: int = 0) -> tuple[Tensor, ...]:
        """Return inputs of the right shapes, normally distributed; token ids are small."""
        generator = torch.Generator().manual_seed(seed)
        return tuple(_example(spec, generator) for spec in self.inputs)


def _example(spec: TensorSpec, generator: torch.Generator) -> Tensor:
    shape = [_EXAMPLE_SIZE if isinstance(size, str) else size for size in spec.shape]
    if spec.torch_dtype == torch.int64:
        return torch.randint(0, 100, shape, generator=generator)
    return torch.randn(shape, generator=generator).to(spec.torch_dtype)


@dataclass(frozen=True)
class Parts:
    """A model, and what its graphs are asked to be."""

    model: AIDModel
    precision: str
    adapters: str
    rows: int | None

    @property
    def dtype(self) -> torch.dtype:
        """What the graphs compute in."""
        return PRECISIONS[self.precision]

    def rounded(self, module: Any) -> Any:
        """Return a module in the precision, for inference; the model's own stays as it is."""
        trains = module.training or any(p.requires_grad for p in module.parameters())
        if trains or next(module.parameters()).dtype != self.dtype:
            module = nn.Module.to(copy.deepcopy(module), self.dtype)
        return module.eval().requires_grad_(False)

    def spec(
        self, name: str, shape: tuple[int | str, ...], meaning: str, units: str = "", **kwargs: Any
    ) -> TensorSpec:
        """Describe an input or output; a size that is a name is fixed where `rows` is."""
        dtype = kwargs.get("dtype", dtype_name(self.dtype))
        if self.rows is not None:
            shape = tuple(self.rows if isinstance(size, str) else size for size in shape)
        return TensorSpec(name, dtype, shape, meaning, units)

    @property
    def text_shape(self) -> tuple[int, int]:
        """(T, width) of a text's tokens."""
        config = self.model.text_encoder.config
        return config.max_position_embeddings, config.hidden_size

    @property
    def image_shape(self) -> tuple[int, int]:
        """(P, width) of a picture's tokens."""
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


def plain_source(
    wrap: Callable[[Any], nn.Module],
    module: nn.Module,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    parts: Parts,
    unused: str | None = None,
) -> Source:
    """Make the source of a module that holds all of its weights, but for an `unused` prefix."""
    weights = {
        name: parameter.detach()
        for name, parameter in module.named_parameters()
        if unused is None or not name.startswith(unused)
    }
    return Source(wrap(parts.rounded(module)), inputs, outputs, weights, parts.precision)
