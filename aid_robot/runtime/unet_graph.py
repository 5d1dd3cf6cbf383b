"""How the UNet's inputs and weights are called in its exported graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from aid_robot.errors import EngineError
from aid_robot.model.aid import AIDModel
from aid_robot.model.unet import AIDUNet, LayerContext
from aid_robot.runtime.manifest import Graph, Manifest

SAMPLE, TIMESTEP, TIME_IDS, OUTPUT = "sample", "timestep", "added_time_ids", "output"
CONTEXT_PREFIX = "context."
_STEP_INPUTS = (SAMPLE, TIMESTEP, TIME_IDS)


def context_names(layers: int) -> list[str]:
    """Name the keys and values of all cross-attentions, in the order of `project_context`."""
    parts = LayerContext._fields
    return [f"{CONTEXT_PREFIX}{layer}.{part}" for layer in range(layers) for part in parts]


def flatten_context(context: Sequence[LayerContext]) -> dict[str, Tensor]:
    """Return keys and values by their names in the graph."""
    tensors = [tensor for layer in context for tensor in layer]
    return dict(zip(context_names(len(context)), tensors, strict=True))


def unflatten_context(tensors: Sequence[Tensor]) -> list[LayerContext]:
    """Undo `flatten_context`."""
    count = len(LayerContext._fields)
    return [LayerContext(*tensors[i : i + count]) for i in range(0, len(tensors), count)]


def split_weights(unet: AIDUNet, adapters: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split the weights of a denoising step into those inside its graph and those it is handed.

    With adapters="inputs" all that AID trained is handed in: the adapters, and of the
    cross-attention the norm, queries and output. Its keys and values are computed before the graph
    either way, from the model's own weights. One graph so serves every domain of the same base.
    """
    parameters: Mapping[str, Tensor] = dict(unet.named_parameters())
    projections = {name for name in parameters if _projects_context(name)}
    trained = set(unet.aid_parameter_names()) if adapters == "inputs" else set()
    inside = {n: p.detach() for n, p in parameters.items() if n not in trained | projections}
    handed = {n: p.detach() for n, p in parameters.items() if n in trained - projections}
    return inside, handed


def check_size(graph: Graph, model: AIDModel) -> None:
    """Refuse a graph of clips of another length or size than the model's."""
    frames, channels, *size = model.latent_shape
    own = (frames, 2 * channels, *size)
    known = next(spec.shape[1:] for spec in graph.inputs if spec.name == SAMPLE)
    if known != own:
        raise EngineError(
            f"{graph.file} takes clips of {known} (frames, 2 x latent channels, latent size), the "
            f"model's are {own}: export this model"
        )


def check_handed(graph: Graph, manifest: Manifest, handed: Mapping[str, Tensor]) -> None:
    """See that the weights which a graph is handed are those that the model has."""
    expected = {spec.name: spec.shape for spec in graph.inputs if spec.name not in _STEP_INPUTS}
    expected = {n: s for n, s in expected.items() if not n.startswith(CONTEXT_PREFIX)}
    found = {name: tuple(tensor.shape) for name, tensor in handed.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise EngineError(
                f"the graph of '{manifest.model}' takes {name} as {expected.get(name)}, the model "
                f"has it as {found.get(name)}: its adapters are of another kind; export this model"
            )


def context_weights(unet: AIDUNet) -> dict[str, Tensor]:
    """Return the weights that project the context to keys and values."""
    return {n: p.detach() for n, p in unet.named_parameters() if _projects_context(n)}


def _projects_context(name: str) -> bool:
    return ".attentions." in name and (".attn2.to_k." in name or ".attn2.to_v." in name)
