"""What came of plans that were carried out, as `DecisionRecorder` leaves it in a store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aid_robot.errors import DataFormatError
from aid_robot.planning.calibration import Calibration, Method
from aid_robot.planning.choose import aggregate

FloatArray: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class CarriedOut:
    """A plan that was carried out to its end."""

    scorer: str
    # Aggregated over samples, before any calibration.
    score: float
    # Whether the goal was reached at the end.
    success: bool
    # Who imagined, and the weight of the samples' spread in the score.
    model: str = ""
    penalty: float = 0.0


def read_carried_out(infos: Iterable[tuple[str, Mapping[str, Any]]]) -> list[CarriedOut]:
    """Read recorded decisions whose outcome is known.

    Args:
        infos: Ids and `info` of episodes; those without a decision, or of whose outcome nobody
            knows, as where the plan was cut short, are left out.

    Raises:
        DataFormatError: A decision is not as `DecisionRecorder` writes it.
    """
    found = []
    for name, info in infos:
        decision = info.get("decision")
        if decision is None:
            continue
        try:
            if decision["success"] is None:
                continue
            plan = decision["plans"][int(decision["carried_out"])]
            samples = np.asarray(plan["sample_scores"], np.float64).reshape(1, -1)
            penalty = float(decision["penalty"])
            found.append(
                CarriedOut(
                    scorer=str(decision["scorer"]),
                    score=float(aggregate(samples, penalty)[0]),
                    success=bool(decision["success"]),
                    model=str(decision.get("model_id", "")),
                    penalty=penalty,
                )
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataFormatError(
                f"episode '{name}' has a decision in another form ({error!r}); expected what "
                "DecisionRecorder writes: leave it out, or record it anew"
            ) from error
    return found


def cross_fitted(
    scores: ArrayLike, succeeded: ArrayLike, *, method: Method | None = None, folds: int = 5
) -> FloatArray:
    """Return each plan's success rate by a calibration that was fitted without it, (n,).

    Neighbours are in one fold, since plans of one episode of the environment follow each other.

    Raises:
        ScoreError: See `Calibration.fit`; without one fold too little is left.
    """
    found, outcomes = np.asarray(scores, np.float64), np.asarray(succeeded, bool)
    rates = np.empty(len(found))
    for rows in np.array_split(np.arange(len(found)), folds):
        others = np.ones(len(found), bool)
        others[rows] = False
        rates[rows] = Calibration.fit(found[others], outcomes[others], method=method)(found[rows])
    return rates
