"""Predictors by name, so that commands can compare any with any."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from weakref import WeakValueDictionary

import torch

from aid_robot import VideoForesight
from aid_robot.baselines.copy_last_frame import CopyLastFrame
from aid_robot.baselines.flow import FlowExtrapolation
from aid_robot.baselines.image_prior import ImagePrior
from aid_robot.baselines.variants import switched_off
from aid_robot.errors import ConfigError
from aid_robot.hub import BUNDLED, resolve
from aid_robot.model.checkpoint import load_config
from aid_robot.model.config import AIDConfig
from aid_robot.predictor import Predictor

# What a user may write, and what it stands for.
FORMS = {
    "copy-last-frame": "the last given frame again and again",
    "flow": "the optical flow of the last two frames goes on",
    "prior:<model>": "the frozen base of a model, without text",
    "aid:<model>": "a model: 'bundled', a folder or a hub id; 'aid:' may be left out",
    "aid:<model>?off=<part>,...": "a model with parts off, see baselines.variants.PARTS",
}
_KINDS = ("copy-last-frame", "flow", "prior", "aid")
# Weights of one model are held once, however many of its variants are asked for.
_LOADED: WeakValueDictionary[tuple[str, str, str], VideoForesight] = WeakValueDictionary()


def make_predictor(
    name_or_path: str | os.PathLike[str],
    *,
    like: AIDConfig | None = None,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
) -> Predictor:
    """Build a predictor from its name, see `FORMS`.

    Args:
        name_or_path: "copy-last-frame", "flow", "prior:<model>", "aid:<model>?off=states,text", or
            a model: "bundled", a folder, a hub id.
        like: Frames, rate and size of "copy-last-frame" and "flow", which have none of their own;
            by default those of the bundled model. "flow:<model>" takes them from a model.
        device: For models, as of `VideoForesight.from_pretrained`.
        dtype: For models.

    Raises:
        ConfigError: For a name or part that doesn't exist.
        WeightsNotFoundError: For a model that is nowhere to be found.
    """
    kind, name, off = _parse(os.fspath(name_or_path))
    if kind == "aid":
        loaded = _load(name or BUNDLED, device, dtype)
        return switched_off(loaded, off) if off else loaded
    if kind == "prior":
        return ImagePrior.from_pretrained(name or BUNDLED, device=device, dtype=dtype)
    shape = like if like and not name else load_config(resolve(name or BUNDLED))
    return CopyLastFrame(shape) if kind == "copy-last-frame" else FlowExtrapolation(shape)


def _parse(text: str) -> tuple[str, str, tuple[str, ...]]:
    """Take a name apart: its kind, its model ("" where none is named), the parts that are off."""
    if text not in _KINDS and Path(text).is_dir():  # whatever its name
        return "aid", text, ()
    kind, colon, rest = text.partition(":")
    if not colon and kind not in _KINDS:
        kind, rest = "aid", text
    if kind not in _KINDS:
        close = difflib.get_close_matches(kind, _KINDS, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise ConfigError(f"no predictor '{text}'{hint}; expected {', '.join(FORMS)}")
    name, question, setting = rest.partition("?")
    switch, _, parts = setting.partition("=")
    if question and (switch != "off" or not parts):
        raise ConfigError(
            f"'?{setting}' of '{text}' says nothing; expected '?off=<part>,...', as in "
            "'aid:bundled?off=states'"
        )
    if question and kind != "aid":
        raise ConfigError(f"'?{setting}' of '{text}': only an AID has parts that can be off")
    return kind, name, tuple(parts.split(",")) if question else ()


def _load(name: str, device: str, dtype: str | torch.dtype) -> VideoForesight:
    key = (name, device, str(dtype))
    loaded = _LOADED.get(key)
    if loaded is None:
        loaded = VideoForesight.from_pretrained(name, device=device, dtype=dtype)
        _LOADED[key] = loaded
    return loaded
