"""Predictors as an evaluation takes them: made of a name, checked, and hashed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from aid_robot.errors import FrameCountError, FrameRateError
from aid_robot.evaluation.protocols import EvaluationProtocol
from aid_robot.observation import resize_frames
from aid_robot.predictor import Predictor

UInt8Array: TypeAlias = npt.NDArray[np.uint8]


def load_predictor(spec: str | Predictor, protocol: EvaluationProtocol, device: str) -> Predictor:
    """Make a predictor of its name; one that has no frames of its own takes the protocol's."""
    if not isinstance(spec, str):
        return spec
    from aid_robot.baselines import make_predictor
    from aid_robot.model.config import AIDConfig

    height, width = protocol.size
    like = AIDConfig(
        num_conditioning_frames=protocol.num_given,
        num_frames=protocol.num_frames,
        fps=protocol.fps,
        height=height,
        width=width,
    )
    return make_predictor(spec, like=like, device=device)


def check_fit(name: str, predictor: Predictor, protocol: EvaluationProtocol) -> None:
    """Refuse a predictor of other frames than the protocol's."""
    found = (predictor.num_conditioning_frames, predictor.num_frames)
    wanted = (protocol.num_given, protocol.num_frames)
    if found != wanted:
        raise FrameCountError(
            f"predictor '{name}' takes K={found[0]} and predicts up to N={found[1]} frames, "
            f"protocol '{protocol.name}' has K={wanted[0]}, N={wanted[1]}: choose another "
            f"protocol, or set num_given={found[0]} and num_frames={found[1]}"
        )
    if abs(predictor.fps - protocol.fps) > 1e-3:
        raise FrameRateError(
            f"predictor '{name}' is of {predictor.fps:g} frames a second, protocol "
            f"'{protocol.name}' of {protocol.fps:g}: choose another protocol, or set "
            f"fps={predictor.fps:g}"
        )


def reconstruct(
    predictor: Predictor, frames: UInt8Array, protocol: EvaluationProtocol
) -> UInt8Array | None:
    """Send a true clip through a model's autoencoder; None for a predictor without one.

    Returns:
        The frames after the given ones, (F, H, W, 3) at the protocol's size.
    """
    import torch

    from aid_robot.model.aid import AIDModel
    from aid_robot.model.latents import decode, encode, to_frames, to_pixels

    model = getattr(predictor, "model", None)
    if not isinstance(model, AIDModel):
        return None
    own = resize_frames(frames, (model.config.height, model.config.width))
    with torch.inference_mode():
        pixels = to_pixels(torch.from_numpy(own[None]).to(model.device))
        sent: UInt8Array = to_frames(decode(model.vae, encode(model.vae, pixels)))[0].cpu().numpy()
    return resize_frames(sent[protocol.num_given :], protocol.size)


def model_hash(spec: str | Predictor) -> str:
    """Hash the weights and the config of a predictor; its name where it has none."""
    from aid_robot.hub import resolve

    if not isinstance(spec, str):
        return getattr(spec, "model_id", "") or type(spec).__name__
    name = model_name(spec)
    return hash_folder(resolve(name)) if name else spec


def model_name(spec: str) -> str:
    """Find the model in what `make_predictor` is asked for; "" where there is none."""
    from aid_robot.hub import BUNDLED

    kind, colon, rest = spec.partition(":")
    if Path(spec).is_dir():
        return spec
    if kind in ("copy-last-frame", "flow"):
        return ""
    if not colon and kind != "prior":
        rest = spec
    return rest if Path(rest).is_dir() else rest.partition("?")[0] or BUNDLED


def hash_folder(folder: Path) -> str:
    """Hash the weights and configs in a model's folder."""
    total = hashlib.blake2b(digest_size=6)
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".safetensors", ".json") and path.is_file():
            total.update(path.relative_to(folder).as_posix().encode())
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "blake2b").digest())
    return total.hexdigest()
