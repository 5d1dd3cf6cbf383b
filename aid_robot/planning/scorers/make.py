"""Scorers by name, for commands: "success", "success+0.3*agreement", "image:lpips"."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING

from aid_robot.errors import ConfigError
from aid_robot.hub import BUNDLED, resolve
from aid_robot.planning.goals import Goal
from aid_robot.planning.scorers.calibrated import Calibrated
from aid_robot.planning.scorers.scorer import Scorer, Weighted

if TYPE_CHECKING:
    from aid_robot.foresight import VideoForesight
    from aid_robot.model.aid import AIDModel

# Each with what it goes by.
SCORERS: Mapping[str, str] = {
    "success": "probability of success by the classifier; a text, a picture, or both",
    "progress": "the same along the clip, later frames weighing more",
    "image:latent": "closeness to the goal's picture in the latents of the model's VAE",
    "image:lpips": "closeness to the goal's picture by LPIPS",
    "image:clip": "closeness to the goal's picture by the model's CLIP image tower",
    "text": "how well the goal's text fits the end by a whole CLIP, named as text:FOLDER-OR-ID",
    "agreement": "whether a plan's samples end alike; 2 samples or more",
    "words": "whether the plan says what the goal says, without a look; a baseline, or a prior",
    "plausibility": "whether coloured things stay in being",
    "pic": "perceptual input conformity: 1 - LPIPS to the observation, over the clip",
    "judge": "votes of a vision-language model, named as judge:URL#MODEL",
}


def default_scorer(goal: Goal) -> str:
    """Name the scorer that needs least: a goal's picture is compared, its text is classified.

    With both, the classifier goes by both.
    """
    return "image:latent" if goal.text is None and goal.image is not None else "success"


def make_scorer(
    names: str,
    *,
    model: str | os.PathLike[str] | VideoForesight = BUNDLED,
    device: str = "auto",
    calibration: str | os.PathLike[str] | None = None,
) -> Scorer:
    """Make a scorer, or a mix of several with weights.

    Args:
        names: Names joined by "+", each with a weight before "*" if it isn't 1.
        model: Who predicts: its VAE, its towers and the success classifier of its folder are used.
            One that is loaded isn't loaded again; of a name, all is loaded here.
        device: Of networks that are loaded here.
        calibration: File of one that was fitted on this scorer's scores; see `Calibrated`.

    Raises:
        ConfigError: A name is not known; WeightsNotFoundError: What it needs isn't there.
    """
    parts: dict[Scorer, float] = {}
    for part in names.split("+"):
        weight, star, name = part.strip().rpartition("*")
        try:
            share = float(weight) if star else 1.0
        except ValueError as error:
            raise ConfigError(
                f"'{part.strip()}' has the weight '{weight}'; expected a number, as '0.3*progress'"
            ) from error
        parts[_make(name.strip(), model, device)] = share
    scorer = next(iter(parts)) if len(parts) == 1 else Weighted(parts)
    return scorer if calibration is None else Calibrated.load(scorer, calibration)


def _make(name: str, model: str | os.PathLike[str] | VideoForesight, device: str) -> Scorer:
    kind, _, detail = name.partition(":")
    if name in ("success", "progress"):
        from aid_robot.planning.scorers.learned import Progress, SuccessScorer

        named = model if isinstance(model, str | os.PathLike) else model.model_id
        success = SuccessScorer.load(resolve(named) if named else None, device)
        return success if name == "success" else Progress(success)
    if name == "agreement":
        from aid_robot.planning.scorers.samples import Agreement

        return Agreement()
    if name == "words":
        from aid_robot.planning.scorers.words import Words

        return Words()
    if name == "plausibility":
        from aid_robot.planning.scorers.samples import Plausibility

        return Plausibility()
    if name == "pic":
        from aid_robot.evaluation.metrics.lpips import LPIPS
        from aid_robot.planning.scorers.samples import Conformity

        return Conformity(LPIPS.load(device=device))
    if kind == "image" and detail in ("latent", "lpips", "clip"):
        from aid_robot.planning.scorers import images

        if detail == "lpips":
            return images.GoalImage(images.LpipsDistance(device=device))
        parts = _parts(model, device)
        if detail == "latent":
            return images.GoalImage(images.LatentDistance(parts.vae))
        return images.GoalImage(images.ClipImageDistance(parts.image_encoder))
    if kind == "text" and detail:
        from aid_robot.planning.scorers.text import GoalText

        return GoalText.from_pretrained(detail, device)
    if kind == "judge" and "#" in detail:
        from aid_robot.planning.scorers.judge import VLMJudge

        url, _, served = detail.rpartition("#")
        return VLMJudge(url, served)
    close = get_close_matches(name, SCORERS, n=1, cutoff=0.4)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    raise ConfigError(
        f"no scorer '{name}'{hint}; expected some of {', '.join(SCORERS)}, text:FOLDER-OR-ID and "
        "judge:URL#MODEL, joined by '+'"
    )


def _parts(model: str | os.PathLike[str] | VideoForesight, device: str) -> AIDModel:
    if not isinstance(model, str | os.PathLike):
        return model.model
    from aid_robot.foresight import VideoForesight

    return VideoForesight.from_pretrained(model, device=device).model
