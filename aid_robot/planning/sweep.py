"""What more candidates and more samples bring: a good scorer gains by them, a bad one is exploited.

With many candidates, the best score is ever more often that of a plan which looks good by mistake.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aid_robot.errors import ScoreError
from aid_robot.planning.charts import GREY, Curve, draw_rates
from aid_robot.planning.choose import aggregate

FloatArray: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Sweep:
    """Rates of success by number of candidates, over random subsets of each decision's plans."""

    candidates: tuple[int, ...]
    # Number of samples -> rate for each number of candidates.
    chosen: dict[int, tuple[float, ...]]
    # Of the best plan there is among them, and of a random one.
    oracle: tuple[float, ...]
    random: tuple[float, ...]

    def draw(self, title: str = "Success against the number of candidates") -> Image.Image:
        """Draw the sweep."""
        x = list(self.candidates)
        lines = [
            Curve(f"planner, {count} sample{'s' * (count > 1)}", x, rates)
            for count, rates in self.chosen.items()
        ]
        return draw_rates(
            [
                *lines,
                Curve("oracle", x, self.oracle, color=(40, 40, 40), dashed=True),
                Curve("random", x, self.random, color=GREY, dashed=True),
            ],
            title=title,
            x_label="candidates",
            y_label="rate of success of the chosen plan",
            ticks=x,
        )


def sweep(
    scores: Sequence[FloatArray],
    reached: Sequence[NDArray[np.bool_]],
    *,
    samples: Sequence[int] | None = None,
    penalty: float = 0.5,
    draws: int = 50,
    seed: int = 0,
) -> Sweep:
    """Let a scorer choose among random subsets of the candidates that it scored.

    Numbers of candidates are compared on the same decisions: where these differ in how many they
    have, up to the smallest.

    Args:
        scores: Of each decision, (plans, samples).
        reached: Whether each plan reached the goal when it was carried out, (plans,).
        samples: Numbers of samples to compare; None takes 1 and all.
        penalty: On the spread over samples, see `aggregate`.
        draws: Subsets of each size for each decision.
        seed: Of the subsets.
    """
    if not scores or len(scores) != len(reached):
        raise ScoreError(f"{len(scores)} decisions were scored and {len(reached)} carried out")
    for given, came in zip(scores, reached, strict=True):
        if given.ndim != 2 or came.shape != given.shape[:1]:
            raise ScoreError(
                f"a decision has scores {given.shape} and outcomes {came.shape}; expected (plans, "
                "samples) and (plans,)"
            )
    most = min(given.shape[1] for given in scores)
    counts = sorted({1, most} if samples is None else {n for n in samples if n <= most})
    sizes = tuple(range(1, min(len(given) for given in scores) + 1))
    rng = np.random.default_rng(seed)
    rates = {count: np.zeros((len(sizes), 2)) for count in counts}
    oracle, chance = np.zeros((len(sizes), 2)), np.zeros((len(sizes), 2))
    for given, came in zip(scores, reached, strict=True):
        for place, size in enumerate(sizes):
            for _ in range(draws):
                subset = rng.permutation(len(given))[:size]
                drawn = rng.permutation(given.shape[1])
                for count in counts:
                    some = aggregate(given[subset][:, drawn[:count]], penalty)
                    rates[count][place] += came[subset[int(np.argmax(some))]], 1
                oracle[place] += came[subset].any(), 1
                chance[place] += came[subset].mean(), 1

    def means(sums: FloatArray) -> tuple[float, ...]:
        return tuple((sums[:, 0] / sums[:, 1]).tolist())

    return Sweep(
        sizes, {count: means(rates[count]) for count in counts}, means(oracle), means(chance)
    )
