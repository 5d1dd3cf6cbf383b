"""Load and save AID models in diffusers' folder layout, by safetensors only.

    model_index.json  unet/  vae/  image_encoder/  text_encoder/  tokenizer/  scheduler/
    aid/config.json   aid/model.safetensors

`unet/` is the frozen base exactly as diffusers writes it: its own `StableVideoDiffusionPipeline`
loads the folder and runs the prior (with SVD's own factor of 8, patches of 1, `latent_reference`
"none" and v-prediction, since it knows nothing of others). `aid/` holds what AID trains (adapters,
cross-attention, DQFormer, mask token or draft). A full-size model saves `aid/` alone and
names its base.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    UNetSpatioTemporalConditionModel,
)
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from aid_robot import __version__
from aid_robot.errors import CheckpointError, WeightsNotFoundError
from aid_robot.hub import CHECKSUMS, resolve, verify_checksums
from aid_robot.model.aid import AIDModel
from aid_robot.model.build import build_condition_encoder
from aid_robot.model.config import AIDConfig
from aid_robot.model.unet import AIDUNet

AID_FOLDER = "aid"
AID_CONFIG = "config.json"
AID_WEIGHTS = "model.safetensors"
UNET_WEIGHTS = "diffusion_pytorch_model.safetensors"
_UNET, _CONDITION = "unet.", "condition_encoder."
Shape = tuple[int, ...]


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: torch.dtype = torch.float32,
    base_model: str | os.PathLike[str] | None = None,
) -> AIDModel:
    """Load a trained AID: a folder or hub id that has an `aid/` folder, on the CPU.

    Args:
        name_or_path: "bundled", a folder, or a hub id.
        dtype: Of all weights; a VAE that asks to be upcast is float32 where the rest is float16.
        base_model: Where the base is, if no longer where the config says.

    Raises:
        WeightsNotFoundError: The model, or the base it names, is nowhere to be found.
        CheckpointError: The folder is damaged or not an AID.
    """
    folder = resolve(name_or_path)
    config = load_config(folder)
    if base_model is not None:
        config = config.replace(base_model=_portable(base_model))
    verify_checksums(folder)
    whole = (folder / "unet").is_dir()
    if not whole and config.base_model is None:
        raise CheckpointError(
            f"{folder} has no unet/ and its {AID_FOLDER}/{AID_CONFIG} names no base_model: save "
            "the model whole, or write the base's hub id or folder there"
        )
    base = folder if whole else resolve(str(config.base_model))
    model = _assemble(base, config, dtype, _aid_weights(folder))
    load_aid_part(model, folder)
    return model


def from_svd(
    base: str | os.PathLike[str],
    config: AIDConfig,
    *,
    text_model: str | os.PathLike[str] | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> AIDModel:
    """Start an untrained AID on a Stable Video Diffusion.

    Args:
        base: SVD's folder or hub id.
        config: Of the AID to be.
        text_model: Folder or hub id of the text tower where it isn't in the base; None takes
            `config.text_model`.
        dtype: Of all weights.
        seed: Of AID's random weights.
    """
    config = config.replace(
        base_model=_portable(base), text_model=_portable(text_model or config.text_model or base)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _assemble(resolve(base), config, dtype)


def _portable(name_or_path: str | os.PathLike[str]) -> str:
    """Make a folder absolute, so that the config that names it can be read from anywhere."""
    folder = Path(name_or_path).expanduser()
    return str(folder.resolve()) if folder.is_dir() else os.fspath(name_or_path)


def load_config(folder: Path) -> AIDConfig:
    """Read the config of an AID folder."""
    path = folder / AID_FOLDER / AID_CONFIG
    if not path.exists():
        raise WeightsNotFoundError(
            f"{folder} is not an AID model: it has no {AID_FOLDER}/{AID_CONFIG}. A plain Stable "
            "Video Diffusion becomes one by training: start it with model.checkpoint.from_svd"
        )
    try:
        values = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}): restore it") from error
    if isinstance(values, dict):
        values.pop("aid_robot_version", None)
    return AIDConfig.from_dict(values)


def _assemble(
    base: Path, config: AIDConfig, dtype: torch.dtype, weights: Path | None = None
) -> AIDModel:
    unet = _part(UNetSpatioTemporalConditionModel, base, "unet", torch_dtype=dtype)
    vae = _part(AutoencoderKLTemporalDecoder, base, "vae", torch_dtype=dtype)
    if dtype == torch.float16 and vae.config.force_upcast:
        vae = _part(AutoencoderKLTemporalDecoder, base, "vae", torch_dtype=torch.float32)
    image_encoder = _part(CLIPVisionModelWithProjection, base, "image_encoder", dtype=dtype)
    if (base / "text_encoder").is_dir():
        text_encoder = _part(CLIPTextModel, base, "text_encoder", dtype=dtype)
        tokenizer = _tokenizer(base / "tokenizer")
    elif config.text_model is not None:
        text_folder = resolve(config.text_model)
        text_encoder = _part(CLIPTextModel, text_folder, None, dtype=dtype)
        tokenizer = _tokenizer(text_folder)
    else:
        raise CheckpointError(
            f"{base} has no text_encoder/ and the config names no text_model: give the folder or "
            "hub id of a CLIP text tower"
        )
    parts = {
        "unet": unet,
        "vae": vae,
        "image_encoder": image_encoder,
        "text_encoder": text_encoder,
    }
    if weights is not None:
        # A config from outside may ask for any size: compare with the file before allocating.
        with torch.device("meta"):
            expected = build_condition_encoder(config, **parts).state_dict()
        _check_fit(
            weights,
            {_CONDITION + name: tuple(tensor.shape) for name, tensor in expected.items()},
            {name: shape for name, shape in _shapes(weights).items() if _CONDITION in name},
        )
    condition_encoder = build_condition_encoder(config, **parts).to(dtype)
    return AIDModel(
        config=config,
        unet=AIDUNet.adapt(unet, config.adapters, config.latent_patch_size),
        vae=vae,
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        condition_encoder=condition_encoder,
    )


def _part(cls: Any, folder: Path, subfolder: str | None, **kwargs: Any) -> Any:
    where = folder / subfolder if subfolder else folder
    if not (where / "config.json").exists():
        raise WeightsNotFoundError(f"{where}/config.json is missing: the model is incomplete")
    if not list(where.glob("*.safetensors")):
        raise WeightsNotFoundError(
            f"{where} holds no .safetensors file: the weights are missing, or saved by pickle, "
            "which this package never opens"
        )
    try:
        return cls.from_pretrained(where, use_safetensors=True, **kwargs)
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{where} can't be loaded as {cls.__name__}: {error}") from error


def _tokenizer(folder: Path) -> Any:
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} can't be loaded as a tokenizer: {error}") from error


def aid_state_dict(model: AIDModel) -> dict[str, Tensor]:
    """Collect what AID trains: adapters, cross-attention, DQFormer, mask token or draft."""
    trained = set(model.unet.aid_parameter_names())
    state = {
        _UNET + name: parameter.detach()
        for name, parameter in model.unet.named_parameters()
        if name in trained
    }
    for name, tensor in model.condition_encoder.state_dict().items():
        state[_CONDITION + name] = tensor
    return state


def load_aid_part(model: AIDModel, folder: Path) -> None:
    """Load `aid/model.safetensors` into a model; every weight must be there and fit."""
    path = _aid_weights(folder)
    own = aid_state_dict(model)
    _check_fit(path, {name: tuple(tensor.shape) for name, tensor in own.items()}, _shapes(path))
    loaded = load_file(path)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(loaded[name])


def load_base_unet(folder: Path) -> dict[str, Tensor]:
    """Read the frozen UNet's weights of a model that was saved whole, the prior's."""
    weights: dict[str, Tensor] = load_file(folder / "unet" / UNET_WEIGHTS)
    return weights


def _aid_weights(folder: Path) -> Path:
    path = folder / AID_FOLDER / AID_WEIGHTS
    if not path.exists():
        raise WeightsNotFoundError(f"{path} is missing: the model is incomplete")
    return path


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of a weight file from its header, which is checked against its size."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}): restore it") from error


def _check_fit(path: Path, own: Mapping[str, Shape], loaded: Mapping[str, Shape]) -> None:
    problems = [f"lacks {name}" for name in own if name not in loaded]
    problems += [f"has {name}, which the config doesn't" for name in loaded if name not in own]
    problems += [
        f"{name} is {loaded[name]}, expected {own[name]}"
        for name in own
        if name in loaded and loaded[name] != own[name]
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{path} does not fit its config: {'; '.join(problems[:3])}{more}. Was it trained on "
            "another base or with other adapters?"
        )


def save_aid(model: AIDModel, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Save the AID part alone; its config names the base it belongs to."""
    target = folder / AID_FOLDER
    target.mkdir(parents=True, exist_ok=True)
    state = {
        name: tensor.to(dtype or tensor.dtype).contiguous()
        for name, tensor in aid_state_dict(model).items()
    }
    save_file(state, target / AID_WEIGHTS, metadata={"format": "pt"})
    values = {"aid_robot_version": __version__, **model.config.to_dict()}
    (target / AID_CONFIG).write_text(json.dumps(values, indent=2) + "\n")


