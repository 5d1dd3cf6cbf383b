"""Metrics of predicted video, by their names in the field.

    for metric in make_metrics(["psnr", "ssim", "lpips", "fvd"], size=(64, 64)):
        ...

Frame metrics see the predicted frames alone; the given ones are cut off by the caller.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from aid_robot.errors import ConfigError
from aid_robot.evaluation.metrics.metric import FrameMetric, SetMetric
from aid_robot.hub import BUNDLED

if TYPE_CHECKING:
    from aid_robot.evaluation.metrics.frechet import Network
    from aid_robot.evaluation.metrics.i3d import I3D
    from aid_robot.evaluation.metrics.lpips import LPIPS
    from aid_robot.model.aid import AIDModel

__all__ = ["METRICS", "FrameMetric", "SetMetric", "make_metrics"]

# What `make_metrics` knows, with what each name stands for.
METRICS = {
    "psnr": "peak signal-to-noise ratio",
    "ssim": "structural similarity",
    "lpips": "perceptual distance",
    "motion": "flow_epe and flow_ratio, by optical flow",
    "latent_l2": "distance in the model's VAE",
    "pic": "perceptual input conformity",
    "fvd": "Fréchet video distance",
    "kvd": "kernel video distance",
    "fid": "Fréchet distance of frames, by a network of yours",
    "fvd-<hub id>": "Fréchet video distance by a VideoMAE",
    "fid-<hub id>": "Fréchet distance of frames by an image network",
}


def make_metrics(
    names: Sequence[str] | str,
    *,
    size: tuple[int, int],
    model: AIDModel | str = BUNDLED,
    feature_network: Network | None = None,
    weights: str | os.PathLike[str] | None = None,
    device: str = "auto",
    force: bool = False,
) -> list[FrameMetric | SetMetric]:
    """Build metrics by their names; networks that several of them need are loaded once.

    Args:
        names: Of `METRICS`, as a list or a text with commas; "motion" gives two metrics.
        size: Height and width of the frames to judge.
        model: Whose VAE measures latent_l2: a model, or its name, folder or hub id.
        feature_network: What measures fid: called with a clip (N, H, W, 3) uint8, it returns
            (N, D), and says in `.source` what it is.
        weights: File, folder or hub id of I3D's and LPIPS' weights; None for
            `$AID_ROBOT_WEIGHTS`.
        device: "auto", "cpu", "cuda", ...
        force: Whether sets too small for fvd, kvd and fid are measured all the same.

    Raises:
        ConfigError: For an unknown name, a size too small, or a model or network that is missing.
        WeightsNotFoundError, MissingDependencyError: Each says what to do.
    """
    wanted = names.split(",") if isinstance(names, str) else names
    wanted = list(dict.fromkeys(name.strip() for name in wanted))
    kit = _Kit(size, model, feature_network, weights, device, force)
    return [metric for name in wanted for metric in kit.make(name)]


class _Kit:
    """What metrics are made of; each part is loaded when it is first needed."""

    def __init__(
        self,
        size: tuple[int, int],
        model: AIDModel | str,
        feature_network: Network | None,
        weights: str | os.PathLike[str] | None,
        device: str,
        force: bool,
    ) -> None:
        self._size = size
        self._model = model
        self._feature_network = feature_network
        self._weights = weights
        self._device = device
        self._force = force
        self._loaded: dict[str, object] = {}

    def make(self, name: str) -> list[FrameMetric | SetMetric]:
        """Build what a name stands for."""
        from aid_robot.evaluation.metrics import frechet, latent, motion, pic, pixels

        kind, _, hub_id = name.partition("-")
        match kind, hub_id:
            case "psnr", "":
                return [pixels.PSNR()]
            case "ssim", "":
                return [pixels.SSIM()]
            case "lpips", "":
                return [self._lpips()]
            case "pic", "":
                return [pic.PIC(self._lpips())]
            case "motion", "":
                self._check_size("motion", motion.SMALLEST)
                return [motion.FlowError(), motion.FlowRatio()]
            case "latent_l2", "":
                return [latent.LatentL2(self._vae())]
            case "fvd", "":
                return [frechet.FVD(self._i3d(), force=self._force)]
            case "kvd", "":
                return [frechet.KVD(self._i3d(), force=self._force)]
            case "fvd", _:
                from aid_robot.evaluation.metrics.hub_features import ClipFeatures

                clips = ClipFeatures.load(hub_id, self._device)
                return [frechet.FVD(clips, name, force=self._force)]
            case "fid", "" if self._feature_network is not None:
                return [frechet.FID(self._feature_network, force=self._force)]
            case "fid", _ if hub_id:
                from aid_robot.evaluation.metrics.hub_features import FrameFeatures

                frames = FrameFeatures.load(hub_id, self._device)
                return [frechet.FID(frames, name, force=self._force)]
            case "fid", _:
                raise ConfigError(
                    "fid needs the network to measure by: write 'fid-<hub id or folder>', or hand "
                    "over feature_network="
                )
        close = difflib.get_close_matches(name, METRICS, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise ConfigError(f"no metric '{name}'{hint}; expected some of {', '.join(METRICS)}")

    def _lpips(self) -> LPIPS:
        from aid_robot.evaluation.metrics import lpips

        self._check_size("lpips and pic", lpips.SMALLEST)
        if "lpips" not in self._loaded:
            self._loaded["lpips"] = lpips.LPIPS.load(self._weights, self._device)
        return cast("LPIPS", self._loaded["lpips"])

    def _i3d(self) -> I3D:
        from aid_robot.evaluation.metrics.i3d import I3D

        if "i3d" not in self._loaded:
            self._loaded["i3d"] = I3D.load(self._weights, self._device)
        return cast("I3D", self._loaded["i3d"])

    def _vae(self) -> Any:
        if not isinstance(self._model, str):
            return self._model.vae
        from aid_robot.model.checkpoint import load_model
        from aid_robot.runtime.denoiser import choose_device

        vae = load_model(self._model).vae.to(choose_device(self._device))
        return vae.eval().requires_grad_(False)

    def _check_size(self, name: str, smallest: int) -> None:
        if min(self._size) < smallest:
            raise ConfigError(
                f"{name} can't judge frames of {self._size[0]}x{self._size[1]}, expected at least "
                f"{smallest}x{smallest}: leave it out, or judge larger frames"
            )
