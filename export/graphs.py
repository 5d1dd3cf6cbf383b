"""The parts of a model that become graphs, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from aid_robot.errors import ConfigError
from aid_robot.export import graphs_condition, graphs_unet, graphs_vae
from aid_robot.export.source import Parts, Source
from aid_robot.model.aid import AIDModel
from aid_robot.runtime.unet_graph import context_weights, split_weights

_MAKERS: Mapping[str, Callable[[Parts], Source]] = {
    "denoiser": graphs_unet.make_denoiser,
    "context": graphs_unet.make_context,
    "dqformer": graphs_condition.make_dqformer,
    "draft": graphs_condition.make_draft,
    "image_encoder": graphs_condition.make_image_encoder,
    "text_encoder": graphs_condition.make_text_encoder,
    "vae_encoder": graphs_vae.make_vae_encoder,
    "vae_decoder": graphs_vae.make_vae_decoder,
}
ROLES = tuple(_MAKERS)


def make_source(
    role: str,
    model: AIDModel,
    *,
    precision: str = "fp32",
    adapters: str = "folded",
    rows: int | None = None,
) -> Source:
    """Turn a part of the model into the source of a graph.

    Args:
        role: One of `ROLES`.
        model: The model; a part of another precision is copied first.
        precision: "fp32", "fp16" or "bf16"; a VAE that asks to be upcast stays in fp32 for "fp16".
        adapters: "folded" or "inputs"; it concerns the denoiser alone.
        rows: Fixes the batch; None leaves it dynamic.
    """
    check_roles([role], model)
    if role.startswith("vae") and precision == "fp16" and model.vae.config.force_upcast:
        precision = "fp32"
    return _MAKERS[role](Parts(model, precision, adapters, rows))


def weights_of(role: str, model: AIDModel, adapters: str) -> Mapping[str, Tensor]:
    """Return what `make_source(role, ...).weights` would be; the UNet's are not copied for it."""
    if role == "denoiser":
        return split_weights(model.unet, adapters)[0]
    if role == "context":
        return context_weights(model.unet)
    return make_source(role, model).weights


def roles_of(model: AIDModel) -> tuple[str, ...]:
    """Name the parts that a model has."""
    drafts = model.condition_encoder.draft is not None
    return tuple(role for role in ROLES if role != "draft" or drafts)


def check_roles(roles: Sequence[str], model: AIDModel) -> None:
    """Raise ConfigError for parts that are unknown, or that the model doesn't have."""
    for role in roles:
        if role not in ROLES:
            raise ConfigError(f"graph '{role}' is unknown; it is one of {', '.join(ROLES)}")
        if role not in roles_of(model):
            raise ConfigError(
                "graph 'draft' is of models with conditioning_fill='draft', and this one has "
                f"'{model.config.conditioning_fill}': leave it out"
            )