def save_model(
    model: AIDModel,
    folder: Path,
    *,
    base_unet: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Save a model whole: every part, and the AID part in `aid/`.

    Args:
        model: The model; its weights are not changed.
        folder: Where to; made if missing.
        base_unet: Weights of the frozen UNet before AID changed its cross-attention; None takes
            the cross-attention of the model itself.
        dtype: Of the files, such as torch.float16 to halve them; None keeps the model's.
    """
    base = {
        name: tensor.detach()
        for name, tensor in model.unet.state_dict().items()
        if ".adapters." not in name
    }
    base.update(base_unet or {})
    _save_part(model.unet, folder / "unet", base, dtype)
    for name in ("vae", "image_encoder", "text_encoder"):
        part = model.modules[name]
        _save_part(part, folder / name, part.state_dict(), dtype)
    model.tokenizer.save_pretrained(folder / "tokenizer")
    EulerDiscreteScheduler(
        prediction_type=model.config.prediction_type,
        use_karras_sigmas=True,
        sigma_min=model.config.sampling.sigma_min,
        sigma_max=model.config.sampling.sigma_max,
        timestep_type="continuous",
        timestep_spacing="leading",
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        interpolation_type="linear",
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")
    # Imported here, since it tells every program that loads it of a missing torchvision.
    from transformers import CLIPImageProcessor

    size = model.image_encoder.config.image_size
    CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    ).save_pretrained(folder / "feature_extractor")
    save_aid(model, folder, dtype=dtype)
    (folder / CHECKSUMS).unlink(missing_ok=True)
    index = {
        "_class_name": "StableVideoDiffusionPipeline",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
        "vae": ["diffusers", "AutoencoderKLTemporalDecoder"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _save_part(
    part: Any, folder: Path, state: Mapping[str, Tensor], dtype: torch.dtype | None
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    is_diffusers = hasattr(part, "save_config")
    stored = {
        name: tensor.to(dtype if dtype and tensor.is_floating_point() else tensor.dtype)
        .clone()
        .contiguous()
        for name, tensor in state.items()
    }
    name = UNET_WEIGHTS if is_diffusers else AID_WEIGHTS
    save_file(stored, folder / name, metadata={"format": "pt"})
    if is_diffusers:
        part.save_config(folder)
        path = folder / "config.json"
        values = json.loads(path.read_text())
        values.pop("_name_or_path", None)  # where it was loaded from is nobody's business
        if isinstance(part, AIDUNet):  # the base is diffusers' own class
            values["_class_name"] = UNetSpatioTemporalConditionModel.__name__
        path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    else:
        part.config.save_pretrained(folder)
