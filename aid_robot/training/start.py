"""What model a stage starts from, and what is left of it when the stage is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from aid_robot.data.store import EpisodeStore
from aid_robot.errors import ConfigError
from aid_robot.hub import resolve
from aid_robot.model.aid import AIDModel
from aid_robot.model.build import (
    SMALL_SIZES,
    ModelSizes,
    build_condition_encoder,
    build_model,
    build_tokenizer,
    zero_residual_branches,
)
from aid_robot.model.checkpoint import (
    AID_CONFIG,
    AID_FOLDER,
    from_svd,
    load_base_unet,
    load_config,
    load_model,
    save_aid,
    save_model,
)
from aid_robot.model.config import AIDConfig, PredictionType, preset
from aid_robot.model.states import StatePredictor
from aid_robot.training.config import ModelConfig, Recipe, StageConfig, StageName
from aid_robot.training.tables import build, merge

# What stages have trained beside the model.
EXTRAS = "extras.safetensors"
# Fields of AIDConfig that don't change what weights an AID part has, or mean; `turn_output` and
# `_refit` see to the last three.
_LOOSE = {"sampling", "fps", "motion_bucket_id", "noise_aug_strength", "given_frames", "tuned_base",
          "prediction_type", "conditioning_fill", "draft_layers"}  # fmt: skip


def first_config(wanted: ModelConfig) -> AIDConfig:
    """Say what config the first stage's model has."""
    if wanted.start:
        folder = resolve(wanted.start)
        if (folder / AID_FOLDER / AID_CONFIG).exists():
            return with_changes(load_config(folder), wanted.config)
    return with_changes(preset(wanted.preset), wanted.config)


def first_model(recipe: Recipe, store: EpisodeStore, states: StatePredictor) -> AIDModel:
    """Build or load the model that the first stage starts from."""
    model = recipe.model
    if not model.start:
        return new_small_model(model, store, states, recipe.seed)
    folder = resolve(model.start)
    if (folder / AID_FOLDER / AID_CONFIG).exists():
        return load_changed(folder, model, recipe.seed)
    small = [name for name in ("ground", "clip") if name in recipe.stages]
    if small:
        raise ConfigError(
            f"stages={list(recipe.stages)} would train the pretrained towers of "
            f"model.start='{model.start}' on few pictures: leave out "
            f"{' and '.join(repr(name) for name in small)}, for small models"
        )
    config = with_changes(preset(model.preset), model.config)
    return turn_output(from_svd(model.start, config, seed=recipe.seed), "v_prediction")


def trains_unet(name: StageName, config: StageConfig) -> bool:
    """Say whether a stage trains the UNet whole."""
    return name == "prior" or (name == "aid" and config.trains == "full")


def check_output(recipe: Recipe) -> None:
    """Refuse to let a UNet that stays frozen put out something else than it was trained for."""
    start, stages = recipe.model.start, recipe.stages
    wanted, known = first_config(recipe.model), AIDConfig()  # SVD's
    if start and (resolve(start) / AID_FOLDER / AID_CONFIG).exists():
        known = load_config(resolve(start))
    anew = any(trains_unet(name, config) for name, config in stages.items())
    # The prior knows no text, and so no draft.
    by_aid = "aid" not in stages or trains_unet("aid", stages["aid"])
    drafts = wanted.conditioning_fill == "draft"
    drafted = known.conditioning_fill == "draft" and known.tuned_base
    for name, wrong in (
        ("prediction_type", start and not anew and wanted.prediction_type != known.prediction_type),
        ("conditioning_fill", not by_aid and drafts != drafted),
    ):
        if wrong:
            raise ConfigError(
                f"{name}='{getattr(wanted, name)}' changes what the UNet puts out, and the one "
                f"that stays frozen was trained with '{getattr(known, name)}': leave it so, or add "
                "the stage 'aid' with aid.trains='full'"
            )


