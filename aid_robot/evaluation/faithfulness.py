"""Does a predictor follow its instruction? Counterfactuals from the same frames and noise.

Each clip is predicted again under another wording of its instruction, under an instruction that
means something else, and under none. A predictor that follows instructions changes little under the
first and gets worse under the others. The stricter question is retrieval: of the predictions under
the K instructions that share a start, is the one under the true instruction nearest to what truly
happened? By chance it is in 1 of K; a predictor that ignores text gives equal predictions, and a
tie among n counts as 1 of n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aid_robot.data.store.split import hashed
from aid_robot.evaluation.clips import ClipAt

TRUE = "true"
PARAPHRASE = "paraphrase"
SHUFFLED = "shuffled"
EMPTY = "empty"
# The truth, sent through the predictor's own autoencoder: about the best that it could reach.
RECONSTRUCTION = "reconstruction"
COUNTERFACTUALS = (PARAPHRASE, SHUFFLED, EMPTY)

# Names of figures; the first two are shares of clips, with chance beside them.
RETRIEVAL = "retrieval"
PREFERRED = "true over shuffled"


@dataclass(frozen=True)
class Question:
    """What a predictor is asked of a clip beside its frames and noise."""

    instruction: str
    # s_t; None for the predictor's own. At 0 no text is read.
    text_guidance_scale: float | None = None


NO_TEXT = Question("", 0.0)


def questions(
    clip: ClipAt, *, counterfactuals: bool, scales: Sequence[float] = ()
) -> dict[str, Question]:
    """Name the conditions that a clip is predicted under; those it has no text for are missing.

    Args:
        clip: With its own instruction and others.
        counterfactuals: Whether to ask more than the true instruction.
        scales: Values of s_t at which the true instruction is asked, too.
    """
    asked = {TRUE: Question(clip.instruction)}
    if not counterfactuals:
        return asked
    if clip.paraphrase:
        asked[PARAPHRASE] = Question(clip.paraphrase)
    if clip.other:
        asked[SHUFFLED] = Question(clip.other)
    asked[EMPTY] = NO_TEXT
    for scale in scales:
        asked[scale_name(scale)] = Question(clip.instruction, scale) if scale else NO_TEXT
    return asked


def scale_name(scale: float) -> str:
    """Name the condition of a text guidance scale."""
    return f"s_t={scale:g}"


def rivals(clip: ClipAt, task: Sequence[ClipAt]) -> list[str]:
    """List the different instructions of a clip's group, its own first."""
    texts = [clip.instruction, *(other.instruction for other in task if other.group == clip.group)]
    return list(dict.fromkeys(texts))


def noise_seed(clip: ClipAt, seed: int) -> int:
    """Draw the seed of a clip's noise: one for all conditions, predictors and clips of a group."""
    return int(hashed(f"noise {clip.group}", seed) * 2**31)


def credit(distances: npt.ArrayLike) -> float:
    """Say whether the first of some distances is the smallest; a tie of n counts 1 / n."""
    values = np.asarray(distances, np.float64)
    nearest = values == values.min()
    return float(nearest[0] / nearest.sum())


def pixel_distance(predicted: npt.NDArray[np.uint8], true: npt.NDArray[np.uint8]) -> float:
    """Mean squared difference of predicted samples (B, F, H, W, 3) from the truth (F, H, W, 3)."""
    # Whole numbers, so that equal predictions tie exactly.
    error = predicted.astype(np.int64) - true.astype(np.int64)
    return float((error * error).mean())