def load_changed(folder: Path, wanted: ModelConfig, seed: int = 0) -> AIDModel:
    """Load a model with another config; a fresh AID part where the saved one doesn't fit it."""
    old = load_config(folder)
    new = with_changes(old, wanted.config)
    before, after = old.to_dict(), new.to_dict()
    for config in (before, after):
        config["dqformer"].pop("pointing")
    fits = all(before[name] == after[name] for name in before if name not in _LOOSE)
    if fits and not wanted.fresh_aid:
        model = load_model(folder)
        if _fitted(old) != _fitted(new):
            _refit(model, new, folder)
        set_config(model, new)
        return turn_output(model, old.prediction_type)
    if not (folder / "unet").is_dir():
        assert new.base_model is not None
        fresh = from_svd(new.base_model, new, text_model=new.text_model, seed=seed)
        return turn_output(fresh, old.prediction_type)
    model = from_svd(folder, new, seed=seed)
    # It is whole in itself, as the one that it comes from.
    set_config(model, model.config.replace(base_model=None, text_model=None))
    return turn_output(model, old.prediction_type)


def turn_output(model: AIDModel, before: PredictionType) -> AIDModel:
    """Let a UNet that was trained for another `prediction_type` begin near what it knows.

    Where noise is all, v is -x0: the UNet's last layer changes its sign. Elsewhere it has to learn.
    """
    if model.config.prediction_type != before:
        with torch.no_grad():
            for parameter in model.unet.conv_out.parameters():
                parameter.neg_()
    return model


def _fitted(config: AIDConfig) -> tuple[object, ...]:
    return config.conditioning_fill, config.draft_layers, config.dqformer.pointing


def _refit(model: AIDModel, config: AIDConfig, folder: Path) -> None:
    """Fill the frames to predict in another way, or point; what the AID part has learned stays.

    Heads that taught the towers become the draft and the pointer, and where a draft is new the UNet
    begins with nothing to add to it.
    """
    parts = {name: part for name, part in model.modules.items() if name != "condition_encoder"}
    old, encoder = model.condition_encoder, build_condition_encoder(config, **parts)
    weights = old.state_dict()
    heads = load_file(folder.parent / EXTRAS) if (folder.parent / EXTRAS).exists() else {}
    becomes = {"pointer.": "dqformer.pointer."} if old.dqformer.pointer is None else {}
    if encoder.draft is not None and old.draft is None:
        becomes["head."] = "draft."
        silence(model)
    for before, after in becomes.items():
        weights |= {
            after + name.removeprefix(before): tensor
            for name, tensor in heads.items()
            if name.startswith(before)
        }
    own = encoder.state_dict()
    fitting = {n: t for n, t in weights.items() if n in own and own[n].shape == t.shape}
    encoder.load_state_dict(fitting, strict=False)
    model.condition_encoder = encoder


def silence(model: AIDModel) -> None:
    """Let a UNet that knows no draft begin with nothing to add to it."""
    with torch.no_grad():
        for parameter in model.unet.conv_out.parameters():
            parameter.zero_()


def new_small_model(
    config: ModelConfig, store: EpisodeStore, states: StatePredictor, seed: int
) -> AIDModel:
    """Build a small model with random weights and a vocabulary of the store's texts."""
    sizes = build(ModelSizes, {**asdict(SMALL_SIZES), **config.sizes}, "model.sizes")
    texts: dict[str, None] = {}
    for record in store.records:
        texts |= dict.fromkeys(record.instructions)
    blank = np.zeros((16, 16, 3), np.uint8)
    # Only the template's answers can be had without pictures.
    if config.states == "template":
        texts |= dict.fromkeys(s for text in list(texts) for s in states(blank, text))
    for record in store.records:
        texts |= dict.fromkeys(_captions(record.info))
    tokenizer = build_tokenizer(list(texts), config.vocabulary, sizes.text_length)
    aid = with_changes(preset(config.preset), config.config)
    model = build_model(aid, sizes, tokenizer, seed)
    zero_residual_branches(model.unet)
    if config.vae:
        _take_vae(model, resolve(config.vae))
    else:
        zero_residual_branches(model.vae)
    return _with_towers(model, resolve(config.towers), seed) if config.towers else model


def _take_vae(model: AIDModel, folder: Path) -> None:
    """Begin with another model's VAE, and with the scales that it gives its latents."""
    other = load_model(folder)
    wanted, found = (
        (list(m.vae.config.block_out_channels), m.vae.config.latent_channels)
        for m in (model, other)
    )
    if wanted != found:
        raise ConfigError(
            f"model.vae='{folder}' has block_out_channels, latent_channels = {found}, but "
            f"model.sizes asks for {wanted}: set vae_channels and latent_channels to the former"
        )
    model.vae.load_state_dict(other.vae.state_dict())
    model.vae.register_to_config(scaling_factor=other.vae.config.scaling_factor)
    set_config(
        model, model.config.replace(latent_reference_scale=other.config.latent_reference_scale)
    )


def _with_towers(model: AIDModel, folder: Path, seed: int) -> AIDModel:
    """Begin with another model's towers, and a fresh AID part that fits them."""
    other = load_model(folder)
    wanted, found = (
        model.unet.config.cross_attention_dim,
        other.image_encoder.config.projection_dim,
    )
    if wanted != found:
        raise ConfigError(
            f"model.towers='{folder}' gives image tokens of width {found}, but model.sizes asks "
            f"for context_dim={wanted}: set that to {found}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = build_condition_encoder(
            model.config,
            unet=model.unet,
            vae=model.vae,
            image_encoder=other.image_encoder,
            text_encoder=other.text_encoder,
        )
    return replace(
        model,
        image_encoder=other.image_encoder,
        text_encoder=other.text_encoder,
        tokenizer=other.tokenizer,
        condition_encoder=encoder,
    )


def with_changes(config: AIDConfig, changes: Mapping[str, Any]) -> AIDConfig:
    """Change some fields of a config, also within its tables."""
    return AIDConfig.from_dict(merge(config.to_dict(), changes))


def set_config(model: AIDModel, config: AIDConfig) -> None:
    """Give a model another config that its weights fit."""
    model.config = config
    model.condition_encoder.config = config


def put_weights(model: AIDModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put trained weights into a model; returns those that it has no place for, a stage's own."""
    rest = dict(weights)
    with torch.no_grad():
        for part, module in model.modules.items():
            for name, parameter in module.named_parameters():
                found = rest.pop(f"{part}.{name}", None)
                if found is not None:
                    parameter.copy_(found)
    return rest


def save_trained(
    model: AIDModel,
    folder: Path,
    start: Path | None,
    *,
    keeps_base: bool,
    keeps_towers: bool = True,
    tuned_base: bool = False,
) -> None:
    """Save a trained model: whole where it was, else the AID part that names its base.

    Args:
        model: With its trained weights.
        folder: Where to.
        start: Folder of the model before the stage.
        keeps_base: Whether the stage left the prior's UNet as it was, but for what AID replaces.
        keeps_towers: Whether it left the towers as they were.
        tuned_base: Whether the prior's UNet was trained along with AID, by it or before it.
    """
    set_config(model, model.config.replace(tuned_base=tuned_base))
    named = model.config.base_model
    if named is not None and keeps_base and keeps_towers:
        save_aid(model, folder)
        return
    set_config(model, model.config.replace(base_model=None, text_model=None))
    base = None
    if keeps_base and start is not None:
        start = start if named is None else resolve(named)
        base = {name: tensor.float() for name, tensor in load_base_unet(start).items()}
    save_model(model, folder, base_unet=base)


def _captions(info: Mapping[str, Any]) -> list[str]:
    captions = info.get("captions")
    if not isinstance(captions, Mapping):
        return []
    return [
        str(caption["text"])
        for moment in captions.values()
        if isinstance(moment, Sequence)
        for caption in moment
        if isinstance(caption, Mapping) and "text" in caption
    ]
